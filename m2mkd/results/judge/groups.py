"""Groups of claims: those that are judged jointly, and the family of their students."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

from m2mkd.config import load
from m2mkd.config.claims import Claim
from m2mkd.config.experiment import AblationExperiment, DetectionExperiment, TransferExperiment
from m2mkd.errors import InputError
from m2mkd.study.study import Study


def at_once(study: Study, claims: Sequence[Claim]) -> dict[str, int]:
    """Number of claims, including itself, with which each claim is judged jointly, by id.

    These are the claims of the same subject at the same scale; claims about ablations are a separate group, because another command runs
    them. All claims in the file count, not only those that a study ran: the certainty that a verdict needs is fixed before anything is
    run, and neither leaving a claim out nor another claim's outcome lowers it.
    """
    ablations = set(load.ablations(study.scale_name, study.scale))
    groups = {claim.id: (claim.subject, claim.scale, not ablations.isdisjoint(claim.population)) for claim in claims}
    sizes = Counter(groups.values())
    return {name: sizes[group] for name, group in groups.items()}


def families(study: Study, claims: Sequence[Claim]) -> dict[str, str]:
    """Family of the models that each claim is about, by its id: vit, vmoe or nac.

    Raises
    ------
    InputError
        If a claim names an unknown experiment.
    """
    catalogue = load.catalogue(study.scale)

    @cache
    def family(name: str) -> str:
        experiment = load.experiment(name, study.scale)
        if isinstance(experiment, AblationExperiment):
            return family(experiment.of.partition("/")[0])
        if isinstance(experiment, TransferExperiment):
            return family(experiment.students[0].partition("/")[0])
        if isinstance(experiment, DetectionExperiment):
            return "detector"
        return catalogue.models[experiment.model].family

    found = {}
    for claim in claims:
        try:
            found[claim.id] = " and ".join(sorted({family(name) for name in claim.population}))
        except InputError as error:
            raise InputError(f"config/claims.tsv: {claim.id}: {error}") from None
    return found
