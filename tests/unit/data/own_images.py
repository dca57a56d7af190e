"""Images of one's own in each container, and the command that registers them."""

import csv
import io
import json
import tarfile
from contextlib import redirect_stderr
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from m2mkd.cli import app, main
from tests.archives import image

Images = dict[tuple[str, str], list[bytes]]
"""Files by split and class; the split is empty where there is none."""


def pictures(seed: int, count: int) -> list[bytes]:
    return [image(seed + number, "PNG", size=(20, 24)) for number in range(count)]


WHOLE: Images = {
    ("train", "b"): pictures(0, 3),
    ("train", "a"): pictures(10, 3),
    ("val", "b"): pictures(20, 2),
    ("val", "a"): pictures(30, 2),
}
UNDIVIDED: Images = {("", name): pictures(10 * ord(name), 10) for name in "ab"}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def as_folder(top: Path, images: Images, words: dict[str, str]) -> Path:
    for (split, name), files in images.items():
        for number, content in enumerate(files):
            path = top / words.get(split, split) / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (top / "README.md").write_text("Images")
    return top


def as_csv(top: Path, images: Images, words: dict[str, str]) -> Path:
    rows = []
    (top / "pictures").mkdir(parents=True)
    for (split, name), files in reversed(images.items()):
        for number, content in enumerate(files):
            (top / f"pictures/{name}{split}{number}.png").write_bytes(content)
            rows.append(
                {"file": f"pictures/{name}{split}{number}.png", "label": name} | ({"split": words.get(split, split)} if split else {})
            )
    with (top / "set.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return top / "set.csv"


def as_parquet(top: Path, images: Images, words: dict[str, str]) -> Path:
    """Two shards for each split, with classes in another order than that of their names."""
    classes = ["b", "a"]
    facts = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": classes}}}}).encode()}
    top.mkdir()
    for split in dict.fromkeys(split for split, _ in images):
        rows = [(content, classes.index(name)) for (other, name), files in images.items() if other == split for content in files]
        for shard in range(2):
            contents = pa.array([{"bytes": content, "path": None} for content, _ in rows[shard::2]], STRUCT)
            table = pa.table({"image": contents, "label": [label for _, label in rows[shard::2]]}).replace_schema_metadata(facts)
            pq.write_table(table, top / f"{words.get(split, split) or 'rows'}-0000{shard}-of-00002.parquet", row_group_size=2)
    return top


def as_webdataset(top: Path, images: Images, words: dict[str, str]) -> Path:
    top.mkdir()
    (top / "classnames.txt").write_text("b\na\n")
    for split in dict.fromkeys(split for split, _ in images):
        rows = [(content, name) for (other, name), files in images.items() if other == split for content in files]
        for shard in range(2):
            path = top / words.get(split, split) / f"{shard}.tar"
            path.parent.mkdir(exist_ok=True)
            with tarfile.open(path, "w") as archive:
                for number, (content, name) in enumerate(rows[shard::2]):
                    label = str("ba".index(name)).encode() if shard else json.dumps({"label": name}).encode()
                    for suffix, data in (("png", content), ("json" if not shard else "cls", label)):
                        entry = tarfile.TarInfo(f"s{number:04}.{suffix}")
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))
    return top


FORMS = {"folder": as_folder, "csv": as_csv, "parquet": as_parquet, "webdataset": as_webdataset}


def add(path: Path | str, *options: str, name: str = "mine") -> str:
    done = CliRunner().invoke(app, ["data", "add", name, str(path), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(["data", *arguments])
    assert ended.value.code == 2
    (line,) = said.getvalue().splitlines()
    assert ";" in line, "says how to fix it"
    return line
