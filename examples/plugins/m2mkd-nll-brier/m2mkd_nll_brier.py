"""Proper scores of predicted probabilities (Gneiting and Raftery 2007, doi 10.1198/016214506000001437) as metrics."""

from torch import Tensor


def nll(logits: Tensor, labels: Tensor) -> float:
    """Negative log-likelihood of the labels in nats, mean over the images."""
    return -logits.log_softmax(dim=1).gather(1, labels[:, None]).mean().item()


def brier(logits: Tensor, labels: Tensor) -> float:
    """Squared distance of the probabilities from the one-hot label, summed over the classes, mean over the images; 0 to 2."""
    wrong = logits.softmax(dim=1)
    wrong[range(len(labels)), labels] -= 1
    return wrong.square().sum(dim=1).mean().item()
