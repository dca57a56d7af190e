"""Configuration under thousands of damages: what is read, or a refusal of one line, in little time and memory."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from m2mkd.config import load
from m2mkd.config.claims import load_claims
from m2mkd.config.strict import parse_json, parse_yaml
from m2mkd.errors import InputError
from m2mkd.results.read.published import COLUMNS, PublishedNumbers, fill_cell
from tests.conftest import ROOT
from tests.fuzzing import EDITS, damaged, fuzzed, refused_or_read

FILES = ["config.yaml", "datasets.yaml", "compat.yaml", "recipes.yaml", "scales/smoke.yaml", "experiments/vmoe_base.yaml"]
PIECES = [
    *(
        "{{lr}}",
        "? [a]\n: b",
        "!!int ''",
        "!!float x",
        "!!bool maybe",
        "!!timestamp x",
        "!!binary '%'",
        "!!set {a}",
        "!!omap [a]",
        "!!pairs [a]",
    ),
    *("&a [*a]", "&a {b: *a}", "*nowhere", "<<: 7", "<<: *a", "{<<: [1]}", "[" * 3000, "{a: " * 3000, "- " * 3000, "9" * 5000, "1e99999"),
    *(
        "!!python/object/apply:os.system [x]",
        "%YAML 9.9\n---\na",
        "--- a\n--- b",
        "\t- a",
        "\x1b[2J",
        "\ufeff",
        "'\\ud800'",
        '"\\ud800"',
        ".inf",
    ),
    *(
        "2024-99-99",
        "2024-01-01T00:00:00+99:99",
        "!!str {a: b}",
        "!<tag:yaml.org,2002:int> 7.5",
        "null",
        "~",
        "[]",
        "{}",
        "''",
        "-1",
        "1_0",
        "=",
        "@",
    ),
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
PIECE = st.one_of(st.sampled_from(PIECES), TEXT)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    shutil.copytree(ROOT / "results/published", tmp_path / "results/published")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything() -> None:
    load.forget_files()
    load.settings()
    load.datasets()
    load.switches()
    scale = load.scale("smoke", {})
    load.catalogue(scale)
    load.experiment("vmoe_base", scale)


@pytest.mark.parametrize("name", FILES)
def test_bytes_of_files(folder: Path, name: str):
    path = folder / "config" / name
    content = path.read_bytes()

    @fuzzed(60)
    @given(edits=EDITS, piece=PIECE, at=st.floats(0, 1))
    def damage(edits: list[Any], piece: str, at: float) -> None:
        place = int(at * len(content))
        put = content[:place] + piece.encode("utf-8", "surrogatepass") + content[place:]
        for changed in (damaged(content, edits), put):
            path.write_bytes(changed)
            with refused_or_read():
                everything()

    damage()
    load.forget_files()


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.sampled_from([10**30, -1, 10**9, "a;touch x", "../x", "\0"])
)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)


def exchanged(value: Any, path: list[int], new: Any) -> Any:
    """The value with one of its parts, wherever the path leads, exchanged."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    return (dict if isinstance(value, dict) else lambda pairs: [one for _, one in pairs])(
        [(other, exchanged(value[other], path[1:], new) if other == key else value[other]) for other in keys]
    )


@pytest.mark.parametrize("name", FILES)
def test_values_of_files(folder: Path, name: str):
    path = folder / "config" / name
    content = load.read_yaml(path)

    @fuzzed(60)
    @given(where=st.lists(st.integers(0, 60), min_size=1, max_size=4), new=ANYTHING)
    def damage(where: list[int], new: Any) -> None:
        path.write_text(yaml.safe_dump(exchanged(content, where, new), allow_unicode=True), encoding="utf-8", errors="replace")
        with refused_or_read():
            everything()

    damage()
    load.forget_files()


@fuzzed(400)
@given(
    field=st.one_of(st.sampled_from(["seeds", "recipes.distill_module.epochs", "data.digits", "experiments", "..", "a.b"]), TEXT),
    value=PIECE,
)
def test_assignments(field: str, value: str):
    with refused_or_read():
        load.scale("smoke", load.parse_overrides([f"{field}={value}"]))


