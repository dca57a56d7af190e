"""A data set of grey images."""

import io
import zipfile
from pathlib import Path

from PIL import Image


def archive(path: Path, shade: int) -> None:
    """Two classes of a grey image each, for training and for validation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for split in ("train", "val"):
            for name in ("a", "b"):
                buffer = io.BytesIO()
                Image.new("RGB", (40, 40), (shade, shade, shade)).save(buffer, "PNG")
                file.writestr(f"set/{split}/{name}/0.png", buffer.getvalue())
