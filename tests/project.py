"""Files of the project, as git knows them, also where there is no repository."""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent


def git(*arguments: str) -> list[str]:
    """Lines that git prints in the project's folder."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def project_files() -> list[str]:
    """Files that git tracks or would track. An unpacked archive has no repository, so an empty one reads its ``.gitignore``."""
    listing = ("ls-files", "--cached", "--others", "--exclude-standard")
    if (ROOT / ".git").exists():
        return git(*listing)
    with TemporaryDirectory() as folder:
        git("init", "-q", folder)
        return git("--git-dir", f"{folder}/.git", "--work-tree", str(ROOT), *listing)
