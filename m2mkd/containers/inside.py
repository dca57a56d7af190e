"""Facts about the image that the process is in."""

import os
import sys
from pathlib import Path
from typing import Any

from m2mkd.errors import InputError

ORDER = "M2MKD_CONTAINER"
"""Variable by which the workflow requires a job to run in an image."""
DIGEST = "M2MKD_IMAGE_DIGEST"
"""Variable with the digest of that image, whose file cannot be seen from inside."""

ABOUT = Path(sys.prefix, "share", "m2mkd")
"""Folder of an image's own facts: ``lock.txt``, ``provenance.json``, ``sbom.cdx.json``, ``licences.tsv``."""


def image_path() -> str | None:
    """File or URL of the image that Apptainer runs this process in; none: no image, or another engine's."""
    return os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")


def is_image() -> bool:
    """True if this Python is that of one of the suite's images; the machine itself may be a container of another kind."""
    return (ABOUT / "lock.txt").is_file()


def about() -> dict[str, Any]:
    """Image's own provenance, as written when it was built; empty outside, and in an image built by hand."""
    from m2mkd.config.strict import parse_json

    path = ABOUT / "provenance.json"
    return parse_json(path.read_bytes(), str(path)) if path.is_file() else {}


def record() -> dict[str, Any] | None:
    """Record of the image that a run was computed in; none: the host.

    Returns
    -------
    dict or None
        ``image`` (file or URL as configured, else its own name), ``digest`` (of the image, ``sha256:`` and 64 digits; none if it
        is unknown), ``revision`` (git commit that it was built from), ``lock`` and ``sbom`` (SHA-256 of these files in it).
    """
    if not is_image():
        return None
    from m2mkd.files import sha256

    facts = about()
    digests = {name: sha256(path) for name, path in (("lock", ABOUT / "lock.txt"), ("sbom", ABOUT / "sbom.cdx.json")) if path.is_file()}
    name = os.environ.get(ORDER) or image_path() or facts.get("name")
    return {"image": name, "digest": os.environ.get(DIGEST), "revision": facts.get("revision")} | digests


def root_is_read_only() -> bool:
    """True if the image is read-only."""
    return bool(os.statvfs("/").f_flag & os.ST_RDONLY)


def require_ordered_container() -> None:
    """Refuse to compute outside an image if the workflow requires one, and name the image in the log.

    Raises
    ------
    InputError
        If this process is not in an image, or the image holds another package than the project that it works on.
    """
    ordered = os.environ.get(ORDER)
    if not ordered:
        return
    image = image_path()
    if image is None or not is_image():
        raise InputError(
            f"this job must run in {ordered} but is on the host; run Snakemake with --use-singularity, or with --config container=none"
        )
    _same_package(ordered)
    root = "read-only" if root_is_read_only() else "writable"
    sys.stderr.write(f"container: {image}, root {root}, uid {os.getuid()}, revision {about().get('revision', 'unknown')}\n")


def _same_package(image: str) -> None:
    from m2mkd.containers.source import PACKAGE, source_digest

    project = Path("m2mkd")
    if project.is_dir() and source_digest(project) != source_digest(PACKAGE):
        target = "image-cuda" if "cuda" in image else "image-cpu"
        raise InputError(f"{image} holds another m2mkd than this folder; 'make {target}' makes it again, or add --config container=none")
