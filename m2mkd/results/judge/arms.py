"""The arms of a claim's comparison, as a study ran them."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from m2mkd.config.claims import FEWEST_SEEDS, Claim
from m2mkd.config.compat import Profile
from m2mkd.results.judge.pairs import Pair, averaged, rounding_of
from m2mkd.results.read.collect import Collected
from m2mkd.statistics import binomial_interval, mean, permutation_test
from m2mkd.study.phases import Evaluate, EvaluateTeacher, ImportWeights
from m2mkd.study.run import Row


@dataclass(frozen=True)
class Seed:
    """Seed of an arm of a comparison."""

    seed: int | None
    """Number of the seed; none if all seeds share the run."""
    run: str
    """Id of the run that measured it; the key is a digest of its configuration and of all that it builds on."""
    accuracy: float | None
    """Share from 0 to 1; none if a run behind it is missing or wrong."""
    record: str | None
    """Digest (sha256) of the run's record."""
    problem: str | None
    """Reason for a missing accuracy."""


@dataclass(frozen=True)
class Arm:
    """Arm of a comparison: a row of the tables and its seeds."""

    experiment: str
    variant: str
    profile: Profile
    seeds: tuple[Seed, ...]
    images: int | None
    """Number of images on which a seed was measured."""
    chance: float
    """Accuracy of guessing, as a share."""
    imported: bool = False
    """True if all its seeds have the same imported weights, whose accuracy counts once."""
    weak: tuple[tuple[int | None, float], ...] = ()
    """Seeds whose IID accuracy is below the scale's threshold for a good training, with that accuracy as a share."""

    @property
    def name(self) -> str:
        return f"{self.experiment}/{self.variant}"

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracies of the present seeds, in ascending order of seeds, so that a seed has the same index in every arm."""
        return tuple(seed.accuracy for seed in self._there if seed.accuracy is not None)

    @property
    def in_order(self) -> tuple[int | None, ...]:
        """Numbers of the present seeds, in the order of their accuracies."""
        return tuple(seed.seed for seed in self._there)

    @property
    def _there(self) -> list[Seed]:
        return sorted((seed for seed in self.seeds if seed.accuracy is not None), key=lambda one: one.seed or 0)

    @property
    def numbered(self) -> frozenset[int | None]:
        """Numbers of all its seeds, including missing ones."""
        return frozenset(seed.seed for seed in self.seeds)

    def only(self, seeds: Container[int | None]) -> "Arm":
        """Copy of the arm with only those seeds."""
        return replace(self, seeds=tuple(seed for seed in self.seeds if seed.seed in seeds))

    @property
    def problems(self) -> list[str]:
        """Missing or wrong seeds, each described in one sentence."""
        return [
            f"Seed {seed.seed} of {self.name} is missing: {seed.problem or 'it was not measured'}."
            for seed in self.seeds
            if seed.accuracy is None
        ]

    @property
    def not_above_chance(self) -> str | None:
        """First seed that is not above chance, in one sentence: its exact binomial interval contains chance or is below it."""
        for seed in self.seeds:
            if seed.accuracy is None or not self.images:
                return f"Seed {seed.seed} of {self.name} does not record how many images it measured."
            low = binomial_interval(round(seed.accuracy * self.images), self.images).low
            if low <= self.chance:
                measured = f"{100 * seed.accuracy:.2f} %, at least {100 * low:.2f} % by the exact binomial interval"
                return f"Seed {seed.seed} of {self.name} is not above chance ({100 * self.chance:.2f} %): {measured}."
        return None


Comparison = tuple[Arm, ...]
"""A, if the claim is about A alone; A and B; or A, B, C and D, if it is about (A - B) - (C - D)."""


class Arms:
    """Finder of the arms of comparisons in a study."""

    def __init__(self, collected: Collected):
        self.study, self.collected, self.numbers = collected.study, collected, collected.numbers

    def is_one_number(self, claim: Claim, row: Row) -> bool:
        """True if the row has exactly one number of the claim's metric."""
        config = self.study.runs[row.measured[0]].config
        if isinstance(config, EvaluateTeacher):
            return claim.metric == "iid_top1"
        return isinstance(config, Evaluate) and (not claim.metric.startswith("ood") or len(config.ood) == 1)

    def arm(self, claim: Claim, row: Row) -> Arm:
        """Row of the tables, with exactly one number of the claim's metric, as an arm of the claim."""
        config = self.study.runs[row.measured[0]].config
        assert isinstance(config, Evaluate | EvaluateTeacher)
        split, _, metric = claim.metric.partition("_")
        cell = next(iter(self.numbers.cells(row, split, metric)), None)
        found = dict(zip(cell.seeds, cell.per_seed, strict=True)) if cell else {}
        common = self.numbers.cells(row, "ood", "classes") if split == "ood" else []
        classes = common[0].per_seed[0] if common else config.data.classes
        imported = isinstance(self.study.runs[row.trained[0]].config, ImportWeights)
        seeds = tuple(self._seeds(row.measured[:1] if imported else row.measured, found))
        count = cell.count if cell else None
        return Arm(row.experiment, row.variant, row.profile, seeds, count, 1 / classes, imported, self._weak(row, config))

    def _weak(self, row: Row, config: Evaluate | EvaluateTeacher) -> tuple[tuple[int | None, float], ...]:
        """Weak seeds of a student."""
        floor = self.study.scale.weak_below.get(config.student.family, 0.0) if isinstance(config, Evaluate) else 0.0
        cells = self.numbers.cells(row, "iid", "top1")
        return tuple((seed, top1) for cell in cells for seed, top1 in zip(cell.seeds, cell.per_seed, strict=True) if top1 < floor)

    def _seeds(self, measured: Sequence[str], found: Mapping[int | None, float]) -> Iterator[Seed]:
        for run_id in measured:
            seed, record = self.study.runs[run_id].seed, self.collected.by_run.get(run_id)
            yield Seed(seed, run_id, found.get(seed), record.digest if record else None, self.collected.problems.get(run_id))


