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
    """One seed of one arm of a comparison."""

    seed: int | None
    """None where all seeds share the run."""
    run: str
    """Id of the run that measured it; its key is the digest of its configuration and of all that it builds on."""
    accuracy: float | None
    """Share from 0 to 1; none where a run behind it is missing or wrong."""
    record: str | None
    """sha256 of the run's record."""
    problem: str | None
    """Why there is no accuracy."""


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison: a row of the tables and its seeds."""

    experiment: str
    variant: str
    profile: Profile
    seeds: tuple[Seed, ...]
    images: int | None
    """Images that measured one seed."""
    chance: float
    """Accuracy of guessing, as a share."""
    imported: bool = False
    """Whether all its seeds have the same weights, those of others, whose accuracy counts once."""
    weak: tuple[tuple[int | None, float], ...] = ()
    """Seeds whose IID accuracy lies below what the scale takes for a training that went well, with that accuracy as a share."""

    @property
    def name(self) -> str:
        return f"{self.experiment}/{self.variant}"

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of the seeds that are there, in ascending order, so that a seed has the same index in every arm of a comparison."""
        return tuple(seed.accuracy for seed in self._there if seed.accuracy is not None)

    @property
    def in_order(self) -> tuple[int | None, ...]:
        """The seeds that are there, by number, in the order of their accuracies."""
        return tuple(seed.seed for seed in self._there)

    @property
    def _there(self) -> list[Seed]:
        return sorted((seed for seed in self.seeds if seed.accuracy is not None), key=lambda one: one.seed or 0)

    @property
    def numbered(self) -> frozenset[int | None]:
        """Its seeds, also those that are missing."""
        return frozenset(seed.seed for seed in self.seeds)

    def only(self, seeds: Container[int | None]) -> "Arm":
        """The same with those seeds alone."""
        return replace(self, seeds=tuple(seed for seed in self.seeds if seed.seed in seeds))

    @property
    def problems(self) -> list[str]:
        """Seeds that are missing or wrong, each in one sentence."""
        return [
            f"Seed {seed.seed} of {self.name} is missing: {seed.problem or 'it was not measured'}."
            for seed in self.seeds
            if seed.accuracy is None
        ]

    @property
    def not_above_chance(self) -> str | None:
        """The first seed whose accuracy guessing could reach, in one sentence: the exact binomial interval holds chance, or lies below."""
        for seed in self.seeds:
            if seed.accuracy is None or not self.images:
                return f"Seed {seed.seed} of {self.name} does not say how many images it measured."
            low = binomial_interval(round(seed.accuracy * self.images), self.images).low
            if low <= self.chance:
                measured = f"{100 * seed.accuracy:.2f} %, at least {100 * low:.2f} % by the exact binomial interval"
                return f"Seed {seed.seed} of {self.name} is not above chance ({100 * self.chance:.2f} %): {measured}."
        return None


Comparison = tuple[Arm, ...]
"""A, where the claim is about A alone; A and B; or A, B, C and D, where it is about (A - B) - (C - D)."""


class Arms:
    """Finds the arms of comparisons in what a study has."""

    def __init__(self, collected: Collected):
        self.study, self.collected, self.numbers = collected.study, collected, collected.numbers

    def is_one_number(self, claim: Claim, row: Row) -> bool:
        """Whether the row has exactly one number of the claim's metric."""
        config = self.study.runs[row.measured[0]].config
        if isinstance(config, EvaluateTeacher):
            return claim.metric == "iid_top1"
        return isinstance(config, Evaluate) and (not claim.metric.startswith("ood") or len(config.ood) == 1)

    def arm(self, claim: Claim, row: Row) -> Arm:
        """A row of the tables, which has exactly one number of the claim's metric, as one arm of the claim."""
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
        """Seeds of a student whose training went badly."""
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
    """Comparisons by the seeds that all arms of each have.

    An arm whose weights are imported, or which all seeds share, counts once and leaves its comparison as it is.

    Parameters
    ----------
    comparisons
        All seeds of each arm, also those that are missing.
    alike
        Whether all comparisons are to have the same seeds, as a mean over them needs.

    Returns
    -------
    tuple
        The comparisons, and the number of seeds that were left out of any.
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
    """Accuracies as verdicts take them."""
    return [_pair(*arms) for arms in comparisons]


def _pair(one: Arm, other: Arm | None = None, third: Arm | None = None, fourth: Arm | None = None) -> Pair:
    images = min((arm.images for arm in (one, other, third, fourth) if arm and arm.images), default=None)
    rounding, seeds = rounding_of(images), one.in_order
    if third is None or fourth is None:
        return Pair(one.experiment, one.accuracies, other.accuracies if other else None, rounding, images, seeds)
    # Of differences only their difference is judged, in points, so that they can stand where accuracies do. Each is rounded twice, and of a
    # seed both that raise it can collapse, or both that lower it.
    first, second, minus, plus = (mean(arm.accuracies) if arm and arm.accuracies else 0.0 for arm in (one, other, third, fourth))
    falls = first + plus, second + minus
    return Pair(one.experiment, _differences(one, other), _differences(third, fourth), 2 * rounding, seeds=seeds, falls=falls)


def _differences(one: Arm, other: Arm | None) -> tuple[float, ...]:
    # As many as both have: where weights are imported the arms differ in number, and `judge` refuses the pair.
    return tuple(a - b for a, b in zip(one.accuracies, other.accuracies if other else (), strict=False))


def exact_p_value(claim: Claim, comparisons: Sequence[Comparison]) -> float | None:
    """Two-sided sign-flip test that there is no gain, of the population as the claim speaks of it; none where it cannot be made."""
    pairs = pairs_of(comparisons)
    if claim.direction != "greater" or min(len(pair.treated) for pair in pairs) < FEWEST_SEEDS:
        return None
    if claim.aggregate == "mean":
        return permutation_test(averaged(pairs).differences)
    found = [permutation_test(pair.differences) for pair in pairs]
    # Each must hold, so that the weakest decides; or one is enough, with Bonferroni's correction for the choice.
    return max(found) if claim.aggregate == "each" else min(1.0, len(found) * min(found))
