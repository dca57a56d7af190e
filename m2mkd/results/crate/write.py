"""Writing a crate: every file is checked against its digest while it is copied, and the folder appears complete or not at all."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from m2mkd.errors import InputError
from m2mkd.files import as_json, publish, replacing, sha256, write_text
from m2mkd.results.crate.contents import CRATE_MANIFEST, CRATE_METADATA, Weights, data_files, result_files, run_files, source_files
from m2mkd.results.crate.documents import artifact, model_cards
from m2mkd.results.crate.metadata import crate_graph
from m2mkd.results.crate.people import read_citation
from m2mkd.results.judge.results import Results
from m2mkd.results.read.records import Record
from m2mkd.study.files import study_content, study_file
from m2mkd.study.study import Study


def write_crate(results: Results, weights: Weights = "students") -> Path:
    """Write the crate of a whole study into its folder, and replace an earlier one.

    Parameters
    ----------
    results
        Results of a whole study.
    weights
        Runs whose weights are included; other weights are recorded by digest.

    Returns
    -------
    Path
        Folder of the crate.

    Raises
    ------
    InputError
        If a run, its output, a table or the report is missing, damaged, or of another configuration; names the file.
    """
    citation = read_citation()
    study, records = results.study, results.every_record
    expected = _expected(study, records, weights)
    # The plan of the study, from which its tables can be compiled again; the runs describe themselves.
    texts = {"ARTIFACT.md": artifact(results, citation), study_file(study.scale_name, study.key).as_posix(): as_json(study_content(study))}
    if weights != "none":
        texts |= model_cards(results, citation)
    target = Path(study.root) / "crate"
    with replacing(target) as folder:
        for left in folder.iterdir():  # from an interrupted command, perhaps with other runs
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        found = {}
        for path in _shown(list(expected)):
            publish(Path(path), folder / path)
            found[path] = sha256(folder / path), (folder / path).stat().st_size
            if expected[path] not in (None, found[path][0]):
                raise InputError(f"{path}: its sha256 is not the recorded one; remove its folder and run the workflow again")
        for path, text in texts.items():
            write_text(folder / path, text)
            found[path] = sha256(folder / path), (folder / path).stat().st_size
        graph = crate_graph(study, records, dict(sorted(found.items())), citation)
        graph.write(folder)
        digests = {path: digest for path, (digest, _) in found.items()} | {CRATE_METADATA: sha256(folder / CRATE_METADATA)}
        write_text(folder / CRATE_MANIFEST, "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items())))
    return target


def _expected(study: Study, records: Iterable[Record], weights: Weights) -> dict[str, str | None]:
    """Files of the project that go into the crate, each with its recorded digest, if any."""
    expected: dict[str, str | None] = dict.fromkeys((*source_files(), *data_files(study))) | result_files(study)
    for record in records:
        for path in run_files(study, record.run, weights):
            expected[path] = record.outputs.get(Path(path).name, record.digest)
    for path in expected:
        if not Path(path).is_file():
            raise InputError(f"{path}: absent; run 'snakemake --cores all --config scale={study.scale_name}' with the same changes")
    return expected


def _shown(paths: list[str]) -> Iterable[str]:
    console = Console(stderr=True)
    return track(paths, "files", console=console, disable=not console.is_terminal)
