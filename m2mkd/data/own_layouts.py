"""Layouts of images that people have: folders, tables of paths, Parquet as hubs hand it out, and WebDataset's shards."""

import csv
import io
import json
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

from m2mkd.config.layout import SourcePaths
from m2mkd.data.archive_checks import CLUTTER
from m2mkd.data.archives import LARGEST_FILE, Archive, open_archive
from m2mkd.data.image_layout import FoundImage, ImageLayout, SplitWord, split_word, word_of
from m2mkd.data.lists import LARGEST_LIST, has_image_name, has_text_name, text_of
from m2mkd.errors import InputError
from m2mkd.files import require_file

TABLES, SHARDS = (".csv", ".tsv"), (".tar", ".tgz", ".tar.gz")
CSV_PATHS, CSV_LABELS, CSV_SPLITS = ("path", "file", "file_name", "filename", "image"), ("label", "class"), ("split", "set")
"""Names of columns; the first one found is used."""
CLASS_LISTS = ("classnames.txt", "classes.txt")
"""Files next to shards that name the classes, one a line, in the order of the labels."""


class FolderFile(NamedTuple):
    """File in a folder: small, so that it can be passed to another process."""

    archive: Path
    """The folder."""
    name: str

    def read(self) -> bytes:
        """Content of the file.

        Raises
        ------
        InputError
            If it cannot be read, is empty, or is larger than any image.
        """
        path = self.archive / self.name
        try:
            size = require_file(path).st_size
            content = path.read_bytes() if 0 < size <= LARGEST_FILE else b""
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); allow reading it, or remove it from the set") from None
        if not content:
            what = "is empty" if not size else f"has {size} bytes, more than the {LARGEST_FILE} of any image"
            raise InputError(f"{path}: {what}; replace it by a complete image, or remove it from the set")
        return content


