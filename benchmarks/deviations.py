"""What each compat switch changes: one row a switch of ``config/compat.yaml``, with the released and the corrected value.

``python benchmarks/deviations.py`` takes two or three minutes on two cores; ``--switch kl_norm`` measures one. The figures are
those of docs/deviations.md; none of them is a time.
"""

import json
import sys
from typing import Annotated

import torch
import typer
from deviations_detector import DETECTOR
from deviations_digits import TRAINED
from deviations_models import CHEAP as OF_MODELS
from deviations_models import STARTS, Effect
from rich.console import Console
from rich.table import Table

from m2mkd.config import load

CHEAP = (*OF_MODELS, *DETECTOR)
"""What a test measures again."""
EFFECTS = {measure.__name__: measure for measure in (*CHEAP, *STARTS, *TRAINED)}
HEADER = ("switch", "what is measured", "released", "corrected")


def markdown(effects: dict[str, Effect]) -> str:
    """The table as it stands in docs/deviations.md."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {' | '.join(effect)} |" for name, effect in effects.items())])


def main(
    switch: Annotated[list[str], typer.Option(help="Measure this switch; may be repeated. [default: all]")] = [],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 1,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/deviations.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Measure what the compat switches change, in the order of config/compat.yaml."""
    unknown = [name for name in switch if name not in EFFECTS]
    if unknown:
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {', '.join(EFFECTS)}", param_hint="--switch")
    torch.set_num_threads(threads)
    chosen = [name for name in load.switches() if name in (switch or EFFECTS)]
    effects = {name: EFFECTS[name]() for name in chosen}
    if as_json:
        json.dump({name: effect._asdict() for name, effect in effects.items()}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif as_markdown:
        sys.stdout.write(markdown(effects) + "\n")
    else:
        table = Table(*HEADER, title="Effects of the compat switches", show_lines=True)
        for name, effect in effects.items():
            table.add_row(name, *effect)
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
