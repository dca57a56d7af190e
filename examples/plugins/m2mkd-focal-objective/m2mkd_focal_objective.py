"""Focal loss on the labels of a batch (Lin et al. 2017, arXiv 1708.02002, equation 4) as an objective term."""

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat

from m2mkd.config.objective import Given, Need, ObjectiveTerm


class Focal(ObjectiveTerm):
    """-(1 - p)^gamma log p of the label, with the student's probability p; gamma 0 is the cross-entropy."""

    NEEDS: ClassVar[frozenset[Need]] = frozenset({"labels"})
    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0
    """Exponent that takes weight from samples that are right already."""

    def loss(self, given: Given) -> Any:
        def of_labels(labels: Any) -> Any:
            log = given.student.log_softmax(dim=-1).gather(-1, labels[:, None])[:, 0]
            return -((1 - log.exp()) ** self.gamma) * log

        assert given.labels is not None, "the term asks for them"
        return given.labels.mean(of_labels)