@fuzzed(400)
@given(text=st.one_of(PIECE, st.lists(PIECE, max_size=5).map("\n".join), st.lists(PIECE, max_size=4).map(" ".join)), ours=st.booleans())
def test_texts(text: str, ours: bool):
    with refused_or_read():
        parse_yaml(text, "x.yaml", ours=ours)
    with refused_or_read():
        parse_json(text, "x.json")


@pytest.mark.parametrize(
    "text", ["{{lr}}", "? [a]\n: b", "!!int ''", "!!bool maybe", "!!timestamp x", "a: &a [*a]", "[" * 5000, "a: " + "x" * 2**18]
)
def test_what_a_parser_trips_over_is_refused_in_one_line(text: str):
    with pytest.raises(InputError, match=r"^x: "):
        parse_yaml(text, "x")


def test_aliases_that_repeat_each_other_are_refused():
    laughs = "\n".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10))
    with pytest.raises(InputError, match="values, including those that its aliases repeat"):
        parse_yaml(f"a0: &a0 ha\n{laughs}", "x")


def test_a_pipe_in_the_place_of_a_file_is_refused(folder: Path):
    for name in ("config.yaml", "claims.tsv"):
        (folder / "config" / name).unlink()
        os.mkfifo(folder / "config" / name)
    with pytest.raises(InputError, match="is a pipe"):
        load.settings()
    with pytest.raises(InputError, match="is a pipe"):
        load_claims()


def saved(text: str, delimiter: str) -> dict[str, bytes]:
    """A table as programs save it."""
    lines = text.splitlines()
    quoted = "\n".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line.split(delimiter)) for line in lines)
    found = {
        "BOM": b"\xef\xbb\xbf" + text.encode(),
        "CRLF": "\r\n".join([*lines, ""]).encode(),
        "CR": "\r".join([*lines, ""]).encode(),
        "UTF-16": text.encode("utf-16"),
        "empty columns": "\n".join([f"{line}{delimiter}{delimiter}" for line in lines]).encode(),
        "empty lines": "\n".join([*lines, delimiter * 7, "", " "]).encode(),
        "no last end": text.rstrip("\n").encode(),
    }
    return found | ({"quoted": quoted.encode()} if '"' not in text else {})


def test_claims_are_read_as_programs_save_them(folder: Path):
    path = folder / "config/claims.tsv"
    expected, text = load_claims(), path.read_text()
    for kind, content in saved(text, "\t").items():
        path.write_bytes(content)
        assert load_claims() == expected, kind
    path.write_bytes(text.replace("a", "\xe9", 1).encode("latin-1", "replace"))
    with pytest.raises(InputError, match=r"claims\.tsv: not a table in UTF-8 \(byte \d+\); save it as UTF-8"):
        load_claims()


def test_published_numbers_are_read_as_programs_save_them(folder: Path):
    path = folder / "results/published/m2mkd.csv"
    simple = ",".join(COLUMNS) + "\none,way,iid,top1,1.5,percent,a table,VERIFIED\nother,way,iid,top1,,percent,,UNKNOWN\n"
    path.write_text(simple)
    expected = PublishedNumbers().cells
    for kind, content in (saved(simple, ",") | {"semicolons": simple.replace(",", ";").encode()}).items():
        path.write_bytes(content)
        assert PublishedNumbers().cells == expected, kind
        fill_cell("m2mkd", ("other", "way", "iid", "top1"), 2.5, "somewhere")
        assert PublishedNumbers().find("other", "way", "iid").value == 2.5, kind


@pytest.mark.parametrize(("name", "read"), [("config/claims.tsv", load_claims), ("results/published/m2mkd.csv", PublishedNumbers)])
def test_tables(folder: Path, name: str, read: Any):
    content = (folder / name).read_bytes()

    @fuzzed(400)
    @given(edits=EDITS)
    def damage(edits: list[Any]) -> None:
        (folder / name).write_bytes(damaged(content, edits))
        with refused_or_read():
            read()

    damage()
