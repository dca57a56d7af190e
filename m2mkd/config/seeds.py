"""Seeds of an experiment: their number, or a list."""

from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

SEEDS_LIMIT = 1000
"""Largest number of seeds; a larger one is a typo."""


def _number(seed: object) -> object:
    """Convert a number that Snakemake, which reads its command line as text, left as digits."""
    return int(seed) if isinstance(seed, str) and seed.isascii() and seed.isdigit() and len(seed) < 20 else seed


def _plausible(seeds: object) -> object:
    """Refuse both forms with the same message; a union would complain about the form that was not meant."""
    if isinstance(seeds, list | tuple):
        seeds = [_number(seed) for seed in seeds]
        fine = 0 < len(seeds) <= SEEDS_LIMIT and all(type(seed) is int and seed >= 0 for seed in seeds) and len(set(seeds)) == len(seeds)
    else:
        seeds = _number(seeds)
        fine = type(seeds) is int and 0 < seeds <= SEEDS_LIMIT
    if not fine:
        raise ValueError(f"give a number of seeds from 1 to {SEEDS_LIMIT}, or a list of different whole numbers of at least 0")
    return seeds


Seeds = Annotated[
    Annotated[PositiveInt, Field(le=SEEDS_LIMIT)] | Annotated[tuple[NonNegativeInt, ...], Field(min_length=1, max_length=SEEDS_LIMIT)],
    BeforeValidator(_plausible),
]
"""A number n for the seeds 0 to n - 1, or a list of seeds."""


def seeds_of(seeds: Seeds) -> tuple[int, ...]:
    """The seeds in ascending order."""
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(sorted(seeds))
