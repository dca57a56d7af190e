"""Checks from inside an image."""

import os
import tempfile
from pathlib import Path

from m2mkd.containers.inside import ABOUT, about, image_path, root_is_read_only
from m2mkd.doctor.check_result import CheckResult


def user() -> CheckResult:
    """Check that the user is not root. Apptainer keeps the caller, who has no more rights inside than outside."""
    uid = os.getuid()
    if uid:
        return CheckResult("user", "pass", f"uid {uid}")
    if image_path():
        return CheckResult("user", "warn", "uid 0, because Apptainer keeps the caller's", "call it as another user")
    return CheckResult("user", "fail", "uid 0", "start the image without --user, or with a numeric user other than 0")


def root() -> CheckResult:
    """Check that the image is read-only."""
    if root_is_read_only():
        return CheckResult("image root", "pass", f"read-only{_of_apptainer()}")
    return CheckResult("image root", "warn", "writable", "start it with --read-only (docker, podman)")


def _of_apptainer() -> str:
    return f", {image}" if (image := image_path()) else ""


def writable(folder: Path) -> CheckResult:
    """Check that results can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return CheckResult("write access", "fail", f"{folder.absolute()}: {error.strerror}", "bind the project, writable for this user")
    return CheckResult("write access", "pass", str(folder.absolute()))


def origin() -> CheckResult:
    """Check that the image records its origin."""
    facts = about()
    if not facts:
        return CheckResult(
            "provenance", "warn", "the image does not record its origin", "build it with 'make image-cpu' or 'make image-cuda'"
        )
    changed = ", with uncommitted changes" if facts["changed"] else ""
    return CheckResult("provenance", "pass", f"{facts['name']} of {facts['created'][:10]}, revision {facts['revision'][:12]}{changed}")


def lock() -> Path:
    """Lock that the image was built from."""
    return ABOUT / "lock.txt"
