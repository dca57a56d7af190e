"""Files of the project, and the digest by which an image's copy of the package is compared with them."""

import hashlib
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

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


def project_files(root: Path, *paths: str) -> list[str]:
    """List the files of a project that git tracks or would track, by their names in its folder.

    Parameters
    ----------
    root
        Folder of the project. An unpacked archive has no repository, so that an empty one reads its ``.gitignore``, even inside another.
    paths
        Files and folders to which the list is limited.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout

    listing = ("ls-files", "--cached", "--others", "--exclude-standard", "--", *paths)
    if (root / ".git").exists():
        return git(*listing).splitlines()
    with TemporaryDirectory() as folder:
        git("init", "-q", folder)
        return git("--git-dir", f"{folder}/.git", "--work-tree", ".", *listing).splitlines()