def _is_pairable(arms: Comparison) -> bool:
    return not any(arm.imported or None in arm.numbered for arm in arms)


def paired(comparisons: Sequence[Comparison], *, alike: bool) -> tuple[tuple[Comparison, ...], int]:
    """Restrict comparisons to the seeds that all their arms have.

    An arm whose weights are imported, or which all seeds share, counts once and leaves its comparison as it is.

    Parameters
    ----------
    comparisons
        All seeds of each arm, including missing ones.
    alike
        True if all comparisons must have the same seeds, as a mean over them needs.

    Returns
    -------
    tuple
        The comparisons, and the number of seeds that were left out.
    """
    common = [frozenset.intersection(*(arm.numbered for arm in arms)) if _is_pairable(arms) else None for arms in comparisons]
    if alike:
        known = [seeds for seeds in common if seeds is not None]
        common = [None if seeds is None else frozenset.intersection(*known) for seeds in common]
    found, left_out = [], set[int | None]()
    for arms, seeds in zip(comparisons, common, strict=True):
        if seeds is None:
            found.append(arms)
            continue
        left_out |= set().union(*(arm.numbered - seeds for arm in arms))
        found.append(tuple(arm.only(seeds) for arm in arms))
    return tuple(found), len(left_out)


def members_of(comparisons: Sequence[Comparison]) -> list[Arm]:
    """Every arm once, in order."""
    return list(dict.fromkeys(arm for arms in comparisons for arm in arms))


def pairs_of(comparisons: Sequence[Comparison]) -> list[Pair]:
    """Accuracies of the arms as input of verdicts."""
    return [_pair(*arms) for arms in comparisons]


def _pair(one: Arm, other: Arm | None = None, third: Arm | None = None, fourth: Arm | None = None) -> Pair:
    images = min((arm.images for arm in (one, other, third, fourth) if arm and arm.images), default=None)
    rounding, seeds = rounding_of(images), one.in_order
    if third is None or fourth is None:
        return Pair(one.experiment, one.accuracies, other.accuracies if other else None, rounding, images, seeds)
    # Only the difference of differences is judged, in points, so that they can be passed as accuracies. Each is rounded twice, and of a
    # seed both that raise it can collapse, or both that lower it.
    first, second, minus, plus = (mean(arm.accuracies) if arm and arm.accuracies else 0.0 for arm in (one, other, third, fourth))
    falls = first + plus, second + minus
    return Pair(one.experiment, _differences(one, other), _differences(third, fourth), 2 * rounding, seeds=seeds, falls=falls)


def _differences(one: Arm, other: Arm | None) -> tuple[float, ...]:
    # As many as both have: with imported weights the arms differ in number, and `judge` refuses the pair.
    return tuple(a - b for a, b in zip(one.accuracies, other.accuracies if other else (), strict=False))


def exact_p_value(claim: Claim, comparisons: Sequence[Comparison]) -> float | None:
    """Two-sided sign-flip test of no gain, for the population as the claim states it; none if it cannot be made."""
    pairs = pairs_of(comparisons)
    if claim.direction != "greater" or min(len(pair.treated) for pair in pairs) < FEWEST_SEEDS:
        return None
    if claim.aggregate == "mean":
        return permutation_test(averaged(pairs).differences)
    found = [permutation_test(pair.differences) for pair in pairs]
    # Each must hold, so that the weakest decides; or one is enough, with Bonferroni's correction for the choice.
    return max(found) if claim.aggregate == "each" else min(1.0, len(found) * min(found))
