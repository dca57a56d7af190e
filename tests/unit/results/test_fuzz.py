"""Records, plans, receipts and crates under thousands of damages, with digests that are right, as forgers have them, and without."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.files import sha256
from m2mkd.results.crate.check import check_crate
from m2mkd.results.crate.contents import SOURCES
from m2mkd.results.crate.write import write_crate
from m2mkd.results.judge.results import Results
from m2mkd.results.read.records import read_record
from m2mkd.results.report.write import write_report
from m2mkd.results.tables.compile import compile_tables
from m2mkd.study.files import read_study, write_plan
from m2mkd.study.keys import SEAL, sealed
from m2mkd.study.receipt import disagreements
from m2mkd.study.record import finished_runs
from m2mkd.study.study import Study
from tests.fabricated import ROOT, finish, first, plan
from tests.fuzzing import EDITS, damaged, fuzzed, refused_or_read

TEXT = st.text(max_size=20)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.sampled_from([10**30, -1, "../../../etc/passwd", "/", "\0", "\ud800"])
)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)
DEEP = b'{"config": ' + b"[" * 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Study]]:
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = plan(root, "smoke", ["vmoe_base/end_to_end"])
        for name in set(SOURCES) - {"config", "results/published"}:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, name)
        write_plan(study)
        finish(study)
        compile_tables(Results.read(study))
        write_report(Results.read(study))
        write_crate(Results.read(study))
    return root, study


@pytest.fixture
def study(made: tuple[Path, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """It in a copy of the project, which is the working directory."""
    shutil.copytree(made[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return made[1]


def exchanged(value: Any, path: list[int], new: Any) -> Any:
    """The value with one of its parts, wherever the path leads, exchanged."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    copy = value.copy()
    copy[key] = exchanged(value[key], path[1:], new)
    return copy


def changed(content: bytes, edits: list[Any], where: list[int], new: Any, kind: str) -> bytes:
    """A file of JSON with its bytes or one of its values changed; sealed anew where its seal is to be right."""
    if kind == "bytes":
        return damaged(content, edits)
    value = exchanged(json.loads(content), where, new)
    with suppress(ValueError):
        if kind == "forged" and isinstance(value, dict) and SEAL in value:
            value = sealed(value)
    return json.dumps(value).encode()


CHANGES = {
    "edits": EDITS,
    "where": st.lists(st.integers(0, 60), min_size=1, max_size=4),
    "new": ANYTHING,
    "kind": st.sampled_from(["bytes", "values", "forged"]),
}


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "metrics.jsonl"])
def test_records(study: Study, name: str):
    run = first(study, "train_student")
    folder = Path(study.folder(run.id))
    content, record = (folder / name).read_bytes(), json.loads((folder / "run.json").read_bytes())

    def read(found: bytes) -> None:
        (folder / name).write_bytes(found)
        if name != "run.json":  # whose own digest is right, so that it is read at all
            record["outputs"][name] = sha256(folder / name)
            (folder / "run.json").write_text(json.dumps(sealed(record)))
        with refused_or_read():
            finished_runs(study)
            read_record(study, run)

    @fuzzed(200)
    @given(**CHANGES)
    def damage(edits: list[Any], where: list[int], new: Any, kind: str) -> None:
        lines = content.splitlines(keepends=True) if name.endswith("l") else [content]
        read(changed(lines[0], edits, where, new, kind) + b"".join(lines[1:]))

    damage()
    read(DEEP)
    assert {path.name for path in folder.iterdir()} == {"run.json", *record["outputs"]}


@pytest.mark.parametrize("kind", ["study", "run"])
def test_plans(study: Study, kind: str):
    folder = Path("results/smoke/plan")
    path = folder / f"study-{study.key}.json" if kind == "study" else folder / f"{first(study, 'train_student').id}.json"
    content = path.read_bytes()

    @fuzzed(200)
    @given(**CHANGES)
    def damage(edits: list[Any], where: list[int], new: Any, kind: str) -> None:
        path.write_bytes(changed(content, edits, where, new, kind))
        with refused_or_read():
            read_study("smoke", study.key)

    damage()
    path.write_bytes(DEEP)
    with refused_or_read():
        read_study("smoke", study.key)


def test_receipts(study: Study):
    path = Path(study.receipt)
    content, finished = path.read_bytes(), finished_runs(study)

    @fuzzed(200)
    @given(**CHANGES)
    def damage(edits: list[Any], where: list[int], new: Any, kind: str) -> None:
        path.write_bytes(changed(content, edits, where, new, kind))
        with refused_or_read():
            list(disagreements(study, finished))

    damage()


def test_crates(study: Study):
    crate = Path(study.root) / "crate"
    manifest = crate / "manifest-sha256.txt"
    listed = manifest.read_text()
    names = [path for path in re.findall(r"(?m)^\w+  (.+)$", listed) if path.endswith((".json", ".csv", ".yaml"))]

    @fuzzed(40)
    @given(name=st.sampled_from([*names, *["ro-crate-metadata.json", manifest.name] * 10]), again=st.booleans(), **CHANGES)
    def damage(name: str, again: bool, edits: list[Any], where: list[int], new: Any, kind: str) -> None:
        path = crate / name
        content = path.read_bytes()
        path.write_bytes(changed(content, edits, where, new, kind if name.endswith(".json") else "bytes"))
        if again and path != manifest:
            manifest.write_text(re.sub(rf"(?m)^\w+  {re.escape(name)}$", f"{sha256(path)}  {name}", listed))
        before = sorted(crate.rglob("*"))
        with refused_or_read():
            check_crate(crate)
        assert sorted(crate.rglob("*")) == before, "nothing is left behind"
        path.write_bytes(content)
        manifest.write_text(listed)

    damage()
