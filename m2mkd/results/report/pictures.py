"""Contact sheets of a study's data sets, as its report shows them."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

from m2mkd.config import load
from m2mkd.data.contact_sheet import contact_sheet
from m2mkd.data.pack import Pack, open_pack
from m2mkd.errors import InputError
from m2mkd.study.study import Study

QUALITY = 80
"""Quality of the lossy compression, 0 to 100."""


class Picture(NamedTuple):
    """A picture that is part of a page."""

    name: str
    width: int
    height: int
    description: str
    """Description for readers who do not see it."""
    caption: str
    source: str
    """Content of the picture, as a ``data:`` address."""


def data_pictures(study: Study) -> list[Picture]:
    """Draw a contact sheet of each prepared set of the study; a set that is absent, as after a pull of results only, is left out."""
    used = {str(data): data for run in study.runs.values() for data in run.config.data_sets}
    pictures = []
    for name, data in sorted(used.items()):
        try:
            pack = open_pack(Path(data.folder), verify="never")
        except InputError:
            continue
        pictures.append(_picture(name, pack, load.datasets()[data.name].licence))
    return pictures


def _picture(name: str, pack: Pack, licence: str) -> Picture:
    sheet, buffer = contact_sheet(pack), io.BytesIO()
    sheet.save(buffer, "WEBP", quality=QUALITY)
    splits = pack.manifest["splits"]
    counts = " and ".join(f"{facts['images']} {split}" for split, facts in splits.items())
    made = "made by image operations from another set; " if pack.synthetic else ""
    return Picture(
        name,
        *sheet.size,
        f"Contact sheet of {name}: some images of evenly spread classes, a row for each class, for {' and '.join(splits)}.",
        f"{counts} images of {len(pack.classes)} classes; {made}{licence}.",
        f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}",
    )
