"""Manifest of a packed set: its required fields, and its digest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from m2mkd.config.datasets import LARGEST_IMAGE, PREPARE_FORMAT
from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import require_file

PACK_MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1 << 26
"""Maximum bytes; the manifest of a set of a thousand classes has a thousandth of it."""
SHA256_BYTES = 32
FileWord = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
"""Pattern for names of splits and attributes, which become parts of file names."""


class _Exact(BaseModel):
    """Base model without further fields or type conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SplitFacts(_Exact):
    """Facts about a split in a manifest."""

    images: NonNegativeInt
    per_class: tuple[NonNegativeInt, ...]
    attributes: tuple[FileWord, ...]
    storage: Literal["pixels", "encoded"]
    final: bool
    instances: NonNegativeInt = 0
    """Number of instances that are not crowds; a split of labelled images has neither."""
    crowds: NonNegativeInt = 0

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if len({"instances", "crowds"} & self.model_fields_set) == 1:
            raise ValueError("instances and crowds must be given together")
        return self


class FileFacts(_Exact):
    """Facts about a file in a manifest."""

    bytes: NonNegativeInt
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(_Exact):
    """Manifest of a packed set, without its digest."""

    format: int
    name: str
    image_size: int = Field(ge=1, le=LARGEST_IMAGE)
    synthetic: bool
    classes: tuple[str, ...]
    splits: dict[FileWord, SplitFacts]
    source: dict[str, Any]
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")], FileFacts]
    prepared_from: dict[str, str] = Field(default_factory=dict)
    """Digests of a subset's source files, which may differ elsewhere; the digest of the manifest does not cover them."""


def read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """Manifest of a packed set, and its digest.

    Raises
    ------
    InputError
        If it is missing, of another format version, or damaged.
    """
    path = folder / PACK_MANIFEST
    try:
        size = require_file(path).st_size
        manifest: Any = parse_json(path.read_bytes(), str(path)) if size <= LARGEST_MANIFEST else None
        digest, found = manifest.pop("digest"), manifest.get("format")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; run 'm2mkd data prepare {folder.parent.name}' first") from None
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})", folder) from error
    except (KeyError, AttributeError) as error:
        raise damaged(path, "is not a manifest", folder) from error
    except InputError as error:
        raise damaged(path, f"is not a manifest ({str(error).removeprefix(f'{path}: ')})", folder) from error
    if found != PREPARE_FORMAT:
        raise damaged(path, f"has format {str(found)[:40]}, but this version reads {PREPARE_FORMAT}", folder)
    if manifest_digest(manifest) != digest:
        raise damaged(path, "is damaged: its content does not match its digest", folder)
    try:
        Manifest.model_validate_json(json.dumps(manifest))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise damaged(path, f"is not a manifest: {field} is missing or wrong", folder) from None
    return manifest, digest


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of a manifest, which contains the digests of all files; it does not depend on the source files of a subset."""
    content = {key: value for key, value in manifest.items() if key != "prepared_from"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def damaged(path: Path, what: str, folder: Path) -> InputError:
    """Error about a file of a packed set that differs from what was written."""
    return InputError(f"{path} {what}; remove {folder} and run the workflow again")
