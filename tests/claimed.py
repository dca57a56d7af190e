"""A claim, and seeds to judge it by."""

from m2mkd.config.claims import Claim
from m2mkd.results.judge.arms import Arm, Seed
from m2mkd.results.judge.pairs import Pair

CLAIM = Claim(
    id="gain",
    claim="A is better than B.",
    source="here",
    status="PREDICTED",
    subject="suite",
    profile="corrected",
    metric="iid_top1",
    population=("one",),
    comparison="a - b",
    aggregate="each",
    direction="greater",
    size=5.0,
    unit="points",
    tolerance=1.0,
    scale="small",
    seeds=6,
)
SPREAD = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)
"""Six seeds around 0: standard deviation sqrt(17.5 / 5) = 1.8708, half width of the 95 % interval 2.570582 * 1.8708 / sqrt(6) = 1.9633."""


def pair(*differences: float, control: float = 0.5, name: str = "one") -> Pair:
    """Seeds whose accuracies differ by so many points."""
    return Pair(name, tuple(control + difference / 100 for difference in differences), (control,) * len(differences))


def around(middle: float, width: float = 1.0, **changes) -> Pair:
    """Six seeds around so many points."""
    return pair(*(middle + width * one for one in SPREAD), **changes)


def arm(*accuracies: float, images: int = 100) -> Arm:
    """Seeds of these accuracies."""
    seeds = tuple(Seed(seed, "evaluate/0", share, None, None) for seed, share in enumerate(accuracies))
    return Arm("one", "a", "corrected", seeds, images, 0.1)


def claim(**changes) -> Claim:
    """The claim with fields changed."""
    return Claim.model_validate(CLAIM.model_dump() | changes)
