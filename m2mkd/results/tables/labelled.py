"""Labelled images that each arm has seen, in every phase."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import ROW
from m2mkd.results.tables.layout import Column, Linked, Table, column, table_of
from m2mkd.study.labelled import describe, label_sets, labelled_by_row, unlike_first
from m2mkd.study.lineage import anchor_of
from m2mkd.study.run import Row

LEARNERS = ("teacher", "modules", "student")


def labelled_table(collected: Collected, rows: Sequence[Row]) -> Table:
    """Table with a line for each arm: its labelled images, and how often each phase saw them; unequal arms of an experiment are marked."""
    study = collected.study
    lines = []
    for row, unlike in zip(rows, unlike_first(study, rows), strict=True):
        labelled = labelled_by_row(study, row)
        sets = label_sets(labelled)
        line: dict[str, Any] = row.name._asdict() | {"seen": describe(sets)}
        line["images"] = _total([one.images for one in {one.data: one for one in sorted(labelled, key=lambda one: one.share)}.values()])
        for learner in LEARNERS:
            line[f"{learner}_views"] = _total([one.views for one in labelled if one.learner == learner])
        lines.append(line | {"arms": "unequal" if unlike else "equal"})
    counts = ["images", *(f"{learner}_views" for learner in LEARNERS)]
    frame = pd.DataFrame(lines, columns=[*ROW, "seen", *counts, "arms"]).astype(dict.fromkeys(counts, "Int64"))
    shown: dict[str, Column] = {name: column(name) for name in ROW}
    shown |= {"labelled images": _number("images"), "which": column("seen")}
    shown |= {f"images x epochs, {learner}": _number(f"{learner}_views") for learner in LEARNERS}
    shown["arms"] = column("arms")
    caption = (
        "Labelled images that one seed of each arm has seen in all its phases, the teacher's included, and images x epochs of each phase "
        "(modules: all of them together). Unequal: not the images that the experiment's first arm has seen."
    )
    return table_of("labelled", caption, frame, [*ROW, "seen", *counts, "arms"], shown)


def _total(counts: Sequence[int | None]) -> int | None:
    return None if any(count is None for count in counts) else sum(count for count in counts if count is not None)


def _number(name: str) -> Column:
    """A count with separators, which leads to the runs behind it."""

    def text(line: Any) -> str:
        value = getattr(line, name)
        return "" if pd.isna(value) else Linked(f"{value:,}", anchor_of(line))

    return text
