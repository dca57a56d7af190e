"""What an image's copy of the package must share with the one beside it."""

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
"""The package that runs."""


def source_digest(package: Path = PACKAGE) -> str:
    """Digest of all files of a package, as they are on the disk, in hexadecimal.

    Parameters
    ----------
    package
        Folder of the package; bytecode and what is hidden in it does not count, as no image gets it.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
