"""Streaming reader of large JSON documents: the items of their lists, one at a time."""

import codecs
import json
import re
from collections.abc import Container, Iterator
from typing import IO, Any

CHUNK = 1 << 20
LARGEST_ITEM = 1 << 26
"""Maximum characters of an item; a longer one counts as damaged. The largest annotation of COCO has about 2^18."""
_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")


def read_lists(file: IO[bytes], names: Container[str]) -> Iterator[tuple[str, Any]]:
    """Items of lists that are members of a JSON object, in the order of the file.

    Parameters
    ----------
    file
        Holds one object, in UTF-8.
    names
        Wanted members; each must be a list. Others are ignored.

    Yields
    ------
    tuple
        Name of the list, and one of its items.

    Raises
    ------
    ValueError
        If the file is not a complete JSON object, or a wanted member is not a list; names the position.
    """
    text = _Text(file)
    text.take("{", "the beginning of an object")
    while text.ahead() != "}":
        name = text.value("a name")
        text.take(":", f"the value of {name!r}")
        if text.ahead() != "[":
            if name in names:
                raise ValueError(f"{name!r} is not a list")
            text.value(f"the value of {name!r}")
        else:
            for item in _items(text, str(name)):
                if name in names:
                    yield str(name), item
        if text.take(",}", f"the end of the object, after {name!r}") == "}":
            break
    if left := text.ahead():
        raise ValueError(f"has {left!r} after the end of the object")


def _items(text: "_Text", name: str) -> Iterator[Any]:
    text.take("[", name)
    number = 0
    if text.ahead() == "]":
        text.take("]", name)
        return
    while True:
        yield text.value(f"{name}[{number}]")
        number += 1
        if text.take(",]", f"the end of {name!r}, after its {number} items") == "]":
            return


class _Text:
    """Text of a file; only the part being read is in memory."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._place = "", 0

    def ahead(self) -> str:
        """Next non-blank character; empty at the end."""
        while True:
            match = _BLANK.match(self._text, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def take(self, expected: str, what: str) -> str:
        """Consume one of the expected characters."""
        found = self.ahead()
        if not found:
            raise ValueError(f"ends before {what}")
        if found not in expected:
            raise ValueError(f"{found!r} instead of {what}")
        self._place += 1
        return found

    def value(self, what: str) -> Any:
        """Consume one value."""
        if not self.ahead():
            raise ValueError(f"ends before {what}")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
                whole = end < len(self._text)  # a number may continue in text that is not read yet
                failure = None
            except (ValueError, RecursionError) as error:
                whole, failure = False, error
            if not whole and len(self._text) - self._place <= LARGEST_ITEM and self._more():
                continue
            if failure is not None:
                said = failure.msg if isinstance(failure, json.JSONDecodeError) else str(failure)
                raise ValueError(f"{what} is damaged or cut off ({said})") from None
            self._place = end
            return value

    def _more(self) -> bool:
        """Read more text: as much again as is pending, so that a long value is not decoded over and over."""
        new = self._file.read(max(CHUNK, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + self._decode(new, final=not new), 0
        return bool(new)
