"""The forest plot in words: difference, interval and verdict of every claim that a study judged."""

import json
from pathlib import Path

from m2mkd.config.strict import PARSERS_ERRORS
from m2mkd.results.report.contrasts import NOT_RUN, Contrast, contrasts
from m2mkd.study.labels import family_label
from m2mkd.study.study import Study

CLAIMS_HEADING = "Claims: difference in points, 95 % interval for all claims at once, verdict"


def findings(study: Study) -> list[tuple[str, str, str]]:
    """Every judged claim of a study: what is compared, difference and interval, verdict.

    Parameters
    ----------
    study
        Its tables are compiled; without a readable verdict board nothing is found.
    """
    try:
        records = json.loads(Path(study.pages, "tables/claims.json").read_text())
        judged = [one for one in contrasts(records, study.scale_name) if one.word != NOT_RUN]
    except (OSError, *PARSERS_ERRORS):
        return []
    return [(f"{family_label(one.family)}: {_label(one)}", one.numbers, one.word) for one in judged]


def _label(one: Contrast) -> str:
    """What is compared; a claim that is not about arms in its own words."""
    return one.label if one.arms else one.claim


def aligned(rows: list[tuple[str, str, str]]) -> list[str]:
    """Findings as lines with columns one below the other."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"  {what:{widths[0]}}  {numbers:{widths[1]}}  {word}" for what, numbers, word in rows]
