"""Student with its weights, as a person uses it in Python."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from m2mkd.api.loaders import as_measured
from m2mkd.data.images import evaluated
from m2mkd.data.transforms import normalised
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import measure
from m2mkd.models.staged import StagedTransformer
from m2mkd.study.data import resolve_data
from m2mkd.training.device import choose_device
from m2mkd.training.store import PUBLISHED_FILES
from m2mkd.upstream.imported import Imported
from m2mkd.upstream.measure import measure_imported


@dataclass(frozen=True, eq=False)
class Student:
    """Whole classifier with its weights. `m2mkd.load_student` makes it.

    Attributes
    ----------
    network : torch.nn.Module
        V-MoE, NAC or staged ViT, which can be trained further.
    """

    network: nn.Module
    imported: Imported
    """Description and origin of the weights."""

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        return self.imported.image_size

    @property
    def num_classes(self) -> int:
        """Number C of classes."""
        return self.imported.num_classes

    @property
    def source(self) -> str:
        """Run, as ``phase/key``, or file that the weights are of."""
        return self.imported.source

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Input of the network, as in every evaluation of the suite.

        Parameters
        ----------
        images
            B images of any size and mode.

        Returns
        -------
        Tensor
            float32 (B, 3, S, S): resized, cut to the square in the middle, and normalised.
        """
        return normalised(np.stack([np.asarray(evaluated(image.convert("RGB"), self.image_size)) for image in images]))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S)."""
        logits: Tensor = self.network(images)
        return logits

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Tokens that each stage puts out, before final norm and head.

        Parameters
        ----------
        images
            float32 (B, 3, S, S).

        Returns
        -------
        tuple of Tensor
            (B, N, d) for each stage, the class token first. A V-MoE that keeps its stitch layers has the teacher's width d between stages.

        Raises
        ------
        InputError
            If the network is not made of stages, such as a NAC.

        Examples
        --------
        >>> student = m2mkd.load_student(student_run)
        >>> tokens = student.features(torch.zeros(2, 3, student.image_size, student.image_size))
        >>> len(tokens) == len(student.network.stages)
        True
        """
        if not isinstance(self.network, StagedTransformer):
            raise InputError(f"{self.source}: a {self.imported.kind} has no stages; use the network itself, with hooks of torch")
        found, x = [], images
        for stage in self.network.stages:
            x = stage.tokens(x)  # type: ignore[operator]
            found.append(x)
        return tuple(found)

    def evaluate(
        self,
        data: str | Iterable[tuple[Tensor, Tensor]],
        *,
        classes: Sequence[str] | None = None,
        draws: int = 0,
        device: str = "auto",
    ) -> dict[str, Any]:
        """Measure accuracy and calibration, as ``m2mkd evaluate`` does.

        Parameters
        ----------
        data
            Prepared set, written ``name@size``, whose validation split is measured. Or batches of preprocessed images (B, 3, S, S) and
            labels (B,), such as a loader of torch.
        classes
            Names of the network's classes in the order of its logits, if the prepared set shares only some of them.
        draws
            Noisy passes of a NAC, as in the released evaluation.
        device
            ``cpu``, ``cuda``, ``cuda:N``, or ``auto``. The network stays there.

        Returns
        -------
        dict
            ``top1``, ``top5`` (shares from 0 to 1), ``loss`` (nats), ``count`` (images), ``ece`` and ``ece_equal_mass``; see
            `m2mkd.upstream.measure.measure_imported` for ``classes`` and ``draws``.

        Raises
        ------
        InputError
            If the set is missing or damaged, or does not fit the network; or if ``classes`` or ``draws`` are given with batches.

        Examples
        --------
        >>> student = m2mkd.load_student(student_run)
        >>> measured = student.evaluate("digits@32", device="cpu")
        >>> sorted(measured)
        ['count', 'ece', 'ece_equal_mass', 'loss', 'top1', 'top5']
        """
        here = choose_device(device)
        if isinstance(data, str):
            pack = PUBLISHED_FILES.pack(resolve_data(data, "data")[0])
            names = None if classes is None else tuple(classes)
            network = self.network.to(here).eval()
            return measure_imported(self.imported, pack, here, names, draws, network=network)
        if classes is not None or draws:
            raise InputError("classes and draws need a prepared set, written name@size; leave them out for batches")
        return measure(self.network.to(here).eval(), as_measured(data), here).summary()
