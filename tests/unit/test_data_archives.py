"""Archives are listed and read in place; the dangerous and the damaged are refused in one line."""

import copy
import io
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from m2mkd.data.archives import open_archive
from m2mkd.errors import InputError

FILES = {"set/a/1.jpg": b"one", "set/b/2.jpg": b"two" * 1000, "set/labels.txt": b""}


def make_tar(path: Path, mode: str = "w", extra: Callable[[tarfile.TarFile], object] | None = None, files=FILES) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            add(archive, name, content)
        if extra:
            extra(archive)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in fields.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(content))


def make_zip(path: Path, extra: Callable[[zipfile.ZipFile], object] | None = None, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        if extra:
            extra(archive)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: make_zip(folder / "set.zip"),
        lambda folder: make_tar(folder / "set.tar"),
        lambda folder: make_tar(folder / "set.tar.gz", "w:gz"),
        lambda folder: make_tar(folder / "set.tar.bz2", "w:bz2"),
        lambda folder: make_tar(folder / "set.tar.xz", "w:xz"),
    ],
    ids=["zip", "tar", "gz", "bz2", "xz"],
)
def test_every_kind_gives_every_file(tmp_path: Path, make):
    archive = open_archive(make(tmp_path), tmp_path / "scratch")
    assert archive.members == {name: len(content) for name, content in FILES.items()}
    for name in reversed(FILES):
        assert archive.read(name) == pickle.loads(pickle.dumps(archive.place(name))).read() == FILES[name]
    with pytest.raises(InputError, match=r"set/c\.jpg is missing"):
        archive.read("set/c.jpg")


def test_tars_inside_a_tar_are_folders(tmp_path: Path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        add(archive, "n01440764_1.JPEG", b"fish")
        add(archive, "n01440764_2.JPEG", b"another")
    outer = make_tar(tmp_path / "train.tar", files={"n01440764.tar": inner.getvalue(), "n01443537.tar": inner.getvalue()})
    archive = open_archive(outer, tmp_path)
    assert list(archive.members) == [f"{wnid}/n01440764_{i}.JPEG" for wnid in ("n01440764", "n01443537") for i in (1, 2)]
    assert archive.read("n01443537/n01440764_2.JPEG") == b"another"


def test_a_compressed_tar_is_decompressed_once(tmp_path: Path):
    path = make_tar(tmp_path / "set.tgz", "w:gz")
    open_archive(path, tmp_path / "scratch")
    (copy,) = (tmp_path / "scratch").iterdir()
    before = copy.stat().st_mtime_ns
    open_archive(path, tmp_path / "scratch")
    assert copy.stat().st_mtime_ns == before


def symlink(target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarFile], None]:
    return lambda archive: add(archive, "set/link", type=kind, linkname=target)


def zip_link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("set/link")
    entry.external_attr = 0o120777 << 16
    archive.writestr(entry, "../../etc/passwd")


def tar_with(extra: Callable[[tarfile.TarFile], object], mode: str = "w") -> Callable[[Path], Path]:
    return lambda folder: make_tar(folder / "x.tar", mode, extra)


def zip_with(extra: Callable[[zipfile.ZipFile], object]) -> Callable[[Path], Path]:
    return lambda folder: make_zip(folder / "x.zip", extra)


def overlapping(archive: zipfile.ZipFile) -> None:
    """As many names as make a bomb for the same bytes, which are no bomb."""
    archive.writestr("set/0.jpg", random.Random(0).randbytes(1 << 20), zipfile.ZIP_STORED)
    for number in range(1, 300):
        archive.filelist.append(entry := copy.copy(archive.filelist[-1]))
        entry.filename = f"set/{number}.jpg"


PATH, LINK, DEVICE = "path out of the archive", "link out of the archive", "device or pipe"
BOMB, BROKEN = "unpacks to more than 200", "not a whole archive"
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "path out of a tar": (tar_with(lambda archive: add(archive, "../evil", b"x")), PATH),
    "absolute path in a tar": (tar_with(lambda archive: add(archive, "/etc/evil", b"x")), PATH),
    "path out of a zip": (zip_with(lambda archive: archive.writestr("set/../../evil", "x")), PATH),
    "backslashes": (tar_with(lambda archive: add(archive, "..\\evil", b"x")), PATH),
    "link out of a tar": (tar_with(symlink("../../evil")), LINK),
    "absolute link": (tar_with(symlink("/etc/passwd")), LINK),
    "hard link out": (tar_with(symlink("../evil", tarfile.LNKTYPE)), LINK),
    "link out of a zip": (zip_with(zip_link), LINK),
    "device": (tar_with(lambda archive: add(archive, "set/tty", type=tarfile.CHRTYPE)), DEVICE),
    "pipe": (tar_with(lambda archive: add(archive, "set/pipe", type=tarfile.FIFOTYPE)), DEVICE),
    "name twice": (tar_with(lambda archive: add(archive, "set/a/1.jpg", b"other")), "there twice"),
    "bomb in a zip": (zip_with(lambda archive: archive.writestr("set/bomb", bytes(50_000_000))), BOMB),
    "bomb of members that overlap": (zip_with(overlapping), BOMB),
    "bomb in a tar": (tar_with(lambda archive: add(archive, "set/bomb", bytes(50_000_000)), "w:gz"), BOMB),
    "tar with a name that ends in its middle": (tar_with(lambda archive: add(archive, "x", pax_headers={"path": "set/a\0b"})), BROKEN),
    "no archive": (lambda folder: _written(folder / "x.zip", b"<html>not found</html>" * 100), BROKEN),
    "empty file": (lambda folder: _written(folder / "x.tar", b""), BROKEN),
    "absent": (lambda folder: folder / "x.zip", "absent; fetch it first"),
    "truncated zip": (lambda folder: _cut(make_zip(folder / "x.zip", compression=zipfile.ZIP_STORED), 0.5), BROKEN),
    "truncated tar": (lambda folder: _cut(make_tar(folder / "x.tar"), 0.3), f"truncated|{BROKEN}"),
    "truncated gzip": (lambda folder: _cut(make_tar(folder / "x.tgz", "w:gz"), 0.5), BROKEN),
}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    return _written(path, content[: int(share * len(content))])


@pytest.mark.parametrize("case", REFUSED)
def test_the_dangerous_and_the_damaged_are_refused(tmp_path: Path, case: str):
    make, message = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as refused:
        open_archive(path, tmp_path / "scratch")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    if "gzip" in case or "bomb" in case:
        assert not list((tmp_path / "scratch").glob("*")), "nothing partial is left"


def test_a_link_inside_the_tree_is_passed_over(tmp_path: Path):
    path = make_tar(tmp_path / "x.tar", extra=symlink("a/1.jpg"))
    assert open_archive(path, tmp_path).members.keys() == FILES.keys()


def test_what_macos_adds_is_passed_over(tmp_path: Path):
    def extra(archive: zipfile.ZipFile) -> None:
        for name in ("__MACOSX/set/a/._1.jpg", "set/a/._1.jpg"):
            archive.writestr(name, b"no image")

    assert open_archive(make_zip(tmp_path / "set.zip", extra), tmp_path).members.keys() == FILES.keys()


def test_a_damaged_member_is_named_when_it_is_read(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"twotwo", b"tw0two", 1))
    archive = open_archive(path, tmp_path)
    assert archive.read("set/a/1.jpg") == b"one"
    with pytest.raises(InputError, match=r"set/b/2\.jpg cannot be read"):
        archive.read("set/b/2.jpg")
