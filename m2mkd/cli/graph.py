"""``m2mkd graph``: graphs of a NAC's mediators."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from m2mkd.cli.options import ScaleOption, SetOption, read_settings, read_study

app = typer.Typer(no_args_is_help=True, help="Inspect the graphs of a NAC's mediators.")


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="Experiment, or weights: a .safetensors file, or a run as train_student/KEY.")],
    scale: ScaleOption = None,
    overrides: SetOption = None,
    profile: Annotated[
        Literal["released", "corrected"] | None,
        typer.Option(help="Compat profile by which an experiment fits its signatures; default: the scale's."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of an experiment.", min=0)] = 0,
    cut: Annotated[
        float, typer.Option(help="Distance above which the kernel cuts an edge, for a file without run.json.", min=0, max=2)
    ] = 0.9,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Draw the graphs into this file, .png or .svg.")] = None,
) -> None:
    """Compare the graph of fitted signatures with the graph that they were fitted to."""
    from m2mkd.errors import InputError

    if output is not None and output.suffix not in (".png", ".svg"):
        raise InputError(f"--output {output}: the ending is neither .png nor .svg; use one of these")
    weights = _weights(what, scale)
    if weights is None:
        title, comparison = _of_experiment(what, scale, overrides, profile, seed)
    else:
        title, comparison = str(weights), _of_weights(weights, cut)
    _print(title, comparison)
    if output is not None:
        from functools import partial

        from m2mkd.files import write_atomically
        from m2mkd.results.report.graph_figures import comparison_figure
        from m2mkd.results.report.svg import write_figure

        write_atomically(output, partial(write_figure, comparison_figure(comparison, title), output.suffix.removeprefix(".")))


def _weights(what: str, scale: str | None) -> Path | None:
    """File of weights that is meant; none if it is an experiment."""
    from m2mkd.errors import InputError
    from m2mkd.study.phase import WEIGHTS

    if not what.endswith(".safetensors") and "/" not in what:
        return None
    runs = Path("results", scale or read_settings(None, None, None).scale, "runs")
    for path in (Path(what), runs / what, runs.parent / what):
        found = path / WEIGHTS if path.is_dir() else path
        if found.is_file():
            return found
    raise InputError(f"{what}: neither a file nor a folder with {WEIGHTS}, here or in {runs}; 'm2mkd runs list' shows the runs")


def _of_experiment(name: str, scale: str | None, overrides: list[str] | None, profile: str | None, seed: int) -> tuple[str, Any]:
    from m2mkd.config.models import NACConfig
    from m2mkd.errors import InputError
    from m2mkd.evaluation.graph import fitted_graph, graph_seed
    from m2mkd.families.nac import graph_fit_cut
    from m2mkd.study.phases import TrainStudent

    changes = [*(overrides or []), *([f"profiles=[{profile}]"] if profile else [])]
    study = read_study(scale, [name], changes)
    row = study.rows[0]
    config = study.runs[row.trained[0]].config
    if not isinstance(config, TrainStudent) or not isinstance(config.student, NACConfig) or config.prior is None:
        raise InputError(f"experiment {name}: does not train a NAC, so it has no graph; name one of the nac_ experiments")
    comparison = fitted_graph(config.student, config.prior, graph_seed(config.prior, seed), graph_fit_cut(config.compat))
    return f"{name} at scale {study.scale_name}, {row.profile}, seed {seed}", comparison


def _of_weights(path: Path, cut: float) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from m2mkd.errors import InputError
    from m2mkd.evaluation.graph import MEDIATORS, trained_graph
    from m2mkd.study.phase import RECORD

    intended, record = None, path.with_name(RECORD)
    try:
        weights = load_file(path)
        if record.is_file():
            cut, intended = _started_from(record, weights[MEDIATORS].shape[:1].numel() if MEDIATORS in weights else 0)
        return trained_graph(weights, cut, intended)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}); give the weights of a NAC") from None


def _started_from(record: Path, nodes: int) -> tuple[float, Any]:
    """Cut and initial graph of the run with this record, whose weights have that many mediators."""
    from m2mkd.config.strict import PARSERS_ERRORS, parse_json
    from m2mkd.errors import InputError
    from m2mkd.evaluation.graph import intended_of_run

    content = parse_json(record.read_bytes(), record.name)
    try:
        config = content["config"]
        # Compared before the graph is made, because a record of others may name any number.
        if config.get("student", {}).get("latents", {}).get("mediator", nodes) != nodes:
            raise InputError(f"{record.name}: is of another number of mediators than the weights; move it away to see the weights alone")
        return intended_of_run(config, int(content["seed"] or 0))
    except PARSERS_ERRORS as error:
        raise InputError(
            f"{record.name}: not a run's record ({type(error).__name__}: {error}); move it away to see the weights alone"
        ) from None


def _print(title: str, comparison: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    intended = comparison.intended
    graphs = [graph for graph in (intended, *comparison.realised) if graph is not None]
    table = Table("", *(graph.title for graph in graphs))
    rows: dict[str, list[str]] = {
        "nodes": [str(len(graph.links)) for graph in graphs],
        "edges": [str(graph.links.sum().item() // 2) for graph in graphs],
        "density": [f"{graph.density:.4f}" for graph in graphs],
        "degree: mean": [f"{graph.degrees.mean().item():.2f}" for graph in graphs],
        "  standard deviation": [f"{graph.degrees.std(correction=0).item():.2f}" for graph in graphs],
        "  least and most": [f"{graph.degrees.min().item():.0f} to {graph.degrees.max().item():.0f}" for graph in graphs],
        "  5, 25, 50, 75, 95 %": [" ".join(f"{value:.0f}" for value in graph.quantiles) for graph in graphs],
        "clustering": [f"{graph.clustering:.3f}" for graph in graphs],
    }
    if intended is not None:
        rows["precision"] = ["" if graph is intended else f"{graph.precision(intended):.3f}" for graph in graphs]
        rows["recall"] = ["" if graph is intended else f"{graph.recall(intended):.3f}" for graph in graphs]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = Console(markup=False, emoji=False)
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"input to mediator: density {comparison.input_density:.4f}")
    if comparison.kernels:
        kernels = Table("propagator", "bandwidth", "mean kernel of an edge", "expected neighbours of a mediator, edges sampled")
        for index, kernel in enumerate(comparison.kernels):
            kernels.add_row(str(index), f"{kernel.bandwidth:.4f}", f"{kernel.weight:.4f}", f"{kernel.sampled_degree:.2f}")
        console.print(kernels)
