"""Archives are listed and read in place; the dangerous and the damaged are refused in one line."""

import copy
import io
import pickle
import random
import resource
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from m2mkd.data import archive_checks, archives
from m2mkd.data.archives import open_archive
from m2mkd.errors import InputError
from tests.special_files import not_a_file

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
        assert archive.read(name) == pickle.loads(pickle.dumps(archive.member(name))).read() == FILES[name]
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


def bomb_link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("set/link")
    entry.external_attr, entry.compress_type = 0o120777 << 16, zipfile.ZIP_DEFLATED
    return entry


def overlapping(archive: zipfile.ZipFile) -> None:
    """As many names as make a bomb for the same bytes, which are no bomb."""
    archive.writestr("set/0.jpg", random.Random(0).randbytes(1 << 20), zipfile.ZIP_STORED)
    for number in range(1, 300):
        archive.filelist.append(entry := copy.copy(archive.filelist[-1]))
        entry.filename = f"set/{number}.jpg"


def long_link(archive: zipfile.ZipFile) -> None:
    """A link that leads to zeros without end, which a zip holds in few bytes."""
    entry = zipfile.ZipInfo("set/link")
    entry.external_attr, entry.compress_type = 0o120777 << 16, zipfile.ZIP_DEFLATED
    archive.writestr(entry, bytes(900_000))  # small enough to be no bomb


def nested(size: int) -> Callable[[tarfile.TarFile], None]:
    """A member whose header claims a size."""

    def extra(archive: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo("set/odd.jpg")
        header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT) if size >= 0 else b"\xff" * 4 + (256**8 + size).to_bytes(8)
        header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header)[0]
        archive.fileobj.write(header)
        archive.offset += 512

    return extra


def long_header(kind: bytes) -> Callable[[tarfile.TarFile], None]:
    """A name, or attributes, of a megabyte before a member: digits, over which the parser of attributes ponders for hours."""
    return lambda archive: add(archive, "././@LongLink", b"1" * (1 << 20), type=kind)


def with_attributes(**attributes: str) -> Callable[[tarfile.TarFile], None]:
    return lambda archive: add(archive, "set/x.jpg", pax_headers=attributes)


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
    "link of a zip that is long": (zip_with(long_link), "is a link of 900000 bytes"),
    "link of a zip that is a bomb": (zip_with(lambda archive: archive.writestr(bomb_link(), bytes(50_000_000))), BOMB),
    "negative size": (tar_with(nested(-512)), BROKEN),
    "negative size in attributes": (tar_with(with_attributes(size="-1024")), "claims -1024 bytes"),
    "size beyond every limit": (tar_with(nested(1 << 40)), "claims 1099511627776 bytes that are not there"),
    "size beyond the file": (tar_with(nested(1 << 30)), f"truncated|{BROKEN}"),
    "long attributes": (tar_with(long_header(tarfile.XHDTYPE)), BROKEN),
    "long name": (tar_with(long_header(tarfile.GNUTYPE_LONGNAME)), BROKEN),
    "name that is long": (tar_with(lambda archive: add(archive, "a/" * 300 + "x", b"x")), "is a name of 601 characters"),
    "folder in its place": (lambda folder: not_a_file(folder, "folder"), "is a folder; replace it by the file itself"),
    "pipe in its place": (lambda folder: not_a_file(folder, "pipe"), "is a pipe; replace it by the file itself"),
    "device in its place": (lambda folder: not_a_file(folder, "device"), "is a device; replace it by the file itself"),
    "socket in its place": (lambda folder: not_a_file(folder, "socket"), "is a socket; replace it by the file itself"),
    "device": (tar_with(lambda archive: add(archive, "set/tty", type=tarfile.CHRTYPE)), DEVICE),
    "pipe": (tar_with(lambda archive: add(archive, "set/pipe", type=tarfile.FIFOTYPE)), DEVICE),
    "name twice": (tar_with(lambda archive: add(archive, "set/a/1.jpg", b"other")), "occurs twice"),
    "bomb in a zip": (zip_with(lambda archive: archive.writestr("set/bomb", bytes(50_000_000))), BOMB),
    "bomb of members that overlap": (zip_with(overlapping), BOMB),
    "bomb in a tar": (tar_with(lambda archive: add(archive, "set/bomb", bytes(50_000_000)), "w:gz"), BOMB),
    "tar with a name that ends in its middle": (tar_with(lambda archive: add(archive, "x", pax_headers={"path": "set/a\0b"})), BROKEN),
    "no archive": (lambda folder: _written(folder / "x.zip", b"<html>not found</html>" * 100), BROKEN),
    "empty file": (lambda folder: _written(folder / "x.tar", b""), BROKEN),
    "absent": (lambda folder: folder / "x.zip", "missing; fetch it first"),
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
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError, match=message) as refused:
        open_archive(path, tmp_path / "scratch")
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "KiB"
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    if "gzip" in case or "bomb" in case:
        assert not list((tmp_path / "scratch").glob("*")), "nothing partial is left"


def test_a_link_inside_the_tree_is_passed_over(tmp_path: Path):
    path = make_tar(tmp_path / "x.tar", extra=symlink("a/1.jpg"))
    assert open_archive(path, tmp_path).members.keys() == FILES.keys()


