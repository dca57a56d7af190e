"""Check that a run is finished: by the digests that it recorded, never by times or by other programs' records."""

from pathlib import Path

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.study.phase import RECORD
from m2mkd.study.record import read_run_json
from m2mkd.study.run import Run


def is_whole(folder: Path, run: Run) -> bool:
    """True if a folder holds every output of a run, each with its recorded digest."""
    try:
        record = read_run_json(folder)
        outputs = record["outputs"]
        wanted = {name for name in run.config.OUTPUTS if name != RECORD}
        return record["id"] == run.id and outputs.keys() == wanted and all(sha256(folder / name) == outputs[name] for name in wanted)
    except (OSError, InputError, KeyError, TypeError, AttributeError):
        return False


def kept_folder(work: Path) -> Path:
    """Folder that keeps the published outputs of a run until the workflow has noticed them.

    Snakemake removes the outputs of a job that was killed after it had published them. They take no space, because they are links.
    """
    return work.with_name(f".{work.name}.done")
