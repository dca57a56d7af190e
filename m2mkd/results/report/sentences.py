"""Findings of a study, in sentences derived from its verdicts by rule: for the report, the README and the documentation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from m2mkd.results.report.contrasts import NOT_RUN, Contrast
from m2mkd.study.labels import enumerated, family_label

VERBS = {
    "reproduced": "is more accurate than {}",
    "holds in typical seeds": "is more accurate in typical seeds than {}",
    "direction only": "is more accurate, by less than claimed, than {}",
    "size undecided": "is more accurate, by an undecided amount, than {}",
    "inconclusive": "is undecided against {}",
    "not reproduced": "is not shown to be more accurate than {}",
    NOT_RUN: "was not compared with {}",
}
"""Verb of each verdict about m2mKD and its rivals, in the order of a sentence."""
LESS = "is less accurate than {}"
"""Verb if the whole interval is below 0, last in the order."""
OTHERWISE = "is judged '{}' against {{}}"
"""Verb of any other verdict."""


@dataclass(frozen=True)
class Answer:
    """Findings of a study, short ones first."""

    tested: str
    """Tested question, in one sentence."""
    families: list[str]
    """Result for each family of models, in one sentence each."""
    tally: str
    """Number of claims by verdict."""
    undecided: list[str]
    """Requirements for deciding each open claim."""
    cautions: list[str]
    """Cautions for readers of the verdicts: weak seeds, unequal arms."""
    others: list[str]
    """Judged claims that are not gains of m2mKD."""

    def to_markdown(self) -> str:
        """The whole answer as paragraphs and lists."""
        parts = [self.tested, _bullets(self.families), self.tally]
        for heading, lines in (("What would decide the open claims:", self.undecided), ("Also:", [*self.cautions, *self.others])):
            if lines:
                parts += [heading, _bullets(lines)]
        return "\n\n".join(part for part in parts if part)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def answer_of(contrasts: Sequence[Contrast], scale: str) -> Answer:
    """Answer from the verdicts of a scale.

    Parameters
    ----------
    contrasts
        Every claim that may be judged at that scale.
    scale
        Name of the scale.
    """
    run = [one for one in contrasts if one.word != NOT_RUN]
    families = dict.fromkeys(one.family for one in run if one.is_gain_of_m2mkd)
    return Answer(
        tested=_tested(run, scale),
        families=[_of_family(family, [one for one in run if one.family == family and one.is_gain_of_m2mkd]) for family in families],
        tally=_tally(contrasts),
        undecided=_undecided(run),
        cautions=_cautions(run),
        others=[_plain(one) for one in run if not one.is_gain_of_m2mkd],
    )


def _tested(run: Sequence[Contrast], scale: str) -> str:
    gains = [one for one in run if one.is_gain_of_m2mkd]
    if not gains:
        return (
            f"Scale {scale} judges no claim that m2mKD is better than another training." if run else f"Scale {scale} judges no claim here."
        )
    networks = " or a ".join(dict.fromkeys(family_label(one.family) for one in gains))
    measured = {one.metric for one in gains}
    on = ", ".join(words for metric, words in MEASURED_ON.items() if metric in measured)
    return (
        f"Tested: does starting from modules distilled one by one (m2mKD) make a {networks} more accurate than other trainings do? "
        f"{_range([one.seeds for one in gains])} each, on {on}."
    )


MEASURED_ON = {"IID": "held-out images (IID)", "OOD": "renditions of them (OOD)"}
"""Images on which the metrics of gains are measured."""


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low} {'seed' if low == 1 else 'seeds'}" if low == high else f"{low} to {high} seeds"


def _of_family(family: str, gains: Sequence[Contrast]) -> str:
    """Sentence with every verdict once, and the rivals that it is about."""
    told = {one.id: _verb(one) for one in gains}
    clauses = []
    for verb in sorted(set(told.values()), key=[*VERBS.values(), LESS, *told.values()].index):
        rivals: dict[str, list[str]] = {}
        for one in gains:
            if told[one.id] == verb:
                rivals.setdefault(one.arms[1], []).append(" ".join(filter(None, (one.metric, one.numbers))))
        named = [f"{rival} ({', '.join(numbers)})" for rival, numbers in rivals.items()]
        clauses.append(verb.format(enumerated(named)))
    return f"{family_label(family)}: m2mKD {'; it '.join(clauses)}."


def _verb(one: Contrast) -> str:
    if one.word == "not reproduced" and one.joint and one.joint.high < 0:
        return LESS
    return VERBS.get(one.word, OTHERWISE.format(one.word))


def _tally(contrasts: Sequence[Contrast]) -> str:
    run = [one for one in contrasts if one.word != NOT_RUN]
    if not run:
        return ""
    decided, left = [one for one in run if one.decided], [one for one in run if not one.decided]
    parts = [f"{len(decided)} of {len(run)} claims decided" + _counted(decided)]
    if left:
        parts.append(f"{len(left)} open" + _counted(left))
    if absent := len(contrasts) - len(run):
        parts.append(f"{absent} more not run here")
    level = max(one.at_once for one in run)
    together = f"; 95 % intervals, in points, of all {level} at once" if any(one.joint for one in run) else ""
    return f"{'; '.join(parts)}{together}."


def _counted(some: Sequence[Contrast]) -> str:
    words = Counter(one.word for one in some)
    return f" ({', '.join(f'{count} {word}' for word, count in words.items())})" if some else ""


def _undecided(run: Sequence[Contrast]) -> list[str]:
    """Needs of claims, with equal needs in one line."""
    by_needs: dict[str, list[Contrast]] = {}
    for one in run:
        if one.needs and not one.decided:
            by_needs.setdefault(one.needs, []).append(one)
    return [f"{_named(alike)}: {needs}" for needs, alike in by_needs.items()]


def _named(alike: Sequence[Contrast]) -> str:
    """Claims by what they compare, each family once."""
    families: dict[str, list[str]] = {}
    for one in alike:
        families.setdefault(family_label(one.family), []).append(one.label)
    return "; ".join(f"{family} {'; '.join(labels)}" for family, labels in families.items())


def _cautions(run: Sequence[Contrast]) -> list[str]:
    weak = {arm: seeds for one in run for arm, seeds in one.weak.items()}
    lines = [
        f"Weak: {arm}, {', '.join(f'{seed} ({100 * accuracy:.1f} % IID)' for seed, accuracy in seeds)}." for arm, seeds in weak.items()
    ]
    unequal: dict[str, list[Contrast]] = {}
    for one in run:
        if one.unequal:
            unequal.setdefault(one.unequal, []).append(one)
    return lines + [f"Unequal labelled images ({how}): {_named(alike)}." for how, alike in unequal.items()]


def _plain(one: Contrast) -> str:
    numbers = f", {one.numbers}" if one.numbers else ""
    return f"{one.claim} ({one.word}{numbers})"
