"""The verdict board as the report shows it: claims by their sentence, and conspicuous trainings."""

from collections.abc import Sequence

from m2mkd.results.judge.board import Finding
from m2mkd.results.judge.results import Results
from m2mkd.results.report.contrasts import Contrast
from m2mkd.results.report.curve_figures import curves_anchor, singled_out
from m2mkd.results.tables.claims_table import CAPTION, claim_anchor
from m2mkd.results.tables.layout import DisplayTable, Linked
from m2mkd.study.labels import variant_label
from m2mkd.study.lineage import student_of


def board_table(findings: Sequence[Finding], contrasts: Sequence[Contrast]) -> DisplayTable:
    """Table with a line for each claim that may be judged at this scale, except claims that no run here is about.

    Parameters
    ----------
    findings, contrasts
        The same board, as judged and as shown to readers.
    """
    by_id, lines = {finding.claim.id: finding for finding in findings}, []
    for one in contrasts:
        finding = by_id[one.id]
        if finding.comparisons:
            name = Linked(one.claim, claim_anchor(finding.claim))
            lines.append((name, one.word, finding.why, one.needs, str(one.seeds)))
    header = ("what is claimed", "verdict", "why", "what would decide it", "seeds")
    return DisplayTable("claims", CAPTION, header, tuple(lines)).filled()


def trainings_to_look_at(results: Results) -> list[str]:
    """Trainings that stay at chance for long or end weak, each in a few words with a link to its curve."""
    lines = []
    for run_id, why in singled_out(results).items():
        run, name = results.study.runs[run_id], results.shown_under[run_id]
        student, variant = student_of(results.study, name.experiment, name.variant)
        which = "" if run.seed is None else f", seed {run.seed}"
        if (index := getattr(run.config, "index", None)) is not None:
            which += f", module {index}"
        text = f"{student}, {variant_label(variant)}{which}: {why}"
        drawn = run.phase == "train_student" and name.experiment not in results.ablations
        lines.append(Linked(text, f"figure-{curves_anchor(student, name.profile)}") if drawn else text)
    return lines
