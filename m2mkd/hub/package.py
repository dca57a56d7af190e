"""A finished student as a folder of the hub's layout: weights, configuration, and a card with what was measured."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from m2mkd import __version__
from m2mkd.config import load
from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import publish, sha256, write_json, write_text
from m2mkd.hub.layout import CARD, HUB_CONFIG, hub_config
from m2mkd.models.weights import checked_weights
from m2mkd.results.crate.people import read_citation
from m2mkd.results.tables.layout import markdown_cell
from m2mkd.study.measurements import Measurement
from m2mkd.study.phase import METRICS, RECORD, WEIGHTS, phase_from
from m2mkd.study.phases import Evaluate, TrainStudent
from m2mkd.study.record import read_run_json


def write_package(run: Path, folder: Path, repo_id: str) -> None:
    """Write a student in the hub's layout.

    Parameters
    ----------
    run
        Folder of a finished run of ``train_student``. Its measurements are those of the run next to it that evaluated it.
    folder
        Folder for the files; others in it stay.
    repo_id
        Name of the repository, for the card.

    Raises
    ------
    InputError
        If the run is not a finished student, or a file is damaged.
    """
    weights = checked_weights(run)
    record = read_run_json(run)
    config = _config(record, run)
    if not isinstance(config, TrainStudent):
        raise InputError(f"{run}: is a run of {config.name()}, not a student; give a run of train_student")
    metrics, measured = _evaluated(run)
    digest, run_id = str(record["outputs"][WEIGHTS]), str(record["id"])
    folder.mkdir(parents=True, exist_ok=True)
    publish(weights, folder / WEIGHTS)
    write_json(folder / HUB_CONFIG, hub_config(config, run_id, digest, metrics))
    write_text(folder / CARD, _card(config, run_id, digest, measured, repo_id))


def _config(record: Any, folder: Path) -> Any:
    try:
        return phase_from(record["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RECORD}: not a record of this version ({type(error).__name__}); train the student again") from None


def _evaluated(run: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """Accuracies of the run that evaluated a student, and all its measurements; none if there is no such run."""
    student = f"{run.parent.name}/{run.name}"
    for path in sorted(run.parents[1].glob(f"{Evaluate.name()}/*/{RECORD}")):
        record = read_run_json(path.parent)
        if record["upstream"].get("student") != [student]:
            continue
        file = path.with_name(METRICS)
        if sha256(file) != record["outputs"][METRICS]:
            raise InputError(f"{file}: differs from what the run recorded; remove {path.parent} and run the workflow again")
        metrics = parse_json(file.read_bytes(), str(file))
        measured = list(_config(record, path.parent).measurements(metrics))
        return {name: metrics[name] for name in ("top1", "top5", "loss", "count")}, measured
    return {}, []


def _card(config: TrainStudent, run: str, digest: str, measured: Iterable[Measurement], repo_id: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    citation, shown = read_citation(), list(measured)
    front = ModelCardData(
        model_name=repo_id.rpartition("/")[2],
        license=citation.licence.lower(),
        library_name="m2mkd",
        tags=["image-classification", *citation.keywords],
        datasets=[config.data.name],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=one.data.replace("@", "-"),
                dataset_name=one.data,
                metric_type="accuracy",
                metric_name=f"top-1, {one.split}",
                metric_value=round(one.value, 6),
            )
            for one in shown
            if one.metric == "top1" and not one.rendition
        ]
        or None,
        ignore_metadata_errors=False,
    )
    text = resources.files("m2mkd.hub").joinpath("card.md.j2").read_text()
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = markdown_cell
    return environment.from_string(text).render(
        front=front.to_yaml(),
        config=config,
        run=run,
        sha256=digest,
        version=__version__,
        repo_id=repo_id,
        measured=shown,
        dataset=load.datasets()[config.data.name],
        citation=citation,
    )