def test_what_systems_add_is_passed_over(tmp_path: Path):
    names = ("__MACOSX/set/a/1.jpg", "set/a/._1.jpg", "set/a/.DS_Store", "set/Thumbs.db", "set/b/desktop.ini")
    zipped = make_zip(tmp_path / "set.zip", lambda archive: [archive.writestr(name, b"no image") for name in names])
    tarred = make_tar(tmp_path / "set.tar", extra=lambda archive: [add(archive, name, b"no image") for name in names])
    for path in (zipped, tarred):
        assert open_archive(path, tmp_path).members.keys() == FILES.keys()


@pytest.mark.parametrize(("raw", "name"), [("caf\u00e9".encode(), "caf\u00e9"), (b"caf\xe9", "caf\u00e9")], ids=["UTF-8", "Latin-1"])
def test_names_of_a_tar_that_are_no_utf_8(tmp_path: Path, raw: bytes, name: str):
    path = make_tar(
        tmp_path / "set.tar", extra=lambda archive: add(archive, f"set/{raw.decode('utf-8', 'surrogateescape')}.jpg", b"content")
    )
    archive = open_archive(path, tmp_path)
    assert list(archive.members) == [*FILES, f"set/{name}.jpg"]
    assert archive.read(f"set/{name}.jpg") == b"content"
    assert f"set/{name}.jpg".encode(), "it can be written"


@pytest.mark.parametrize(
    ("raw", "marked", "name"),
    [("caf\u00e9".encode(), False, "caf\u00e9"), ("caf\u00e9".encode(), True, "caf\u00e9"), (b"caf\x82", False, "caf\u00e9")],
    ids=["UTF-8", "marked as such", "code page 437"],
)
def test_names_of_a_zip_that_are_not_marked(tmp_path: Path, raw: bytes, marked: bool, name: str):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x" * len(raw)), b"content")
    content = path.read_bytes().replace(b"x" * len(raw), raw)
    if marked:
        content = flagged(content, 0x800)
    path.write_bytes(content)
    archive = open_archive(path, tmp_path)
    assert list(archive.members) == [name]
    assert archive.read(name) == b"content"


def flagged(content: bytes, flag: int) -> bytes:
    """A zip of one member with a flag set, in both of its headers."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.index(signature) + offset
        changed[at : at + 2] = (int.from_bytes(changed[at : at + 2], "little") | flag).to_bytes(2, "little")
    return bytes(changed)


def test_a_name_that_is_marked_as_utf_8_and_is_none_is_refused(tmp_path: Path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xxxx", b"content")
    path.write_bytes(flagged(path.read_bytes().replace(b"xxxx", b"caf\xe9"), 0x800))
    with pytest.raises(InputError, match="not a whole archive"):
        open_archive(path, tmp_path)


def test_names_that_steer_a_terminal_are_shown_and_not_obeyed(tmp_path: Path):
    path = make_tar(tmp_path / "set.tar", extra=lambda archive: add(archive, "../\x1b[2J", b"x"))
    with pytest.raises(InputError, match=r"\.\./\\x1b\[2J is a path out of the archive"):
        open_archive(path, tmp_path)


def test_more_files_than_any_set_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive_checks, "MOST_MEMBERS", 2)
    for path in (make_tar(tmp_path / "set.tar"), make_zip(tmp_path / "set.zip")):
        with pytest.raises(InputError, match="holds more than 2 files"):
            open_archive(path, tmp_path)


def test_a_file_that_is_larger_than_its_kind_is_not_read(tmp_path: Path):
    for path in (make_tar(tmp_path / "set.tar"), make_zip(tmp_path / "set.zip")):
        archive = open_archive(path, tmp_path)
        assert len(archive.read("set/b/2.jpg", 3000)) == 3000
        with pytest.raises(InputError, match=r"set/b/2\.jpg has 3000 bytes, more than the 2999 of any such file"):
            archive.read("set/b/2.jpg", 2999)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_flipped_byte_of_a_member_of_a_zip_is_noticed(tmp_path: Path, compression: int):
    """By its checksum at the latest."""
    path = make_zip(tmp_path / "x.zip", compression=compression)
    content, name = path.read_bytes(), "set/a/1.jpg"
    start = content.index(name.encode()) + len(name)
    with zipfile.ZipFile(path) as archive:
        end = start + archive.getinfo(name).compress_size
    said = []
    for position in range(start, end):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        archives._kept.cache_clear()
        try:
            found = open_archive(path, tmp_path).read(name)
        except InputError as refused:
            said.append(str(refused))
        else:
            assert found == FILES[name], "it is of no effect, as in the bits that fill the last byte"
    assert len(said) > (end - start) // 2
    assert all("set/a/1.jpg cannot be read" in line for line in said)


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path):
    path = make_tar(tmp_path / "set.tgz", "w:gz")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            open_archive(path, tmp_path / "scratch")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "scratch").iterdir()), "nothing partial is left"


def test_a_damaged_member_is_named_when_it_is_read(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"twotwo", b"tw0two", 1))
    archive = open_archive(path, tmp_path)
    assert archive.read("set/a/1.jpg") == b"one"
    with pytest.raises(InputError, match=r"set/b/2\.jpg cannot be read"):
        archive.read("set/b/2.jpg")
