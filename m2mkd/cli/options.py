"""Options shared by several commands, and the study that they describe."""

from typing import Annotated, Any

import typer

from m2mkd.cli.names import complete_experiment, complete_scale

ScaleOption = Annotated[
    str | None,
    typer.Option(
        "--scale",
        help="Scale in config/scales, without config/config.yaml; default: the settings of config/config.yaml.",
        autocompletion=complete_scale,
    ),
]
ExperimentArgument = Annotated[
    str, typer.Argument(metavar="EXPERIMENT[/VARIANT]", help="Experiment, or one variant of it.", autocompletion=complete_experiment)
]
ExperimentsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[EXPERIMENT[/VARIANT]]...",
        help="Experiments, or single variants; default: the scale's study.",
        autocompletion=complete_experiment,
    ),
]
ExperimentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--experiment",
        metavar="EXPERIMENT[/VARIANT]",
        help="The study in which it is looked for; default: the scale's.",
        autocompletion=complete_experiment,
    ),
]
"""For commands whose arguments name something else."""
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override, as dotted.field=value, for example recipes.vmoe_finetune.epochs=3.")
]
PlannedOption = Annotated[
    str | None,
    typer.Option("--study", help="Key of a planned study, instead of the current configuration."),
]
AblationsOption = Annotated[bool, typer.Option("--ablations", help="Include the ablations of the scale.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto.", envvar="M2MKD_DEVICE")]


def read_settings(
    scale: str | None, experiments: list[str] | None, overrides: list[str] | None, config: str | None = None, code: str | None = None
) -> Any:
    from m2mkd.config import load
    from m2mkd.config.merge import merged
    from m2mkd.config.strict import parse_json

    changes = _with_nulls(parse_json(config, "--config")) if config is not None else {}
    if scale is not None:
        changes["scale"] = scale
    if experiments:
        changes["experiments"] = experiments
    if overrides:
        changes = merged(changes, {"overrides": load.parse_overrides(overrides)})
    if code is not None:
        changes["code"] = code
    return load.settings(changes)


def read_study(
    scale: str | None,
    experiments: list[str] | None,
    overrides: list[str] | None,
    *,
    ablations: bool = False,
    planned: str | None = None,
) -> Any:
    """Study that the options describe, or the planned one of that key."""
    from m2mkd.study import files
    from m2mkd.study.plan import build_study

    settings = read_settings(scale, experiments, overrides)
    if planned is not None:
        return files.read_study(settings.scale, planned)
    return build_study(settings, ablations=ablations)


def _with_nulls(value: Any) -> Any:
    """Configuration that Snakemake read from its command line, with its text 'null' turned into none."""
    if isinstance(value, dict):
        return {name: _with_nulls(item) for name, item in value.items()}
    return None if value == "null" else value
