"""Merging of configurations: changes into a base, and of a model's sizes from another that it is like."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from m2mkd.config.registered_families import family_named
from m2mkd.errors import InputError


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``change`` into ``base``: mappings merge, anything else replaces."""
    result = dict(base)
    for name, value in change.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def with_inherited(models: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Entries of models, those with ``like: NAME`` with the fields of that model, as far as their family has them.

    Parameters
    ----------
    models
        Entries by name, at the wanted scale.
    where
        Place of the entries in errors.

    Raises
    ------
    InputError
        If there is no model of that name, or a model is like itself.
    """
    return {name: _with_inherited(models, name, where) for name in models}


def at_full_size(models: Mapping[str, Any], changed: Collection[str]) -> frozenset[str]:
    """Models that neither are ``changed`` nor like one that is."""
    return frozenset(name for name in models if set(changed).isdisjoint(_chain(models, name)))


def _with_inherited(models: Mapping[str, Any], name: str, where: str) -> Any:
    entry, chain = models[name], _chain(models, name)
    if not isinstance(entry, Mapping) or "like" not in entry:
        return entry
    if chain[-1] in chain[:-1]:
        raise InputError(f"{where}: {name}.like: {' is like '.join(chain)}; remove like from one of them")
    own, other = {field: value for field, value in entry.items() if field != "like"}, entry["like"]
    if not isinstance(other, str) or other not in models:
        close = difflib.get_close_matches(str(other), models, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(sorted(models))}"
        raise InputError(f"{where}: {name}.like: there is no model '{other}'; {fix}")
    inherited = _with_inherited(models, other, where)
    if isinstance(inherited, Mapping) and isinstance(family := own.get("family"), str) and family != inherited.get("family"):
        try:
            known = family_named(family).CONFIG.model_fields
        except InputError as error:
            raise InputError(f"{where}: {name}.family: {error}") from None
        inherited = {field: value for field, value in inherited.items() if field in known}
    return merged(inherited, own) if isinstance(inherited, Mapping) else own


def _chain(models: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A model, the one that it is like, and so on; the last one is there twice if they go round in a circle."""
    chain = [name]
    while isinstance(entry := models.get(chain[-1]), Mapping) and isinstance(other := entry.get("like"), str):
        chain.append(other)
        if other in chain[:-1]:
            break
    return tuple(chain)
