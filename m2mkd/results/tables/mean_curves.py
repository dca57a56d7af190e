"""Learning curves as wide CSV, for plots such as DVC's that take one column per line."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

COLUMNS = ("val_top1", "cross_entropy")
"""Columns of the learning curves that every student has."""


def mean_curves(curves: pd.DataFrame, ablations: Iterable[str], profiles: int) -> pd.DataFrame:
    """Mean over seeds of every student's training, a line per epoch.

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
        ``epoch``, then ``val_top1 experiment/variant`` and ``cross_entropy experiment/variant`` of each. An epoch without a
        measurement repeats the last measured value, or the first: DVC draws an empty cell as 0.
    """
    students = curves[(curves["phase"] == "train_student") & ~curves["experiment"].isin(list(ablations))]
    row: Any = students["experiment"] + "/" + students["variant"]
    # A loss with one part is logged without the part's name; it is the labels' loss.
    cross_entropy = students["cross_entropy"].fillna(students["loss"])
    named = students.assign(row=row if profiles == 1 else row + " " + students["profile"], cross_entropy=cross_entropy)
    order = list(dict.fromkeys(named["row"]))
    parts = [named.pivot_table(column, "epoch", "row").reindex(columns=order).add_prefix(f"{column} ") for column in COLUMNS]
    wide = pd.concat(parts, axis=1).sort_index().ffill().bfill()
    return wide.rename_axis(index="epoch", columns=None).reset_index()