def _entries(folder: Path, top: Path) -> Iterator[os.DirEntry[str]]:
    """Folders and files in a folder, in alphabetical order, without what operating systems and people add."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); allow reading it, or give another folder") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name in CLUTTER or entry.name == "__MACOSX":
            continue
        if entry.is_symlink():
            _require_inside(Path(entry.path), top)
            if entry.is_dir():
                raise InputError(f"{entry.path}: is a link to a folder; put the folder itself there")
        yield entry


def _require_inside(path: Path, top: Path) -> None:
    """Refuse a path that leaves its folder."""
    if not path.resolve().is_relative_to(top.resolve()):
        raise InputError(f"{path}: leads out of {top}; put the image itself there")


class Folder(ImageLayout):
    """A folder of images as it is: ``train``, ``val`` (or ``valid``, ``test``) with a folder for each class, or the classes alone."""

    kind: Literal["folder"] = "folder"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_dir() and not any(_holds(path, suffix) for suffix in (".parquet", *SHARDS))

    def images(self, path: Path, scratch: Path) -> Iterator[FoundImage]:
        if not path.is_dir():
            raise InputError(f"{path}: is not a folder; give the folder that holds a folder for each class")
        inside = self._folders(path, path)
        words = {entry.name: word_of(entry.name) for entry in inside}
        if not any(words.values()):
            yield from self._classes(path, inside, "")
            return
        for entry in inside:
            word = words[entry.name]
            if word is None:
                raise InputError(
                    f"{entry.path}: is next to {', '.join(n for n, w in words.items() if w)}, but is not a split; move it into one"
                )
            if not self.leaves_out(word):
                yield from self._classes(path, self._folders(Path(entry.path), path), word)

    def _folders(self, folder: Path, top: Path) -> list[os.DirEntry[str]]:
        """Folders in a folder; an image next to them is in no class."""
        entries = list(_entries(folder, top))
        if stray := next((entry for entry in entries if not entry.is_dir() and not has_text_name(entry.name)), None):
            raise InputError(f"{stray.path}: is in the folder of no class; move it into one, or remove it")
        return [entry for entry in entries if entry.is_dir()]

    def _classes(self, top: Path, folders: list[os.DirEntry[str]], word: SplitWord) -> Iterator[FoundImage]:
        for folder in folders:
            for entry in _entries(Path(folder.path), top):
                if entry.is_dir():
                    raise InputError(
                        f"{entry.path}: is a folder in that of class {folder.name}; classes are not nested: move its images up"
                    )
                if not has_text_name(entry.name):
                    yield FoundImage(folder.name, word, FolderFile(top, Path(entry.path).relative_to(top).as_posix()))


def _holds(folder: Path, suffix: str) -> bool:
    """True if a folder, or one in it, holds a file of that suffix."""
    return any(next(folder.glob(f"{depth}*{suffix}"), None) for depth in ("", "*/"))


class CSV(ImageLayout):
    """A table of paths and labels, in CSV or TSV, perhaps with a column of splits; paths are relative to the folder of the table."""

    kind: Literal["csv"] = "csv"
    path_column: str | None = None
    """Column of the paths; none: path, file, file_name, filename or image."""
    label_column: str | None = None
    """Column of the names or numbers of classes; none: label or class."""
    split_column: str | None = None
    """Column of the splits; none: split or set, if there is one."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file() and path.name.lower().endswith(TABLES)

    def images(self, path: Path, scratch: Path) -> Iterator[FoundImage]:
        rows = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        header, top = list(rows.fieldnames or ()), path.parent
        names = self._column(path, header, self.path_column, CSV_PATHS)
        labels = self._column(path, header, self.label_column, CSV_LABELS)
        splits = self._column(path, header, self.split_column, CSV_SPLITS, needed=self.split_column is not None)
        seen: set[str] = set()
        try:
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                name, label = (row[names] or "").strip(), (row[labels] or "").strip()
                if not name or not label:
                    raise InputError(f"{where}: has no {'label' if name else 'path'}; write one, or remove the line")
                word = self._word(row[splits] or "", where) if splits else ""
                if name in seen:
                    raise InputError(f"{where}: {name} is listed twice; remove one of the lines")
                seen.add(name)
                self._require_file(top, name, where)
                yield FoundImage(label, word, FolderFile(top, name))
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: is not a line of a table ({error}); write one image a line") from None

    @staticmethod
    def _column(path: Path, header: list[str], wanted: str | None, known: tuple[str, ...], needed: bool = True) -> str:
        found = next((name for name in ([wanted] if wanted else known) if name in header), "")
        if needed and not found:
            fix = "name it in the parameters of the layout, or write a first line with the names of the columns"
            raise InputError(f"{path}: has no column {wanted or ' or '.join(known)}, but {', '.join(header)[:80] or 'none'}; {fix}")
        return found

    @staticmethod
    def _word(text: str, where: str) -> SplitWord:
        word = word_of(text)
        if word is None:
            raise InputError(f"{where}: '{text}' is not a split; write train, val or test")
        return word

    @staticmethod
    def _require_file(top: Path, name: str, where: str) -> None:
        if (
            PurePosixPath(name).is_absolute()
            or ".." in PurePosixPath(name).parts
            or not (top / name).resolve().is_relative_to(top.resolve())
        ):
            raise InputError(f"{where}: {name} leads out of {top}; write paths below the folder of the table")
        try:
            there = stat.S_ISREG((top / name).stat().st_mode)
        except OSError:
            there = False
        if not there:
            raise InputError(f"{where}: {name} is not a file in {top}; correct the path, or remove the line")


