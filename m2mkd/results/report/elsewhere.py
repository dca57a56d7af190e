"""Claims that a study does not judge: their sentences, the cost of judging them, and the smoke check of their runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from m2mkd.results.judge.board import Finding
from m2mkd.results.judge.results import Results
from m2mkd.results.tables.accuracies import PAPER_SCALE
from m2mkd.results.tables.claims_table import claim_anchor
from m2mkd.study.labels import enumerated

MOST_DIFFERENCES = 3
"""Most words in which sentences that are merged may differ."""


@dataclass(frozen=True)
class Group:
    """Claims with the same statement about different things."""

    text: str
    """Merged sentence."""
    source: str
    cost: str
    """Cost of judging them, in words."""
    anchors: tuple[str, ...]


def elsewhere(findings: Sequence[Finding], scale: str) -> dict[str, list[Group]]:
    """Claims that are judged at other scales, by scale, with similar statements merged."""
    groups: dict[str, dict[tuple[str, ...], list[Finding]]] = {}
    for finding in findings:
        claim = finding.claim
        if claim.scale != scale:
            alike = (claim.source, claim.metric, claim.comparison, str(len(claim.claim.split())))
            groups.setdefault(claim.scale, {}).setdefault(alike, []).append(finding)
    return {name: [group for alike in found.values() for group in _told(alike)] for name, found in groups.items()}


def _told(alike: Sequence[Finding]) -> list[Group]:
    text = as_one([finding.claim.claim for finding in alike])
    if text is None:
        return [group for finding in alike for group in _told([finding])]
    source = f"{alike[0].claim.source} ({alike[0].claim.status})"
    return [Group(text, source, hours_of(alike), tuple(claim_anchor(finding.claim) for finding in alike))]


def as_one(sentences: Sequence[str]) -> str | None:
    """Merge sentences that differ in a few words into one with all of these words; none if they differ in more."""
    words = list(zip(*(sentence.split() for sentence in sentences), strict=False))
    if len({len(sentence.split()) for sentence in sentences}) > 1 or sum(len(set(found)) > 1 for found in words) > MOST_DIFFERENCES:
        return None
    return " ".join(_alternatives(found) for found in words)


def _alternatives(found: Sequence[str]) -> str:
    """Join words with slashes, and keep their common punctuation once."""
    if len(set(found)) == 1:
        return found[0]
    end = found[0][-1] if found[0][-1] in ",.;:)" and all(word.endswith(found[0][-1]) for word in found) else ""
    return " / ".join(word.removesuffix(end) for word in found) + end


def hours_of(findings: Sequence[Finding]) -> str:
    """GPU-hours that judging each of some claims takes, in words."""
    hours = [finding.cost for finding in findings if finding.cost is not None]
    if not hours:
        return ""
    low, high = (f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in (min(hours), max(hours)))
    return f"{low if low == high else f'{low} to {high}'} GPU-hours"


def about_the_paper(results: Results) -> list[str]:
    """Statements of a study about the paper; at a reduced scale there are none."""
    claims = [finding for finding in results.findings if finding.claim.subject == "paper"]
    known, wanted = published_known(results)
    published = f"Of the {wanted} published accuracies that correspond to this study's rows, {known} are known here."
    if results.study.scale_name == PAPER_SCALE:
        return ["Models, data and schedules are those of the paper.", *([published] if wanted else [])]
    numbers = sum(finding.claim.size is not None for finding in claims)
    hours = sum(finding.cost or 0.0 for finding in claims)
    return [
        f"Nothing: models, data and schedules are reduced; this page judges nothing about the paper and none of its {len(claims)} claims.",
        f"Judging one of them takes {hours_of(claims)} of an H200 at 40 % of its peak; all take at most {hours:,.0f}, and fewer where "
        "they share runs.",
        f"{numbers} of the claims carry a published number (below)." + (f" {published}" if wanted else ""),
    ]


def published_known(results: Results) -> tuple[int, int]:
    """Number of known published accuracies that correspond to a study's rows, and their total number."""
    wanted = [(row.experiment, row.variant, split) for row in results.study.rows for split in ("iid", "ood", "fewshot")]
    cells = [cell for number in wanted if (cell := results.published.find(*number))]
    return sum(cell.value is not None for cell in cells), len(cells)


def workflow_check(findings: Sequence[Finding]) -> list[str]:
    """Smoke check of the runs behind claims of the paper at a reduced scale, in sentences without published numbers."""
    claims = [finding for finding in findings if finding.claim.subject == "paper"]
    words = Counter(finding.verdict.word for finding in claims)
    if not words["smoke-pass"] + words["smoke-fail"]:
        return []
    counted = enumerated([f"{words[word]} {word}" for word in ("smoke-pass", "smoke-fail", "not run") if words[word]])
    lines = [
        f"In addition, the runs behind the claims of the paper are checked at this scale: {counted}. Passing means that every run exists, "
        "matches its digest and is above chance, and nothing else."
    ]
    failed = dict.fromkeys(finding.why for finding in claims if finding.verdict.word == "smoke-fail")
    return [*lines, *failed]
