"""Parser of released configurations, selected by the kind of checkpoint."""

from collections.abc import Mapping
from typing import Any

from m2mkd.errors import InputError
from m2mkd.upstream import detector_config, nac_config, vit_config
from m2mkd.upstream.description import Description, Shapes
from m2mkd.upstream.kinds import KINDS


def describe_checkpoint(kind: str, config: Mapping[str, Any], shapes: Shapes, where: str = "config") -> Description:
    """Describe a third-party checkpoint.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    config
        For ``nac`` the model's keyword arguments in the released YAML, or the whole YAML; for ``nac_*`` the student
        configuration; for the others constructor arguments.
    shapes
        Shapes of the released tensors; they determine what the configuration leaves open (stages, stitch layers).
    where
        Name of the configuration in errors.

    Raises
    ------
    InputError
        If the kind is unknown, or a key is unknown, missing, or has a value that no released configuration uses.
    """
    if kind not in KINDS:
        raise InputError(f"kind '{kind}' is unknown; use one of {', '.join(KINDS)}")
    if kind == "nac":
        return nac_config.describe_circuit(config, where)
    if kind.startswith("nac_"):
        return nac_config.describe_module(kind, config, shapes, where)
    if kind == "vmoe_detector":
        return detector_config.describe_detector(config, shapes, where)
    return vit_config.describe_transformer(kind, config, shapes, where)
