"""Architectures at their published size, in any installation of the package.

``config/models.yaml`` is their only source; the package contains it as ``m2mkd/config/models.yaml``, in a checkout a link.
"""

from pathlib import Path
from typing import Any

from m2mkd.config.load import checked, merged, read_yaml
from m2mkd.config.models import Model, NACConfig, ViTConfig, VMoEConfig
from m2mkd.errors import InputError

PUBLISHED = Path(__file__).with_name("models.yaml")


def published(name: str, **changes: Any) -> ViTConfig | VMoEConfig | NACConfig:
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
    architectures = read_yaml(PUBLISHED)
    if name not in architectures:
        raise InputError(f"{PUBLISHED.name}: no architecture '{name}'; it has {', '.join(sorted(architectures))}")
    return checked(Model, merged(architectures[name], changes), f"architecture {name}")