def _text(path: Path) -> str:
    try:
        if require_file(path).st_size > LARGEST_LIST:
            raise InputError(f"{path}: is larger than {LARGEST_LIST} bytes; divide the set")
        return text_of(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file that can") from None
    except ValueError as error:
        raise InputError(f"{path}: is not text ({error}); save it as CSV in UTF-8") from None


class Parquet(ImageLayout):
    """Parquet with the bytes of images, as hubs hand it out: a file or a folder of them, or registered source files."""

    SOURCES: ClassVar[tuple[int, ...] | None] = None
    MAPPED: ClassVar[bool] = True
    kind: Literal["parquet"] = "parquet"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.name.lower().endswith(".parquet") if path.is_file() else path.is_dir() and _holds(path, ".parquet")

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.parquet import parquet

        return parquet(source.paths, source.splits)

    def images(self, path: Path, scratch: Path) -> Iterator[FoundImage]:
        from m2mkd.data.parquet import labelled_rows

        for file, word in _files(path, (".parquet",)):
            if not self.leaves_out(word):
                yield from (FoundImage(name, word, row) for name, row in labelled_rows(file))


def _files(path: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, SplitWord]]:
    """Files of a suffix at a path, or in the folder there, each with the split that its name says."""
    if not path.is_dir():
        yield path, split_word(PurePosixPath(path.name))
        return
    found = sorted(file for file in path.rglob("*") if file.name.lower().endswith(suffixes) and not file.is_dir())
    if not found:
        raise InputError(f"{path}: holds no {' or '.join(suffixes)}; give the folder of the files")
    for file in found:
        _require_inside(file, path)
        yield file, split_word(PurePosixPath(file.relative_to(path).as_posix()))


class WebDataset(ImageLayout):
    """Shards of WebDataset: tars in which an image and its class have one name, as ``0001.jpg`` and ``0001.cls`` (or ``.json``)."""

    kind: Literal["webdataset"] = "webdataset"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.name.lower().endswith(SHARDS) if path.is_file() else path.is_dir() and any(_holds(path, suffix) for suffix in SHARDS)

    def images(self, path: Path, scratch: Path) -> Iterator[FoundImage]:
        names = self._class_names(path)
        for file, word in _files(path, SHARDS):
            if not self.leaves_out(word):
                yield from self._shard(open_archive(file, scratch), word, names)

    @staticmethod
    def _class_names(path: Path) -> list[str]:
        folder = path if path.is_dir() else path.parent
        found = next((folder / name for name in CLASS_LISTS if (folder / name).is_file()), None)
        return [line.strip() for line in _text(found).splitlines() if line.strip()] if found else []

    def _shard(self, shard: Archive, word: SplitWord, names: list[str]) -> Iterator[FoundImage]:
        samples: dict[str, dict[str, str]] = defaultdict(dict)
        for name in shard.members:
            folder, _, base = name.rpartition("/")
            key, _, kind = base.partition(".")
            samples[f"{folder}/{key}"]["image" if has_image_name(name) else kind.lower()] = name
        for parts in samples.values():
            label = next((parts[kind] for kind in ("cls", "json") if kind in parts), None)
            if "image" not in parts:
                if label is not None:
                    raise InputError(f"{shard.path}: {label} is a label without an image; remove it, or add the image")
                continue
            if label is None:
                raise InputError(f"{shard.path}: {parts['image']} has no label; add a file .cls or .json of the same name")
            yield FoundImage(self._named(shard, label, names), word, shard.member(parts["image"]))

    @staticmethod
    def _named(shard: Archive, file: str, names: list[str]) -> str:
        try:
            text = text_of(shard.read(file, LARGEST_LIST)).strip()
            if file.lower().endswith(".json"):
                content = json.loads(text)
                text = str(next(content[key] for key in ("cls", *CSV_LABELS) if key in content))
        except (ValueError, TypeError, StopIteration, RecursionError):
            raise InputError(f"{shard.path}: {file} holds no class; write its name or number, in JSON as 'label'") from None
        if not names or not text.isdecimal():
            return text
        if int(text) >= len(names):
            raise InputError(
                f"{shard.path}: {file} has the class {text}, but {len(names)} are named next to it; correct the list of classes"
            )
        return names[int(text)]
