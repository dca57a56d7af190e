"""The verdict board: the verdict of a study's runs on every claim of ``config/claims.tsv``, and the runs behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from m2mkd.config import load
from m2mkd.config.claims import Claim, load_claims
from m2mkd.config.compat import Profile
from m2mkd.errors import InputError
from m2mkd.planning.cost import Cost, cost_of
from m2mkd.planning.summary import gpu_hours
from m2mkd.results.judge.arms import Arm, Arms, Comparison, exact_p_value, members_of, paired, pairs_of
from m2mkd.results.judge.changes import AsPublished
from m2mkd.results.judge.groups import at_once, families
from m2mkd.results.judge.needs import with_needs
from m2mkd.results.judge.pairs import Pair
from m2mkd.results.judge.verdicts import Verdict, judge
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.records import UNFINISHED
from m2mkd.study.labelled import unequal_labels
from m2mkd.study.plan import build_study
from m2mkd.study.run import Row
from m2mkd.study.study import Study


@dataclass(frozen=True)
class Finding:
    """A claim and its verdict."""

    claim: Claim
    verdict: Verdict
    family: str = ""
    """Family of its models: vit, vmoe or nac."""
    at_once: int = 1
    """Number of claims, including this one, whose verdicts hold jointly."""
    comparisons: tuple[Comparison, ...] = ()
    """Arms of each experiment of the population; empty if the study has no run of them."""
    judged: tuple[Comparison, ...] = ()
    """Comparisons with the seeds that all arms have, if they are judged."""
    runs: tuple[str, ...] = ()
    """Ids of all runs behind it, upstream before downstream."""
    outdated: tuple[str, ...] = ()
    """Runs among them that other code computed."""
    unequal: str = ""
    """Difference between the labelled images of its arms, in words; empty if there is none."""
    cost: float | None = None
    """GPU-hours that judging it would take, on H200 at 40 % of their peak; none if it is judged."""
    p_value: float | None = None
    """P value of the exact sign-flip test of this claim alone, which decides nothing; none if it is not a gain or has too few seeds."""

    @property
    def seeds(self) -> int:
        """Fewest seeds of an arm."""
        return min((len(arm.accuracies) for arm in members_of(self.judged or self.comparisons)), default=0)

    @property
    def why(self) -> str:
        """Reasons in words, with differences in labelled images and the number of runs that other code computed."""
        count = len(self.outdated)
        other = f" Other code than this computed {count} of its {len(self.runs)} runs ('m2mkd runs list' names it)." if count else ""
        unequal = f" The arms saw different labelled images: {self.unequal}." if self.unequal else ""
        return f"{self.verdict.why}{unequal}{other}"

    @property
    def pairs(self) -> list[Pair]:
        """Comparisons that decide it; empty if it is not judged."""
        return pairs_of(self.judged) if self.verdict.measured else []


def verdict_board(collected: Collected, claims: Sequence[Claim] | None = None) -> list[Finding]:
    """Every claim with its verdict, in the order of the file.

    Parameters
    ----------
    collected
        Finished runs of a study.
    claims
        Claims; none: those of ``config/claims.tsv``.

    Raises
    ------
    InputError
        If a claim names an unknown experiment, variant or scale.
    """
    claims = load_claims() if claims is None else claims
    board = _Board(collected, claims)
    together, family = at_once(collected.study, claims), families(collected.study, claims)
    return [replace(board.find(claim, together[claim.id]), family=family[claim.id], at_once=together[claim.id]) for claim in claims]


class _Board:
    """Judge of single claims by one study."""

    def __init__(self, collected: Collected, claims: Sequence[Claim]):
        self.study, self.claims, self.arms = collected.study, claims, Arms(collected)
        self.published = AsPublished(collected.study)
        self.plans: dict[tuple[str, Profile, int], tuple[Study, dict[str, Cost]]] = {}

    def find(self, claim: Claim, at_once: int) -> Finding:
        """Verdict on a claim, which holds jointly with those on ``at_once`` claims."""
        study = self.study
        at_scale = study.scale_name == claim.scale and self.published.has(members_named(claim), claim.profile)
        # A reduced scale need not have the authors' profile; it judges nothing about them anyway.
        profile = claim.profile if at_scale or claim.profile in study.scale.profiles else study.scale.profiles[0]
        rows = {f"{row.experiment}/{row.variant}": row for row in study.rows if row.profile == profile}
        if unfit := self._unfit(claim, rows, profile, at_scale):
            return self._not_run(claim, unfit)
        arms = {name: self.arms.arm(claim, rows[name]) for name in members_named(claim)}
        comparisons = tuple(tuple(arms["/".join(member)] for member in members) for members in claim.members())
        needed = study.with_upstream([seed.run for arm in members_of(comparisons) for seed in arm.seeds])
        runs = tuple(run_id for run_id in study.runs if run_id in needed)
        different = (unequal_labels(study, [rows["/".join(member)] for member in members]) for members in claim.members())
        unequal = "; ".join(dict.fromkeys(filter(None, different)))
        finding = Finding(claim, Verdict("not run", ""), comparisons=comparisons, runs=runs, unequal=unequal)
        if not at_scale:
            hours = self.planned_hours(claim)
            return replace(finding, verdict=replace(self._smoke(finding), needs=_at_what_cost(claim, hours)), cost=hours)
        if not any(arm.accuracies for arm in members_of(comparisons)):
            return replace(self._not_run(claim, "None of its accuracies is there."), comparisons=comparisons, runs=runs)
        return self._judged(finding, at_once)

    def _judged(self, finding: Finding, at_once: int) -> Finding:
        """Judge the finished runs of a claim at its own scale."""
        claim = finding.claim
        judged, left_out = paired(finding.comparisons, alike=claim.aggregate == "mean")
        finding = replace(finding, judged=judged)
        if problems := _problems(judged):
            return replace(finding, verdict=Verdict("inconclusive", problems, _fix(judged)))
        if alike := _alike(judged):
            return replace(finding, verdict=Verdict("inconclusive", alike, "Arms that differ."))
        verdict = with_needs(claim, judge(claim, pairs_of(judged), at_once))
        if left_out:
            seeds = "1 seed that not all arms have is" if left_out == 1 else f"{left_out} seeds that not all arms have are"
            verdict = replace(verdict, why=f"{verdict.why} {seeds} left out.")
        if weak := _weak_seeds(judged):
            verdict = replace(verdict, why=f"{verdict.why} {weak}.")
        return replace(finding, verdict=verdict, p_value=exact_p_value(claim, judged) if verdict.interval else None)

    def _unfit(self, claim: Claim, rows: Mapping[str, Row], profile: Profile, at_scale: bool) -> str:
        """Reason why the study cannot judge a claim, whatever its runs measured; empty if it can."""
        if claim.subject == "suite" and not at_scale:
            changed = f"this study changes {', '.join(self.published.changes)}"
            here = f"this is scale {self.study.scale_name}" if self.study.scale_name != claim.scale else changed
            return f"Judged at scale {claim.scale} alone; {here}."
        names = members_named(claim)
        if absent := [name for name in names if name not in rows]:
            more = f" (nor {len(absent) - 1} more)" if len(absent) > 1 else ""
            return f"This study has no {absent[0]}{more} in profile {profile}."
        if unclear := [name for name in names if not self.arms.is_one_number(claim, rows[name])]:
            return f"{unclear[0]} has not exactly one {claim.metric} in this study."
        return ""

    def _smoke(self, finding: Finding) -> Verdict:
        """Smoke verdict that the runs work, which is all that a reduced or changed scale can say about the paper."""
        changes = self.published.changes
        scale = f"scale {self.study.scale_name}" + (f" with {', '.join(changes)}" if changes else "")
        nothing = f"At {scale} this judges nothing about the paper."
        arms = members_of(finding.comparisons)
        failed = _problems(finding.comparisons) or next((problem for arm in arms if (problem := arm.not_above_chance)), None)
        if failed:
            return Verdict("smoke-fail", f"{failed} {nothing}")
        measured = sum(self.study.runs[run_id].config.measures() for run_id in finding.runs)
        there = f"All {measured} runs that measure something are there and match their digests, and every accuracy is above chance"
        return Verdict("smoke-pass", f"{there} (profile {arms[0].profile}). {nothing}")

    def _not_run(self, claim: Claim, why: str) -> Finding:
        hours = self.planned_hours(claim)
        return Finding(claim, Verdict("not run", why, _at_what_cost(claim, hours)), cost=hours)

    def planned_hours(self, claim: Claim) -> float:
        """GPU-hours of all runs that decide a claim, at its scale, in its profile, with as many seeds as it needs."""
        study, costs = self._plan(claim.scale, claim.profile, claim.seeds)
        members = set(members_named(claim))
        measured = [run_id for row in study.rows if f"{row.experiment}/{row.variant}" in members for run_id in row.measured]
        return gpu_hours(costs, study.with_upstream(measured))

    def _plan(self, scale: str, profile: Profile, seeds: int) -> tuple[Study, dict[str, Cost]]:
        """Study of all claims that are judged alike, cached because planning takes longer than everything else."""
        alike = scale, profile, seeds
        if alike not in self.plans:
            claims = [claim for claim in self.claims if (claim.scale, claim.profile, claim.seeds) == alike]
            names = sorted({name for claim in claims for name in members_named(claim)})
            overrides = {"profiles": [profile], "seeds": seeds}

            def planned(names: list[str]) -> Study:
                return build_study(load.settings({"scale": scale, "experiments": names, "overrides": overrides}))

            try:
                study = planned(names)
            except InputError:
                for claim in claims:  # one of them is to blame
                    try:
                        planned(members_named(claim))
                    except InputError as error:
                        raise InputError(f"config/claims.tsv: {claim.id}: {error}") from None
                raise
            self.plans[alike] = study, cost_of(study)
        return self.plans[alike]


def _at_what_cost(claim: Claim, hours: float) -> str:
    """Requirements for judging a claim that this study does not judge."""
    amount = f"about {hours:,.1f}" if hours >= 0.1 else "less than 0.1"
    return f"Scale {claim.scale} with {claim.seeds} seeds: {amount} GPU-hours (H200, 40 % of peak)."


def _fix(comparisons: Sequence[Comparison]) -> str:
    """Fix for missing runs; the workflow takes a run for finished if its files exist, whatever their content."""
    problems = [seed.problem for arm in members_of(comparisons) for seed in arm.seeds if seed.problem]
    wrong = [problem for problem in problems if UNFINISHED not in problem]
    if not wrong:
        return "Run the workflow again to complete it."
    return f"Remove the folder of {wrong[0].partition(': ')[0]} and run the workflow again, which takes that run for finished."


def _alike(comparisons: Sequence[Comparison]) -> str:
    """Sentence about two sides with the same runs, whose difference is always 0; empty if there are none."""

    def runs(arms: Sequence[Arm]) -> list[list[str]]:
        return [[seed.run for seed in arm.seeds] for arm in arms]

    for arms in comparisons:
        first, second = arms[:2], arms[2:]
        # A and B, C and D, A - B and C - D, as far as there are any
        for one, other in ((first[:1], first[1:]), (second[:1], second[1:]), (first, second)):
            if one and runs(one) == runs(other):
                parts = [" - ".join(arm.name for arm in part) for part in (one, other)]
                return f"{' and '.join(parts)} are the same runs, so that comparing them says nothing."
    return ""


def members_named(claim: Claim) -> list[str]:
    """All arms of each comparison of a claim, as experiment/variant, each once."""
    return list(dict.fromkeys("/".join(member) for members in claim.members() for member in members))


def _weak_seeds(comparisons: Sequence[Comparison]) -> str:
    """Seeds below the accuracy that the scale expects of their family, by arm; empty where there are none."""
    listed = {arm.name: ", ".join(f"{seed} ({100 * top1:.2f} %)" for seed, top1 in arm.weak) for arm in members_of(comparisons) if arm.weak}
    return f"Weak seeds: {'; '.join(f'{name} {seeds}' for name, seeds in listed.items())}" if listed else ""


def _problems(comparisons: Sequence[Comparison]) -> str:
    """First missing seed in one sentence, and the number of further ones; empty if none is missing."""
    found = [problem for arm in members_of(comparisons) for problem in arm.problems]
    more = len(found) - 1
    return "".join(found[:1]) + (f" {more} more {'are' if more > 1 else 'is'} missing." if more > 0 else "")
