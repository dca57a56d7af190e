"""Final numbers by row: means and gains for ``metrics.json``, where ``dvc metrics diff`` compares them; with deviations for MLflow."""

from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import Cell
from m2mkd.results.tables.detection import AP_METRICS
from m2mkd.statistics import mean
from m2mkd.study.run import Row, RowName

SPLIT_METRICS = {**dict.fromkeys(("iid", "ood", "fewshot"), ("top1", "top5")), "detection": AP_METRICS}
"""Metrics that are measured on each kind of set."""
BASELINE = "end_to_end"
"""Variant that the gains of an experiment's other variants refer to."""

Metrics = dict[str, dict[str, dict[str, dict[str, float]]]]


def means_and_gains(collected: Collected) -> Metrics:
    """Numbers by experiment, variant and profile, as shares from 0 to 1.

    Returns
    -------
    dict
        Mean over seeds of each accuracy, such as ``iid_top1``, followed by its data set if there are several; and for each top-1 accuracy
        the mean gain over the same student end to end, paired by seed, such as ``iid_gain``.
    """
    metrics: Metrics = {}
    rows = {row.name: row for row in collected.study.rows}
    for row in collected.study.rows:
        found = metrics.setdefault(row.experiment, {}).setdefault(row.variant, {}).setdefault(row.profile, {})
        baseline = rows.get(RowName(row.experiment, BASELINE, row.profile))
        for split in SPLIT_METRICS:
            found |= {name: cell.over_seeds.mean for name, cell in _accuracies(collected, row, split).items()}
            if baseline and baseline != row:
                found |= _gains(collected, row, baseline, split)
    return metrics


def with_deviations(collected: Collected, row_name: RowName) -> dict[str, float]:
    """Mean of each accuracy of a row; for several seeds also standard deviation and 95 % interval."""
    found: dict[str, float] = {}
    for row in (row for row in collected.study.rows if row.name == row_name):
        for split in SPLIT_METRICS:
            for name, cell in _accuracies(collected, row, split).items():
                over = cell.over_seeds
                found[name] = over.mean
                if over.std is not None and over.half_width is not None:
                    found[f"{name}_std"] = over.std
                    found |= {f"{name}_low": over.mean - over.half_width, f"{name}_high": over.mean + over.half_width}
    return found


def _accuracies(collected: Collected, row: Row, split: str) -> dict[str, Cell]:
    """Accuracies of a split by name, followed by the data set if there are several."""
    found: dict[str, Cell] = {}
    for metric in SPLIT_METRICS[split]:
        cells = collected.numbers.cells(row, split, metric)
        found |= {f"{split}_{metric}" if len(cells) == 1 else f"{split}_{metric} {cell.data}": cell for cell in cells}
    return found


def _gains(collected: Collected, row: Row, baseline: Row, split: str) -> dict[str, float]:
    own, others = (collected.numbers.cells(one, split, "top1") for one in (row, baseline))
    below = {cell.data: dict(zip(cell.seeds, cell.per_seed, strict=True)) for cell in others}
    gains = {}
    for cell in own:
        control = below.get(cell.data, {})
        paired = [share - control[seed] for seed, share in zip(cell.seeds, cell.per_seed, strict=True) if seed in control]
        if paired:
            gains[f"{split}_gain" if len(own) == 1 else f"{split}_gain {cell.data}"] = mean(paired)
    return gains
