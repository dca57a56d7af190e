"""Every boundary that strangers' files and servers come in by, under thousands of damages: nothing but a refusal of one line, nothing left.

The damages are the same at every run. ``M2MKD_FUZZ=20`` tries twenty times as many.
"""

import io
import json
import os
import pickle
import resource
import shutil
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from m2mkd.data.fetch import RAW, fetch
from m2mkd.data.images import BadImageError, opened
from m2mkd.data.manifest import manifest_digest
from m2mkd.data.pack import open_pack
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.readers import Readers, reading
from m2mkd.data.tasks import found_in, packed_images
from m2mkd.data.whole import whole_image
from m2mkd.errors import InputError
from tests.ilsvrc import KIT, TRAIN, VAL, write_ilsvrc
from tests.unit.data.test_damage import HEALTHY, Files, cifar, image, pack, tiny
from tests.unit.data.test_download import CONTENT, answering, dataset

MORE = int(os.environ.get("M2MKD_FUZZ", "1"))
SECONDS, KIBIBYTES = 20, 1 << 20
"""Most that a damaged file may take on a processor, and of memory."""


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """So many examples, the same at every run."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=examples * MORE, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


SPECIAL = [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\0",
    b"-1",
    b"9" * 20,
    b"\n",
    b"\x1b[2J",
    b"../",
    b"%s{}",
]
EDIT = st.tuples(
    st.sampled_from(["flip", "overwrite", "insert", "delete", "repeat", "cut"]),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.sampled_from(SPECIAL), st.binary(min_size=1, max_size=8)),
    st.integers(1, 64),
)
EDITS = st.lists(EDIT, min_size=1, max_size=4)


def damaged(content: bytes, edits: list[tuple[str, float, bytes, int]]) -> bytes:
    """Content with some edits, each at a share of its length."""
    for kind, share, value, count in edits:
        at = int(share * len(content))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << count % 8)]) + content[at + 1 :]
        elif kind == "overwrite":
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + count :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + count] * 3 + content[at + count :]
        else:
            content = content[:at]
    return content


@contextmanager
def refused_or_read() -> Iterator[None]:
    """Nothing but a refusal of one line comes out, in little time and memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn of much that they then read
        try:
            yield
        except (InputError, BadImageError) as refused:
            said = str(refused)
        else:
            said = "; "
    assert "\n" not in said and len(said) < 2000
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIBIBYTES


def everything(layout: str, paths: list[Path], scratch: Path) -> None:
    """Find the images of a data set, and read them."""
    found = found_in(layout, paths, [None] * len(paths), scratch)
    for listing in getattr(found, "splits", {}).values():
        packed_images(listing.members, 64, True, False, False)


# --- archives ---------------------------------------------------------------------------------------------------------------------


def tarred(files: Files, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Files) -> bytes:
    path = Path("made.zip")
    pack(path, files)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


FORMS = {"zip": zipped, **{form: lambda files, mode=form: tarred(files, f"w:{mode}") for form in ("", "gz", "bz2", "xz")}}


@pytest.mark.parametrize("form", FORMS)
def test_archives(folder: Path, form: str):
    content = FORMS[form](tiny())

    @fuzzed(120)
    @given(edits=EDITS)
    def damage(edits: list[Any]) -> None:
        (folder / "set.zip").write_bytes(damaged(content, edits))
        with refused_or_read():
            everything("tiny_imagenet", [folder / "set.zip"], folder / "scratch")
        assert not list(folder.glob("scratch/.*")), "nothing partial"
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        assert [path.name for path in folder.iterdir()] == ["set.zip"]

    damage()


# --- lists, tables and names in archives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tiny_imagenet", "cub", "imagenet_r", "image_folder"])
def test_lists_and_names(folder: Path, layout: str):
    """What the members of an archive are called and say is damaged, and its checksums are right."""
    files = HEALTHY[layout]()

    @fuzzed(120)
    @given(data=st.data())
    def damage(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(files)))
        others = {other: content for other, content in files.items() if other != name}
        content = files[name]
        if data.draw(st.booleans()):
            content = damaged(content, data.draw(EDITS))
        else:
            renamed = damaged(name.encode(), data.draw(EDITS)).decode("utf-8", "surrogateescape")
            name = renamed if renamed.strip("/.\0") else name
        (folder / "set.zip").write_bytes(tarred(others | {name: content}, "w:"))
        with refused_or_read():
            everything(layout, [folder / "set.zip"], folder)

    damage()


