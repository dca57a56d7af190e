"""Lists of images as a layout: one line ``PATH CLASS`` for each, with paths relative to the folder of the list."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from m2mkd.data.image_layout import FoundImage, ImageLayout
from m2mkd.data.own_layouts import FolderFile
from m2mkd.errors import InputError


class Lines(ImageLayout):
    """A text file with the path and the class of an image on each line, as the lists of many older data sets."""

    kind: Literal["lines"] = "lines"
    comment: str = "#"
    """Beginning of lines that are not read."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.suffix == ".lines"

    def images(self, path: Path, scratch: Path) -> Iterator[FoundImage]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.startswith(self.comment):
                continue
            name, _, class_name = line.strip().rpartition(" ")
            if not name:
                raise InputError(f"{path}, line {number}: has no class; write 'PATH CLASS'")
            yield FoundImage(class_name, "", FolderFile(path.parent, name.strip()))
