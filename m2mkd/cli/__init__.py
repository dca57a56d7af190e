"""The command ``m2mkd``: every rule of the workflow runs one of its subcommands, which a person can type too."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from m2mkd import __version__, surroundings
from m2mkd.cli import checkpoints, claims, config, crate, data, doctor, graph, hub, plan, plugins, published, runs, sentences, study
from m2mkd.containers import inside
from m2mkd.errors import INTERRUPTED, InputError, Interrupted

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(study.app)
app.add_typer(checkpoints.app)
app.add_typer(hub.app)
app.add_typer(plan.app)
app.add_typer(doctor.app)
app.add_typer(plugins.app)
app.add_typer(claims.app)
app.add_typer(sentences.app)
app.add_typer(config.app, name="config")
app.add_typer(crate.app, name="crate")
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")
app.add_typer(published.app, name="published")
app.add_typer(graph.app, name="graph")
app.add_typer(study.track, name="track")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"m2mkd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Reproduce m2mKD at any scale."""


CTRL_C = 130
"""Exit code that typer gives for a KeyboardInterrupt."""
FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable"),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG), "move it away, or choose another path,"),
}
"""Fixes for errors of the system that this program did not cause."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default that of this process; on bad input print one line and exit with code 2."""
    surroundings.settle()
    try:
        inside.require_ordered_container()
        app(args=arguments, prog_name="m2mkd")
    except InputError as error:
        sys.exit(_refuse(str(error)))
    except OSError as error:
        if error.errno not in FIXES:
            raise
        where = error.filename2 or error.filename or "a file"
        sys.exit(_refuse(f"{where}: {error.strerror}; {FIXES[error.errno]} and run the same command again"))
    except Interrupted as stopped:
        if os.environ.get("RANK", "0") in ("", "0"):
            sys.stderr.write(f"m2mkd: stopped by {stopped}\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # at once: whoever sent the signal may not wait for Python to tidy up
    except SystemExit as ended:
        if ended.code == CTRL_C:
            sys.stderr.write("m2mkd: interrupted; run the same command again to resume\n")
        raise


def _refuse(message: str) -> int:
    sys.stderr.write(f"m2mkd: {' '.join(message.split())}\n")
    return 2
