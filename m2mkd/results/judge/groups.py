"""What claims have in common: the board that they are judged on at once, and the family of their students."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

from m2mkd.config import load
from m2mkd.config.claims import Claim
from m2mkd.config.experiment import AblationExperiment, DetectionExperiment, TransferExperiment
from m2mkd.errors import InputError
from m2mkd.study.study import Study


def at_once(study: Study, claims: Sequence[Claim]) -> dict[str, int]:
    """With how many, itself included, each claim is judged at once, by its id.

    Those are the claims of the same subject at the same scale, those about its ablations apart, for another command runs them. All that the
    file has count, and not only those that a study ran: how certain a verdict has to be is fixed before anything is run, and neither
    leaving a claim out nor another claim's outcome makes it easier.
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
        If a claim is about an experiment that there is not.
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