def test_pickles(folder: Path):
    tables = [pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": [0, 1, 0, 1]}, protocol) for protocol in range(6)]

    @fuzzed(600)
    @given(content=st.sampled_from(tables), edits=EDITS, before=st.booleans())
    def damage(content: bytes, edits: list[Any], before: bool) -> None:
        pixels = content.find(bytes(3072)) if before else 0
        # The pixels are most of it, and of no interest.
        changed = damaged(content[:pixels], edits) + content[pixels:] if pixels > 0 else damaged(content, edits)
        pack(folder / "set.zip", cifar(**{"c/train": changed}))
        with refused_or_read():
            everything("cifar100", [folder / "set.zip"], folder)

    damage()


# --- images -----------------------------------------------------------------------------------------------------------------------


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


IMAGES = {
    "baseline": saved("JPEG"),
    "progressive": saved("JPEG", progressive=True),
    "CMYK": saved("JPEG", "CMYK", restart_marker_rows=1),
    "PNG": saved("PNG"),
    "palette": saved("PNG", "P"),
    "transparent": saved("PNG", "LA"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(folder: Path, kind: str):
    @fuzzed(400)
    @given(edits=EDITS, head=st.booleans())
    def damage(edits: list[Any], head: bool) -> None:
        content = IMAGES[kind]
        changed = damaged(content[:600], edits) + content[600:] if head else damaged(content, edits)
        for read in (opened, lambda found: whole_image(found, 64)):
            with refused_or_read():
                read(changed)

    damage()
    assert not list(folder.iterdir())


# --- files whose parsers may crash: in a process of their own, as they are read ---------------------------------------------------


class Pool:
    """Readers, and new ones after a crash."""

    def __init__(self, path: Path):
        self.path = path
        self.open()

    def open(self) -> None:
        self.context = reading(1, [self.path])
        self.readers: Readers = self.context.__enter__()

    def close(self) -> None:
        self.context.__exit__(None, None, None)

    def everything(self, layout: str, paths: list[Path], scratch: Path) -> None:
        try:
            self.readers.read(everything, layout, paths, scratch)
        except InputError as refused:
            if "crashed its reader" in str(refused):
                self.close()
                self.open()
            raise


@pytest.fixture
def pool(folder: Path) -> Iterator[Pool]:
    made = Pool(folder / "set")
    yield made
    made.close()


def test_matrices(folder: Path, pool: Pool):
    """The table of ImageNet's classes."""
    buffer = io.BytesIO()
    write_ilsvrc(folder, {"n00000001": [image(1)]}, [("n00000001", image(2))])
    with tarfile.open(folder / KIT) as kit:
        member = kit.extractfile("ILSVRC2012_devkit_t12/data/meta.mat")
        assert member is not None
        buffer.write(member.read())
    content = buffer.getvalue()

    @fuzzed(250)
    @given(edits=EDITS)
    def damage(edits: list[Any]) -> None:
        write_ilsvrc(folder, {"n00000001": [image(1)]}, [("n00000001", image(2))], meta=damaged(content, edits) or b"\0")
        with refused_or_read():
            pool.everything("imagenet", [folder / name for name in (TRAIN, VAL, KIT)], folder / "scratch")
        shutil.rmtree(folder / "scratch", ignore_errors=True)

    damage()


@pytest.mark.parametrize("compression", ["NONE", "SNAPPY"])
def test_parquet(folder: Path, pool: Pool, compression: str):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": image(number, size=(16, 16)), "path": f"{number}.jpg"} for number in range(4)], struct)
    facts = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"]}}}}).encode()}
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"image": images, "label": [0, 1, 0, 1]}).replace_schema_metadata(facts), buffer, row_group_size=2, compression=compression
    )
    content = buffer.getvalue()

    @fuzzed(300)
    @given(edits=EDITS, foot=st.booleans())
    def damage(edits: list[Any], foot: bool) -> None:
        # What a file says of itself stands at its end.
        changed = content[:-2500] + damaged(content[-2500:], edits) if foot else damaged(content, edits)
        path = folder / "set-test.parquet"
        path.write_bytes(changed)
        with refused_or_read():
            pool.everything("parquet", [path], folder)

    damage()


