"""Members of archives are refused as by tarfile's own filter, which not every Python has."""

import io
import itertools
import tarfile
from pathlib import Path

import pytest

from m2mkd.data import archive_checks
from m2mkd.data.archives import open_archive
from m2mkd.errors import InputError


def test_archives_are_read_where_tarfile_has_no_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in Python 3.11.2, that of Debian 12."""
    for name in ("data_filter", "FilterError"):
        monkeypatch.delattr(tarfile, name)
    entry = tarfile.TarInfo("set/a/1.jpg")
    entry.size = 3
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.addfile(entry, io.BytesIO(b"one"))
    assert list(open_archive(tmp_path / "set.tar", tmp_path).members) == ["set/a/1.jpg"]


def test_what_tarfiles_own_filter_refuses_is_refused(tmp_path: Path):
    names = ("a", "a/b", "..", "../a", "a/../b", "a/../../b", "a/..b", "/a", ".")
    kinds = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    refused = 0
    for name, kind, target in itertools.product(names, kinds, names):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, target
        try:
            if name.startswith("/"):
                raise tarfile.AbsolutePathError(entry)
            tarfile.data_filter(entry, str(tmp_path))
        except tarfile.FilterError:
            refused += 1
            with pytest.raises(InputError, match=r"out of the archive|a device or pipe"):
                archive_checks.accepted(tmp_path, entry)
        else:
            archive_checks.accepted(tmp_path, entry)
    assert 0 < refused < len(names) ** 2 * len(kinds)
