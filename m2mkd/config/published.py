"""Architectures at their published size, in any installation of the package.

``config/models.yaml`` is their only source; the package contains it as ``m2mkd/config/models.yaml``, in a checkout a link.
"""

from pathlib import Path
from typing import Any

from m2mkd.config.family import Architecture
from m2mkd.config.load import checked, read_yaml
from m2mkd.config.merge import merged, with_inherited
from m2mkd.config.models import Model
from m2mkd.errors import InputError

PUBLISHED = Path(__file__).with_name("models.yaml")


def published(name: str, **changes: Any) -> Architecture:
    """A published architecture.

    Parameters
    ----------
    name
        Its name in ``config/models.yaml``.
    **changes
        Fields that differ; mappings merge.

    Raises
    ------
    InputError
        If there is none of that name, or a change does not fit.
    """
    architectures = with_inherited(read_yaml(PUBLISHED), PUBLISHED.name)
    if name not in architectures:
        raise InputError(f"{PUBLISHED.name}: no architecture '{name}'; it has {', '.join(sorted(architectures))}")
    found: Architecture = checked(Model, merged(architectures[name], changes), f"architecture {name}")
    return found