# --- prepared sets ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(folder: Path) -> Path:
    def images(storage: str) -> Callable[[int], list[PackedImage]]:
        contents = [saved("PNG"), saved("JPEG")] if storage == "encoded" else [bytes(3 * 6 * 6)] * 2
        return lambda start: [PackedImage(content, bytes(32)) for content in contents[start:]]

    splits = {
        "train": SplitSource(images("encoded"), [0, 1], {"name": [b"a", b"b"]}, "encoded", final=False),
        "val": SplitSource(images("pixels"), [1, 0], {"kind": ["x", "y"]}),
    }
    write_pack(folder / "packed/key", "set", 6, Content(("ant", "bee"), splits, {}))
    return folder / "packed/key"


def test_prepared_sets(prepared: Path):
    """With digests that are right, as those have them who recompute them, and without."""
    original = {path.name: path.read_bytes() for path in prepared.iterdir()}

    @fuzzed(500)
    @given(name=st.sampled_from(sorted(original)), edits=EDITS, redone=st.booleans())
    def damage(name: str, edits: list[Any], redone: bool) -> None:
        for other, content in original.items():
            (prepared / other).write_bytes(damaged(content, edits) if other == name else content)
        if redone:
            with suppress(ValueError, AttributeError, KeyError, TypeError):
                manifest = json.loads((prepared / "manifest.json").read_bytes())
                del manifest["digest"]
                if name in manifest["files"]:
                    manifest["files"][name]["bytes"] = (prepared / name).stat().st_size
                (prepared / "manifest.json").write_text(json.dumps(manifest | {"digest": manifest_digest(manifest)}))
        with refused_or_read():
            opened_ = open_pack(prepared, verify="never")
            for split in opened_.manifest["splits"]:
                opened_.split(split).take([0, 1])

    damage()


# --- servers ----------------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=20)
NUMBER = st.one_of(st.integers(-10, 1 << 70).map(str), st.just(str(len(CONTENT))), TEXT)
HEADERS = {
    "Content-Length": NUMBER,
    "Content-Range": st.one_of(st.builds("bytes {}-{}/{}".format, NUMBER, NUMBER, NUMBER), TEXT),
    "Content-Encoding": st.one_of(st.sampled_from(["gzip", "identity", "br", "deflate, gzip"]), TEXT),
    "Transfer-Encoding": st.one_of(st.just("chunked"), TEXT),
    "Location": st.one_of(st.sampled_from(["/set.zip", "http://[", "file:///etc/passwd", "//", "http://a:b@127.0.0.1:9/"]), TEXT),
    "ETag": st.one_of(st.just('"1"'), TEXT),
    "Last-Modified": TEXT,
    "Set-Cookie": TEXT,
}
HEADER = st.sampled_from(sorted(HEADERS)).flatmap(lambda name: HEADERS[name].map(lambda value: f"{name}: {value}"))
STATUS = st.one_of(
    st.sampled_from(["200 OK", "206 Partial Content", "302 Found", "416 No", "404 \x1b[2J", "503 Later", "999", "abc"]), TEXT
)
ANSWER = st.builds(
    lambda status, headers, body: "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body,
    STATUS,
    st.lists(HEADER, max_size=5),
    st.one_of(st.just(CONTENT), st.just(CONTENT[:5000]), st.just(b"5\r\nabcde\r\n0\r\n\r\n"), st.binary(max_size=50)),
)


def test_servers(folder: Path):
    """One that answers anything to each request, in turn."""
    answers: list[bytes] = []
    asked = 0

    def answer(out: BinaryIO, _: str) -> None:
        nonlocal asked
        out.write(answers[asked % len(answers)])
        asked += 1

    with answering(answer) as url:

        @fuzzed(250)
        @given(drawn=st.lists(st.one_of(ANSWER, st.tuples(ANSWER, EDITS).map(lambda pair: damaged(*pair))), min_size=1, max_size=3))
        def damage(drawn: list[bytes]) -> None:
            nonlocal asked
            answers[:], asked = drawn, 0
            with refused_or_read():
                fetch("set", dataset(url, bytes=200_000), pause=0)
                assert (RAW / "set.zip").read_bytes() == CONTENT, "what passes is the file"
            left = {path.name for path in RAW.iterdir()}
            assert left <= {"set.zip", ".set.zip.digest", ".set.zip.part", ".set.zip.part.etag"}, "a part is gone on with"
            assert sum(path.stat().st_size for path in RAW.iterdir()) < 300_000
            shutil.rmtree(RAW)

        damage()
