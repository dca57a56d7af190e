"""Prepared sets, and whether they are the same."""

import re

from m2mkd.data.pack import Pack
from tests.archives import Files


def content(pack: Pack) -> Files:
    return {path.name: path.read_bytes() for path in sorted(pack.folder.iterdir()) if path.name != "manifest.json"}


def require_same(one: Pack, other: Pack) -> None:
    assert content(one) == content(other)
    digests = [re.search(r'"digest": "(\w{64})"', (pack.folder / "manifest.json").read_text())[1] for pack in (one, other)]
    assert digests[0] == digests[1]
