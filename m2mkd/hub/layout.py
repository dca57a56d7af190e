"""Files of a student in the hub's layout: ``config.json``, which timm reads too, next to ``model.safetensors`` and ``README.md``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2mkd import __version__
from m2mkd.config.family import Architecture
from m2mkd.config.published import published
from m2mkd.config.registered_families import student_family
from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.study.phase import WEIGHTS, phase_from
from m2mkd.study.phases import TrainStudent
from m2mkd.upstream.foreign import read_text

HUB_CONFIG, CARD = "config.json", "README.md"
FOLDER_FILES = (HUB_CONFIG, CARD, WEIGHTS)
HUB_FORMAT = "m2mkd-hub/1"
"""Value of ``format`` in our section of a configuration."""
SECTION = "m2mkd"
"""Our section of ``config.json``; the rest is timm's."""
ENTRY_POINTS = {
    "vit": ("staged_deit_base_patch16_224", "deit_base"),
    "vmoe": ("vmoe_base_patch16_224", "vmoe_base"),
    "nac": ("nac_imagenet_224", "nac_imagenet"),
}
"""Name by which timm makes a network of a family, and the architecture that its arguments change."""


@dataclass(frozen=True)
class HubStudent:
    """Student in a folder of the hub's layout."""

    config: TrainStudent
    """Resolved configuration of its training."""
    run: str
    """Its run, as ``phase/key``."""
    sha256: str
    """Digest of the weights."""
    weights: Path
    metrics: Mapping[str, Any]
    """Measurements of the run that evaluated it; empty if none had."""


def hub_config(config: TrainStudent, run: str, digest: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Content of ``config.json``.

    Parameters
    ----------
    config, run, digest, metrics
        See `HubStudent`.
    """
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    size, classes, family = config.data.image_size, config.data.classes, student_family(config.student)
    if family.name not in ENTRY_POINTS:
        known = ", ".join(ENTRY_POINTS)
        raise InputError(f"{run}: a student of family {family.name} cannot be pushed, because timm has no name for it; push one of {known}")
    entry_point, base = ENTRY_POINTS[family.name]
    return {
        "architecture": entry_point,
        "num_classes": classes,
        "num_features": family.feature_width(config.student),
        "model_args": _model_args(config, published(base)),
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 224 / 256,
            "mean": list(IMAGENET_DEFAULT_MEAN),
            "std": list(IMAGENET_DEFAULT_STD),
            "num_classes": classes,
        },
        SECTION: {
            "format": HUB_FORMAT,
            "version": __version__,
            "run": run,
            "sha256": digest,
            "config": config.model_dump(mode="json"),
            "metrics": dict(metrics),
        },
    }


def _model_args(config: TrainStudent, base: Architecture) -> dict[str, Any]:
    """Arguments by which timm makes the network: fields that differ from the registered architecture, and those of its class."""
    own, registered = config.student.model_dump(mode="json"), base.model_dump(mode="json")
    arguments = {name: value for name, value in own.items() if value != registered[name]}
    if own.get("stitch") == "kept":
        arguments["stitch_width"] = config.stitch_width
    if config.compat.get("distance_precision") == "half":
        arguments["half_distance"] = True
    return arguments


def read_hub_folder(folder: Path) -> HubStudent:
    """Read a student that ``m2mkd pull`` or ``m2mkd push --output`` wrote, and check the digest of its weights.

    Raises
    ------
    InputError
        If a file is missing, damaged, or not of this layout.
    """
    path, weights = folder / HUB_CONFIG, folder / WEIGHTS
    content = parse_json(read_text(path), str(path))
    section = content.get(SECTION) if isinstance(content, dict) else None
    if not isinstance(section, dict) or section.get("format") != HUB_FORMAT:
        raise InputError(f"{path}: was not written by 'm2mkd push'; give a repository or folder of a student of this suite")
    try:
        config = phase_from(section["config"])
        run, expected, metrics = str(section["run"]), str(section["sha256"]), dict(section["metrics"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not complete, or of another version ({type(error).__name__}); pull it again") from None
    if not isinstance(config, TrainStudent):
        raise InputError(f"{path}: describes a run of {config.name()}, not a student; pull another repository")
    try:
        actual = sha256(weights)
    except OSError as error:
        raise InputError(f"{weights}: cannot be read ({error.strerror}); pull it again") from None
    if actual != expected:
        raise InputError(f"{weights}: sha256 is {actual[:12]}..., but {HUB_CONFIG} says {expected[:12]}...; pull it again")
    return HubStudent(config, run, actual, weights, metrics)
