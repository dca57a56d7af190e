"""From a registered data set to a packed one."""

from collections.abc import Callable
from pathlib import Path

from m2mkd.config.datasets import Dataset
from m2mkd.data.digits import prepare_digits
from m2mkd.data.pack import Content, write_pack
from m2mkd.data.renditions import prepare_renditions
from m2mkd.errors import InputError

PREPARERS: dict[str, Callable[[str, Dataset, int], Content]] = {
    "digits": prepare_digits,
    "digits_rendition": prepare_renditions,
}
"""For each layout, what turns its source into images of a size."""


def prepare(name: str, dataset: Dataset, image_size: int, folder: Path) -> None:
    """Prepare a data set at an image size as a packed set in ``folder``, which appears only when complete.

    Parameters
    ----------
    name
        Name in ``config/datasets.yaml``.
    dataset
        Its entry there.
    image_size
        Side of the packed images in pixels.
    folder
        Where the packed set goes; what lies there is replaced.

    Raises
    ------
    InputError
        If the layout has no preparer, the source is absent or not the registered one, it does not hold the registered number of
        classes, or ``folder`` cannot be written.
    """
    if dataset.layout not in PREPARERS:
        known = " or ".join(PREPARERS)
        raise InputError(f"config/datasets.yaml: {name}: layout '{dataset.layout}' has no preparer; use a set of layout {known}")
    content = PREPARERS[dataset.layout](name, dataset, image_size)
    if len(content.classes) != dataset.classes:
        found = len(content.classes)
        raise InputError(f"config/datasets.yaml: {name}: classes is {dataset.classes}, but the source holds {found}; write {found}")
    try:
        write_pack(folder, name, image_size, content, dataset.synthetic)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{folder}: cannot write the prepared set {name} ({reason}); free space or allow writing there") from error
