"""Names that a shell completes, read from the folders of the configuration."""

from collections.abc import Iterator
from pathlib import Path

EXPERIMENTS, SCALES = Path("config/experiments"), Path("config/scales")


def complete_experiment(incomplete: str) -> list[str]:
    """Experiments that begin so; behind a slash, their variants."""
    name, slash, _ = incomplete.partition("/")
    names = _variants(name) if slash else _stems(EXPERIMENTS)
    return sorted(found for found in names if found.startswith(incomplete))


def complete_scale(incomplete: str) -> list[str]:
    """Scales that begin so."""
    return sorted(found for found in _stems(SCALES) if found.startswith(incomplete))


def _stems(folder: Path) -> Iterator[str]:
    return (path.stem for path in folder.glob("*.yaml"))


def _variants(name: str) -> Iterator[str]:
    import yaml

    try:
        content = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return iter(())
    fields = content if isinstance(content, dict) else {}
    return (f"{name}/{variant}" for field in ("variants", "settings") for variant in fields.get(field) or ())
