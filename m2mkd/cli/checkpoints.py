"""Third-party checkpoints: ``m2mkd import`` and ``m2mkd evaluate``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2mkd.cli.options import DeviceOption
from m2mkd.upstream.kinds import KINDS

app = typer.Typer()

KindOption = Annotated[str | None, typer.Option("--kind", help=f"One of {', '.join(KINDS)}.", show_default=False)]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML or JSON: the released configuration, or constructor arguments.", show_default=False)
]
EmaOption = Annotated[bool, typer.Option("--ema", help="Use the moving average of the weights, if the file has one.")]


@app.command("import")
def import_(
    file: Path,
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the imported weights, as safetensors.")],
    kind: KindOption = None,
    config: ConfigOption = None,
    ema: EmaOption = False,
) -> None:
    """Convert a released checkpoint to this suite's names, and check every tensor."""
    from m2mkd.errors import InputError
    from m2mkd.upstream.imported import open_released, write_imported

    if kind is None:
        raise InputError(f"--kind is missing; give one of {', '.join(KINDS)}")
    imported = open_released(file, kind, _read(config), _name(config), ema=ema, say=_say)
    write_imported(imported, output)
    typer.echo(f"{output}: {kind}, {len(imported.state())} tensors, source sha256 {imported.source_sha256}")


@app.command()
def evaluate(
    file: Path,
    data: Annotated[str, typer.Option("--data", help="Prepared set at an image size, written name@size.")],
    kind: KindOption = None,
    config: ConfigOption = None,
    ema: EmaOption = False,
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    classes_from: Annotated[
        str | None,
        typer.Option(
            help="Names of the network's classes if they differ from the set's: a prepared set, or a file with one name per line."
        ),
    ] = None,
    eval_draws: Annotated[
        int,
        typer.Option(help="Noisy passes of a NAC, as in the released evaluation; adds their mean and 95 % interval.", min=0),
    ] = 0,
) -> None:
    """Measure a network (released, imported or of a run) on a prepared set; print its accuracy or average precision as JSON."""
    from m2mkd.study.data import resolve_data
    from m2mkd.training.device import choose_device, prepare_torch
    from m2mkd.training.store import PUBLISHED_FILES
    from m2mkd.upstream.imported import open_weights
    from m2mkd.upstream.measure import measure_imported

    imported = open_weights(file, kind, _read(config), _name(config), ema=ema, say=_say)
    pack = PUBLISHED_FILES.pack(resolve_data(data, "--data")[0])
    names = None if classes_from is None else _class_names(classes_from)
    prepare_torch(threads)
    if imported.kind == "vmoe_detector":
        from m2mkd.training.phases.detecting import measure_detector

        result = measure_detector(imported.build(), pack, choose_device(device))  # type: ignore[arg-type]
    else:
        result = measure_imported(imported, pack, choose_device(device), names, eval_draws)
    if eval_draws:
        result["draws"] = _summarised(result["draws"])
    known = {"file": str(file), "kind": imported.kind, "source": imported.source, "source_sha256": imported.source_sha256, "data": data}
    typer.echo(json.dumps(known | result, indent=1))


def _say(news: str) -> None:
    typer.echo(f"m2mkd: {news}", err=True)


def _read(config: Path | None) -> dict[str, Any]:
    from m2mkd.config.load import read_yaml
    from m2mkd.config.strict import parse_json
    from m2mkd.upstream.foreign import read_text

    if config is None:
        return {}
    text = read_text(config)  # refuses a path that is not a file
    return parse_json(text, str(config)) if config.suffix == ".json" else read_yaml(config, ours=False)


def _name(config: Path | None) -> str:
    return "--config" if config is None else str(config)


def _class_names(source: str) -> tuple[str, ...]:
    from m2mkd.study.data import resolve_data
    from m2mkd.training.store import PUBLISHED_FILES
    from m2mkd.upstream.foreign import read_text

    if Path(source).exists():
        return tuple(line.strip() for line in read_text(Path(source)).splitlines() if line.strip())
    return PUBLISHED_FILES.pack(resolve_data(source, "--classes-from")[0]).classes


def _summarised(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Number of draws, and for each measure its values, mean and 95 % interval by Student's t (none for a single draw)."""
    from m2mkd.statistics import mean, t_interval

    summary: dict[str, Any] = {"count": len(draws)}
    for measure in ("top1", "top5", "loss"):
        values = [draw[measure] for draw in draws]
        interval = t_interval(values)
        bounds = None if interval is None else [interval.low, interval.high]
        summary[measure] = {"mean": mean(values), "interval95": bounds, "values": values}
    return summary
