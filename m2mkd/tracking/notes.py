"""Descriptions that MLflow shows with experiments and runs. They tell what was computed at the scale, not what it stands in for."""

from collections.abc import Iterable, Mapping

from m2mkd.config.load import datasets
from m2mkd.results.tables.layout import percent_with_interval
from m2mkd.study.data import Data
from m2mkd.study.run import RowName, Run
from m2mkd.study.study import Study

ACCURACY_TAGS = {
    "iid_top1": "IID top-1",
    "ood_top1": "OOD top-1",
    "fewshot_top1": "few-shot top-1",
    "detection_boxes_AP": "box AP",
    "detection_masks_AP": "mask AP",
}
"""Accuracies that rows show as text, and the tags that hold it; the metrics hold the exact numbers."""


def experiment_note(study: Study) -> str:
    """Description of a scale: its title, and the data sets of a study's runs."""
    sets = {str(data): data for run in study.runs.values() for data in run.config.data_sets}
    lines = [f"**{study.scale.title}** (scale `{study.scale_name}`).", "", "Data:", ""]
    lines += [f"- {data_title(sets[name])}" for name in sorted(sets)]
    if study.scale.data or study.scale.models:
        lines += ["", "Experiments and models have the names of the published ones; data and sizes are those of this scale."]
    lines += [
        "",
        "Runs with the tag `level` = `row` are the rows of the study's tables: means and 95 % intervals over seeds. "
        "The runs of each row are below it.",
    ]
    return "\n".join(lines)


def data_title(data: Data) -> str:
    """A prepared set with the title that the registry gives it."""
    known = datasets().get(data.name)
    return f"{data}: {known.title}" if known else str(data)


def row_note(study: Study, row_name: RowName, label: str, seeds: int, accuracies: Mapping[str, float], data: Iterable[Data]) -> str:
    """Description of a row of the tables."""
    over = f"mean over {seeds} seeds" if seeds > 1 else "one run"
    numbers = [f"{tag} {text}" for tag, text in accuracy_texts(accuracies).items()]
    return "\n\n".join(
        [
            f"**{label}**, {over}. {study.scale.title} (scale `{study.scale_name}`).",
            *([f"{', '.join(numbers)}{' (95 % interval over seeds)' if seeds > 1 else ''}."] if numbers else []),
            f"Data: {'; '.join(dict.fromkeys(map(data_title, data))) or 'none'}.",
            f"Row `{row_name}` of the tables.",
        ]
    )


def study_note(study: Study, runs: int) -> str:
    """Description of the run that holds a study's tables."""
    return f"Tables of study `{study.key}`, compiled from {runs} runs. {study.scale.title} (scale `{study.scale_name}`)."


def run_note(study: Study, run: Run, label: str) -> str:
    """Description of a run of the workflow."""
    data = "; ".join(map(data_title, run.config.data_sets)) or "none"
    return f"**{label}**: phase `{run.phase}`. {study.scale.title} (scale `{study.scale_name}`).\n\nData: {data}."


def accuracy_texts(accuracies: Mapping[str, float]) -> dict[str, str]:
    """Accuracies in percent as the tables show them, such as ``75.30 ± 4.53 %``, by tag."""
    found = {}
    for name, tag in ACCURACY_TAGS.items():
        if name in accuracies:
            low = accuracies.get(f"{name}_low")
            half_width = None if low is None else accuracies[name] - low
            found[tag] = f"{percent_with_interval(accuracies[name], half_width)} %"
    return found
