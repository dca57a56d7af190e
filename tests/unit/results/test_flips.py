"""One bit of one file of a finished study: a command notices it, or it decides nothing that is shown."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from m2mkd.config import load
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.recorded import require_seen, require_sources
from m2mkd.errors import InputError
from m2mkd.files import sha256, write_json
from m2mkd.results.crate.check import check_crate
from m2mkd.results.crate.contents import SOURCES
from m2mkd.results.crate.write import write_crate
from m2mkd.results.judge.results import Results
from m2mkd.results.read.verify import verify_runs
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables, compiled
from m2mkd.study import code
from m2mkd.study.data import resolve_data
from m2mkd.study.files import read_planned, read_study
from m2mkd.study.receipt import disagreements
from m2mkd.study.record import finished_runs
from m2mkd.study.study import Study
from m2mkd.training import job
from m2mkd.workflow import plan_workflow
from tests.fabricated import ROOT, finish, plan
from tests.unit.data.grey import archive

FLIPS = 3
"""Of each kind of file; one bit each."""
EXPERIMENTS = ["vmoe_base/m2mkd"]
GREY = "\ngrey:\n  title: Grey\n  layout: image_folder\n  classes: 2\n  licence: none\n  files: [{name: grey.zip}]\n  obtain: by hand\n"
"""A data set of files, of whose source the registry has no digest."""


class Finished:
    """A finished study with everything that lies around it, in the working directory."""

    def __init__(self, study: Study, graph: Path):
        self.study, self.graph = study, graph
        self.tables = compiled(Results.read(study))
        self.page = Path(study.root, "report.html").read_bytes()

    # What a person, or the workflow, would run.

    def planning(self) -> None:
        if wrong := next(disagreements(self.study, finished_runs(self.study)), None):
            raise InputError(wrong)

    def compile(self) -> None:
        Results.read(self.study)

    def jobs(self) -> None:
        read_study(self.study.scale_name, self.study.key)
        for path in Path(self.study.root, "plan").glob("*_*/*.json"):
            read_planned(path)

    def data_verify(self) -> None:
        for manifest in Path("data/packed").glob("*/*/manifest.json"):
            open_pack(manifest.parent, verify="always")
            require_seen(manifest.parent)
        require_sources("grey", {"grey.zip": sha256(Path("data/raw/grey.zip"))})

    def runs_verify(self) -> None:
        list(verify_runs(self.study))

    def crate_check(self) -> None:
        check_crate(Path(self.study.root, "crate"))

    def noticed_by(self) -> str | None:
        """The first command that refuses what is there; none: all of them take it."""
        for command in (self.planning, self.compile, self.jobs, self.data_verify, self.runs_verify):
            try:
                command()
            except InputError:
                return command.__name__
        return None

    def shows_the_same(self) -> bool:
        """Whether tables and report, made once more, are to the byte what they were."""
        before = Path(self.study.root, "report.html").read_bytes()
        write_report(Results.read(self.study))
        page = Path(self.study.root, "report.html").read_bytes()
        assert before == page  # which the receipt vouches for
        return compiled(Results.read(self.study)) == self.tables and page == self.page


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[tuple[Path, Finished]]:
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(job, "provenance", cache(job.provenance))
        study = plan(root, "smoke", EXPERIMENTS)
        registry = Path("config/datasets.yaml")
        registry.write_text(registry.read_text() + GREY)
        for name in set(SOURCES) - {"config", "results/published"}:
            shutil.copytree(ROOT / name, name) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, name)
        load.forget_files()
        archive(Path("data/raw/grey.zip"), 10)
        sets = {data for run in study.runs.values() for data in run.config.data_sets} | {resolve_data("grey@96", "test")[0]}
        for data in sorted(sets, key=str):
            prepare(data.name, load.datasets()[data.name], data.image_size, Path(data.folder))
        code._every_code.cache_clear()
        finish(study)
        graph = plan_workflow(load.settings({"scale": "smoke", "experiments": EXPERIMENTS, "container": "none"}), None, print)
        compile_tables(Results.read(study))
        write_report(Results.read(study))
        write_json(Path(study.root, "tracking.json"), {"study": study.key, "store": "sqlite:///results/mlflow.db", "runs": len(study.runs)})
        write_crate(Results.read(study))
        yield root, Finished(study, graph)
        load.forget_files()


@pytest.fixture
def finished(project, monkeypatch) -> Finished:
    """The study, in whose folder the test works; tests put back what they change."""
    monkeypatch.chdir(project[0])
    return project[1]


def in_runs(name: str) -> Callable[[Study], str]:
    phase, _, file = name.partition("/")
    return lambda study: f"{study.root}/runs/{phase}/*/{file}"


def at(pattern: str) -> Callable[[Study], str]:
    return lambda study: pattern.replace("ROOT", study.root)


NOTICED = {
    "record of a measurement": in_runs("evaluate/run.json"),
    "record of a stage": in_runs("split_teacher/run.json"),
    "measurements": in_runs("evaluate/metrics.json"),
    "measurements of modules": in_runs("measure_hybrid/metrics.json"),
    "learning curve": in_runs("train_student/metrics.jsonl"),
    "weights of a student": in_runs("train_student/model.safetensors"),
    "weights of a module": in_runs("distill_module/model.safetensors"),
    "manifest of a set": at("data/packed/digits@32/*/manifest.json"),
    "labels": at("data/packed/digits@32/*/train.labels.npy"),
    "images": at("data/packed/digits@32/*/val.images.npy"),
    "digests of images": at("data/packed/digits@32/*/val.sha256.npy"),
    "renditions": at("data/packed/digits-r@32/*/val.rendition.npy"),
    "shard": at("data/packed/grey@96/*/train.00000.shard"),
    "spans": at("data/packed/grey@96/*/train.spans.npy"),
    "source": at("data/raw/grey.zip"),
    "table for programs": at("ROOT/tables/results.csv"),
    "table in Markdown": at("ROOT/tables/claims.md"),
    "table in LaTeX": at("ROOT/tables/ood.tex"),
    "table in HTML": at("ROOT/tables/hybrids.html"),
    "curves": at("ROOT/tables/curves.csv"),
    "verdicts": at("ROOT/tables/claims.json"),
    "table of runs": at("ROOT/tables/runs.parquet"),
    "table of measurements": at("ROOT/tables/measurements.parquet"),
    "final metrics": at("ROOT/metrics.json"),
    "report": at("ROOT/report.html"),
    "overview": at("ROOT/overview.png"),
    "receipt of the tables": at("ROOT/tables/study-*.json"),
    "receipt of the report": at("ROOT/tables/report-*.json"),
    "plan of a run": at("ROOT/plan/evaluate/*.json"),
    "plan of the study": at("ROOT/plan/study-*.json"),
}
"""Kinds of files that a command notices."""
IDLE = {
    "note of the store": at("ROOT/tracking.json"),
    "note of a verified set": at("data/packed/digits@32/.*.verified"),
    "note of a verified source": at("data/raw/.grey.zip.digest"),
    "note of the sources": at("results/.code.json"),
    "note of the last plan": at("ROOT/plan/current.json"),
}
"""Kinds of files that decide nothing that is shown."""
OF_THE_CRATE = (
    *("manifest-sha256.txt", "ro-crate-metadata.json", "ARTIFACT.md", "cards/*.md", "config/claims.tsv", "m2mkd/seeds.py"),
    *("results/published/m2mkd.csv", "results/smoke/tables/results.csv", "results/smoke/runs/evaluate/*/run.json"),
    *("results/smoke/plan/study-*.json", "results/smoke/tables/study-*.json", "data/packed/digits@32/*/manifest.json"),
)


def flips(path: Path, count: int = FLIPS) -> Iterator[None]:
    """Let the file have one wrong bit, at one place after another; time and size stay as they were."""
    content, state = path.read_bytes(), path.stat()
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4]))

    def put(text: bytes) -> None:
        path.unlink()  # the crate has links to the same files
        path.write_bytes(text)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    for place in generator.integers(len(content), size=count):
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        put(bytes(changed))
        code._every_code.cache_clear()
        try:
            yield
        finally:
            put(content)


def one_file(pattern: str) -> Path:
    return sorted(Path().glob(pattern))[0]


def test_nothing_is_noticed_where_nothing_is_wrong(finished):
    assert finished.noticed_by() is None and finished.shows_the_same()
    assert len(NOTICED) + len(IDLE) + len(OF_THE_CRATE) >= 24


@pytest.mark.parametrize("kind", NOTICED)
def test_a_flipped_bit_is_noticed(finished, kind):
    path = one_file(NOTICED[kind](finished.study))
    assert [finished.noticed_by() for _ in flips(path)].count(None) == 0
    assert finished.noticed_by() is None


@pytest.mark.parametrize("kind", ["weights of a module"])
def test_weights_that_no_table_is_made_from_decide_nothing_that_is_shown(finished, kind):
    for _ in flips(one_file(NOTICED[kind](finished.study)), 1):
        assert finished.noticed_by() == "runs_verify" and finished.shows_the_same()


@pytest.mark.parametrize("kind", IDLE)
def test_a_flipped_bit_of_a_note_decides_nothing(finished, kind):
    for _ in flips(one_file(IDLE[kind](finished.study)), 1):
        assert finished.noticed_by() is None and finished.shows_the_same()


def test_a_flipped_graph_is_written_anew(finished):
    before = finished.graph.read_bytes()
    for _ in flips(finished.graph):
        settings = load.settings({"scale": "smoke", "experiments": EXPERIMENTS, "container": "none"})
        assert plan_workflow(settings, None, print) == finished.graph
        assert finished.graph.read_bytes() == before


@pytest.mark.parametrize("name", OF_THE_CRATE)
def test_a_flipped_bit_of_a_crate_is_noticed(finished, name):
    for _ in flips(one_file(f"{finished.study.root}/crate/{name}")):
        with pytest.raises(InputError):
            finished.crate_check()
