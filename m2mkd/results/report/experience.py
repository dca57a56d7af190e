"""Easy and difficult parts of the reproduction, in sentences derived only from the runs and the files."""

from m2mkd.config import load
from m2mkd.results.judge.results import Results
from m2mkd.results.judge.verdicts import DECIDED
from m2mkd.results.read.collect import Collected


def what_was_easy(collected: Collected) -> list[str]:
    """Work that the workflow did."""
    study = collected.study
    wanted = sum(run.config.measures() for run in study.runs.values())
    hours = sum(float(record.provenance["seconds"]) for record in collected.records) / 3600
    shared = sum(len({row.experiment for row in rows}) > 1 for rows in collected.served.values())
    return [
        f"One command computes the whole study; {len(collected.records)} of {wanted} measurements are complete and match their digests.",
        f"They took {hours:.2f} hours of wall time in total, one after the other.",
        f"{shared} of {len(study.runs)} runs serve more than one experiment and were computed once.",
    ]


def what_was_difficult(results: Results) -> list[str]:
    """Obstacles to judging results, and decisions that had to be made."""
    study, findings = results.study, results.findings
    wanted = [(row.experiment, row.variant, split) for row in study.rows for split in ("iid", "ood", "fewshot")]
    cells = [cell for number in wanted if (cell := results.published.find(*number))]
    unseen = sum(cell.value is None for cell in cells)
    switches = {name for run in study.runs.values() for name in run.config.compat}
    unstated = sum(finding.claim.unit == "unstated" for finding in findings)
    lines = [
        f"Of {len(cells)} published accuracies that correspond to this study's, {unseen} are not known here.",
        f"The released code has {len(load.switches())} known defects that change a result; {len(switches)} of them could matter in this "
        f"study (profile {' and '.join(study.scale.profiles)}), see Switches.",
        f"{unstated} of {len(findings)} claims do not say whether they mean points or percent of the baseline; they are judged both ways.",
        f"{sum(finding.verdict.word not in DECIDED for finding in findings)} of {len(findings)} claims are not decided by these runs.",
    ]
    if results.problems:
        lines.append(f"{len(results.problems)} runs and seeds are missing or wrong, or depend on such runs.")
    return lines
