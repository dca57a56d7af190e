"""Files of the project that a crate holds. They keep their paths, so that the crate is itself a project, in which the workflow can run."""

from pathlib import Path
from typing import Literal

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.study.phase import WEIGHTS
from m2mkd.study.phases import TrainStudent
from m2mkd.study.receipt import read_receipt, report_receipt
from m2mkd.study.run import Run
from m2mkd.study.study import Study

CRATE_MANIFEST = "manifest-sha256.txt"
"""Manifest of the digests of all other files, in the form of ``sha256sum --check``."""
CRATE_METADATA = "ro-crate-metadata.json"
Weights = Literal["all", "students", "none"]
SOURCES = (
    *("Snakefile", "Makefile", "pyproject.toml", "dvc.yaml", "README.md", "LICENSE", "CITATION.cff"),
    *("config", "containers", "docs", "m2mkd", "profiles", "results/published", "workflow"),
)
"""Files and folders that the workflow or its readers need."""
LEFT_OUT_FOLDERS = {"__pycache__"}
"""Folders that Python makes again."""
LEFT_OUT_SUFFIXES = {".sif", ".tar"}
"""Images, which are large and easy to make."""


def source_files() -> list[str]:
    """Files of the project that do not belong to a study.

    Raises
    ------
    InputError
        If one is missing, as outside a checkout of the project.
    """
    found: list[str] = []
    for name in SOURCES:
        path = Path(name)
        if not path.exists():
            raise InputError(f"{name}: absent; run from the root of a checkout of the project, or of a crate")
        found += [file.as_posix() for file in ([path] if path.is_file() else sorted(path.rglob("*"))) if file.is_file() and _wanted(file)]
    return found


def _wanted(path: Path) -> bool:
    return (
        not LEFT_OUT_FOLDERS & set(path.parts)
        and path.suffix not in LEFT_OUT_SUFFIXES
        and not any(name.startswith(".") for name in path.parts)
    )


def data_files(study: Study) -> list[str]:
    """Manifests of the prepared sets, with the digest of each of their files; images are left out because of their terms."""
    folders = {data.folder for run in study.runs.values() for data in run.config.data_sets}
    return [f"{folder}/manifest.json" for folder in sorted(folders)]


def run_files(study: Study, run: Run, weights: Weights) -> list[str]:
    """Outputs of a run; the record comes last and holds the digests of all, including those left out."""
    names = study.outputs(run)
    if weights == "none" or (weights == "students" and not isinstance(run.config, TrainStudent)):
        names = [name for name in names if Path(name).name != WEIGHTS]
    return names


def result_files(study: Study) -> dict[str, str]:
    """Tables, metrics, report and their receipts, each with its digest from these receipts.

    Raises
    ------
    InputError
        If they are not those of this study.
    """
    receipts = Path(study.receipt), report_receipt(study)
    found: dict[str, str] = {}
    for path in receipts:
        try:
            shown = read_receipt(path)["shown"]
        except (OSError, InputError) as error:
            fix = f"run 'snakemake --cores all --config scale={study.scale_name}' with the same changes"
            why = "absent" if isinstance(error, OSError) else str(error).partition(": ")[2]
            raise InputError(f"{path}: {why}, so tables and report are not those of this study; {fix}") from None
        found |= {f"{study.pages}/{name}": str(digest) for name, digest in shown.items()} | {path.as_posix(): sha256(path)}
    return found
