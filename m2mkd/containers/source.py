"""Digest by which an image's copy of the package is compared with the project's."""

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
"""Folder of the running package."""


def source_digest(package: Path = PACKAGE) -> str:
    """Digest of all files of a package, as they are on the disk, in hexadecimal.

    Parameters
    ----------
    package
        Folder of the package; bytecode and hidden files do not count, because images do not contain them.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
