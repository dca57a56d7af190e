"""``m2mkd``: every rule of the workflow is one of these commands, and a person can type it."""

import errno
import sys

import typer

from m2mkd.cli import checkpoints, claims, config, crate, data, doctor, graph, plan, published, runs, study
from m2mkd.containers import inside
from m2mkd.errors import InputError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="Reproduce m2mKD at any scale.")
app.add_typer(study.app)
app.add_typer(checkpoints.app)
app.add_typer(plan.app)
app.add_typer(doctor.app)
app.add_typer(claims.app)
app.add_typer(config.app, name="config")
app.add_typer(crate.app, name="crate")
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")
app.add_typer(published.app, name="published")
app.add_typer(graph.app, name="graph")
app.add_typer(study.track, name="track")


def main() -> None:
    """Run the command line; bad input gives one line and exit code 2."""
    try:
        inside.obey()
        app()
    except InputError as error:
        sys.exit(_refuse(str(error)))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        mend = "make it writable" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "free some space"
        sys.exit(_refuse(f"{error.filename or 'a file'}: {error.strerror}; {mend} and run the same command again"))
    except KeyboardInterrupt:
        sys.stderr.write("m2mkd: interrupted; the same command goes on where this one stopped\n")
        sys.exit(130)


def _refuse(message: str) -> int:
    sys.stderr.write(f"m2mkd: {' '.join(message.split())}\n")
    return 2
