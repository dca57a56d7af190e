"""Keys: digests of everything that decides a result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(value: object) -> str:
    """First 16 hexadecimal digits of the sha256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_key(format_: int, config: Mapping[str, Any], upstream: Mapping[str, Any]) -> str:
    """Key of a run: its phase's format version, its configuration, and the runs that it builds on.

    Parameters
    ----------
    format_
        ``FORMAT`` of the phase.
    config
        Resolved configuration as plain values; holds the keys of its data sets.
    upstream
        Run ids (``phase/key``) by role.
    """
    return digest({"format": format_, "config": config, "upstream": upstream})


SEAL = "digest"
"""Field of a file that holds the digest of all others."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a file with its own digest, which reveals any change."""
    return {**content, SEAL: _seal(content)}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """True if a file's content matches its own digest."""
    try:
        return content.get(SEAL) == _seal(content)
    except ValueError:  # numbers that canonical JSON lacks
        return False


def _seal(content: Mapping[str, Any]) -> str:
    return digest({name: value for name, value in content.items() if name != SEAL})
