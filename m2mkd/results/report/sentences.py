"""What a study found, in sentences that follow from its verdicts by rule: of the report, the README and the documentation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from m2mkd.results.report.contrasts import NOT_RUN, Contrast
from m2mkd.results.report.labels import family_label, listed

VERBS = {
    "reproduced": "is more accurate than {}",
    "holds in typical seeds": "is more accurate in typical seeds than {}",
    "direction only": "is more accurate, by less than claimed, than {}",
    "size undecided": "is more accurate, by an undecided amount, than {}",
    "inconclusive": "is undecided against {}",
    "not reproduced": "is not shown to be more accurate than {}",
    NOT_RUN: "was not compared with {}",
}
"""What a verdict says of m2mKD and its rivals, in the order in which a sentence says it."""
OTHERWISE = "is judged '{}' against {{}}"
"""The same of a verdict without a verb of its own."""


@dataclass(frozen=True)
class Answer:
    """What a study found, the short before the long."""

    tested: str
    """What was tested, in one sentence."""
    families: list[str]
    """What came out for each family of models, in one sentence each."""
    tally: str
    """How many claims there are with which verdict."""
    undecided: list[str]
    """What would decide each of the claims that are open."""
    cautions: list[str]
    """What readers have to know beside the verdicts: weak seeds, unequal arms."""
    others: list[str]
    """Each claim that was judged, but is no gain of m2mKD."""

    def to_markdown(self) -> str:
        """The whole answer as paragraphs and lists."""
        parts = [self.tested, _bullets(self.families), self.tally]
        for heading, lines in (("What would decide the open ones:", self.undecided), ("Also:", [*self.cautions, *self.others])):
            if lines:
                parts += [heading, _bullets(lines)]
        return "\n\n".join(part for part in parts if part)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def answer_of(contrasts: Sequence[Contrast], scale: str) -> Answer:
    """The answer that the verdicts of a scale give.

    Parameters
    ----------
    contrasts
        Every claim that may be judged at that scale.
    scale
        Its name.
    """
    run = [one for one in contrasts if one.word != NOT_RUN]
    families = dict.fromkeys(one.family for one in run if one.is_gain_of_m2mkd)
    return Answer(
        tested=_tested(run, scale),
        families=[_of_family(family, [one for one in run if one.family == family and one.is_gain_of_m2mkd]) for family in families],
        tally=_tally(contrasts, scale),
        undecided=_undecided(run),
        cautions=_cautions(run),
        others=[_plain(one) for one in run if not one.is_gain_of_m2mkd],
    )


def _tested(run: Sequence[Contrast], scale: str) -> str:
    gains = [one for one in run if one.is_gain_of_m2mkd]
    if not gains:
        return f"Scale {scale} compares m2mKD with nothing: it has no claim about that, or no run of one."
    networks = " and ".join(dict.fromkeys(family_label(one.family) for one in gains))
    rivals = listed(list(dict.fromkeys(one.arms[1] for one in gains)))
    sets = listed([name for name in METRIC_NAMES if any(one.metric == name for one in gains)])
    said = " and ".join(METRIC_NAMES[name] for name in METRIC_NAMES if name in sets)
    seeds = _range([one.seeds for one in gains])
    return (
        f"Tested: is a {networks.replace(' and ', ' or a ')} that starts from modules distilled one by one from a teacher (m2mKD) more "
        f"accurate than the same network trained in other ways ({rivals}), on {said}, with {seeds} of each?"
    )


METRIC_NAMES = {"IID": "held-out images (IID)", "OOD": "renditions of them (OOD)"}
"""What the metrics of gains are measured on."""


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low} {'seed' if low == 1 else 'seeds'}" if low == high else f"{low} to {high} seeds"


def _of_family(family: str, gains: Sequence[Contrast]) -> str:
    """One sentence: every verdict once, with the rivals that it is about."""
    words = [word for word in VERBS if any(one.word == word for one in gains)]
    words += [word for word in dict.fromkeys(one.word for one in gains) if word not in VERBS]
    clauses = []
    for word in words:
        rivals: dict[str, list[str]] = {}
        for one in gains:
            if one.word == word:
                rivals.setdefault(one.arms[1], []).append(" ".join(filter(None, (one.metric, one.numbers))))
        named = [f"{rival} ({', '.join(numbers)})" for rival, numbers in rivals.items()]
        clauses.append(VERBS.get(word, OTHERWISE.format(word)).format(listed(named)))
    return f"{family_label(family)}: m2mKD {'; it '.join(clauses)}."


def _tally(contrasts: Sequence[Contrast], scale: str) -> str:
    run = [one for one in contrasts if one.word != NOT_RUN]
    if not run:
        return ""
    decided, left = [one for one in run if one.decided], [one for one in run if not one.decided]
    parts = [f"{len(decided)} of {len(run)} claims decided" + _counted(decided)]
    if left:
        parts.append(f"{len(left)} open" + _counted(left))
    if absent := len(contrasts) - len(run):
        parts.append(f"{absent} more of this scale not run here")
    level = max(one.at_once for one in run)
    together = f"; intervals in points, with 95 % all {level} at once" if any(one.joint for one in run) else ""
    return f"{'; '.join(parts)}{together}."


def _counted(some: Sequence[Contrast]) -> str:
    words = Counter(one.word for one in some)
    return f" ({', '.join(f'{count} {word}' for word, count in words.items())})" if some else ""


def _undecided(run: Sequence[Contrast]) -> list[str]:
    """Claims that need the same in one line."""
    by_needs: dict[str, list[str]] = {}
    for one in run:
        if one.needs:
            by_needs.setdefault(one.needs, []).append(f"{family_label(one.family)}, {one.label}")
    return [f"{'; '.join(names)}: {needs}" for needs, names in by_needs.items()]


def _cautions(run: Sequence[Contrast]) -> list[str]:
    weak = {arm: seeds for one in run for arm, seeds in one.weak.items()}
    lines = [
        f"Weak: {arm}, {', '.join(f'{seed} ({100 * accuracy:.1f} % IID)' for seed, accuracy in seeds)}." for arm, seeds in weak.items()
    ]
    unequal: dict[str, list[str]] = {}
    for one in run:
        if one.unequal:
            unequal.setdefault(one.unequal, []).append(f"{family_label(one.family)}, {one.label}")
    return lines + [f"Unequal labelled images ({how}): {'; '.join(names)}." for how, names in unequal.items()]


def _plain(one: Contrast) -> str:
    numbers = f", {one.numbers}" if one.numbers else ""
    return f"{one.claim} ({one.word}{numbers})"
