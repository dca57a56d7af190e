"""Learning curves as wide CSV, for plots that take one column a line, as those of DVC do."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

COLUMNS = ("val_top1", "cross_entropy")
"""Of the learning curves, each of which every student has."""


def mean_curves(curves: pd.DataFrame, ablations: Iterable[str], profiles: int) -> pd.DataFrame:
    """Mean over seeds of every student's training, a line an epoch: for plots that take one column a line.

    Parameters
    ----------
    curves
        See `m2mkd.results.read.collect.Collected.curves`.
    ablations
        Names of experiments to leave out.
    profiles
        Number of profiles; with several, each column names its own.

    Returns
    -------
    pd.DataFrame
        ``epoch``, then ``val_top1 experiment/variant`` and ``cross_entropy experiment/variant`` of each; empty where a student
        was not measured or has no such epoch.
    """
    students = curves[(curves["phase"] == "train_student") & ~curves["experiment"].isin(list(ablations))]
    row: Any = students["experiment"] + "/" + students["variant"]
    named = students.assign(
        row=row if profiles == 1 else row + " " + students["profile"], cross_entropy=students["cross_entropy"].fillna(students["loss"])
    )
    order = list(dict.fromkeys(named["row"]))
    parts = [
        named.pivot_table(column, "epoch", "row", dropna=False).reindex(columns=order).add_prefix(f"{column} ")
        for column in COLUMNS
    ]
    return pd.concat(parts, axis=1).rename_axis(index="epoch", columns=None).reset_index()
