"""Weights from elsewhere under this package's names: imported files, released ones as they are, and those of own runs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2mkd.errors import InputError
from m2mkd.files import sha256, write_atomically
from m2mkd.upstream.description import Description, describe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2mkd.config.detection import DetectorConfig
    from m2mkd.config.models import NACConfig, ViTConfig, VMoEConfig

FORMAT = "m2mkd-import/1"
"""Value of ``format`` in the header of an imported file."""


@dataclass(frozen=True)
class Imported:
    """A network or module whose weights came from elsewhere; no tensor is read before :meth:`state` or :meth:`build`."""

    description: Description
    source: str
    """Name of the file that the weights came in."""
    source_sha256: str
    """Digest of that file."""
    state: Callable[[], dict[str, "Tensor"]]
    """Reads the state dict, by the names of this package."""

    @property
    def kind(self) -> str:
        """One of :data:`~m2mkd.upstream.description.KINDS`."""
        return self.description.kind

    @property
    def architecture(self) -> "ViTConfig | VMoEConfig | NACConfig | DetectorConfig":
        """As a configuration of this package would give it."""
        return self.description.architecture

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.description.image_size

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.description.num_classes

    def build(self) -> "nn.Module":
        """The network with its weights, in evaluation mode on the CPU."""
        from m2mkd.upstream.network import assemble

        return assemble(self.description, self.state())


def open_released(path: Path, kind: str, config: Mapping[str, Any], where: str = "config") -> Imported:
    """Open a file as others released it, and check every tensor of it.

    Parameters
    ----------
    path
        The file, see :func:`~m2mkd.upstream.checkpoint.read`.
    kind, config
        As for :func:`m2mkd.upstream.load`; what the file says of itself need not be in ``config``.
    where
        What errors call the configuration.

    Raises
    ------
    InputError
        If the file cannot be read, or does not hold what kind and configuration say.
    """
    from m2mkd.upstream import network
    from m2mkd.upstream.checkpoint import read

    description, state = network.adapt(kind, read(path), config, where=where, what=str(path))
    return Imported(description, path.name, sha256(path), lambda: state)


def write_imported(imported: Imported, path: Path) -> None:
    """Write an imported network as safetensors, atomically; the header says what it is and where it came from.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "kind": imported.kind,
        "config": json.dumps(imported.description.config),
        "source": imported.source,
        "source_sha256": imported.source_sha256,
    }
    state = {name: tensor.contiguous() for name, tensor in imported.state().items()}
    try:
        # The file itself is what safetensors writes to by name: weights may be larger than the memory that is left.
        write_atomically(path, lambda file: save_file(state, file.name, metadata=header))
    except SafetensorError as error:
        raise InputError(f"{path}: cannot be written ({' '.join(str(error).split())}); free some space or give another path") from None


def open_imported(path: Path) -> Imported:
    """Open a file that ``write_imported`` wrote, reading only its header.

    Raises
    ------
    InputError
        If it is absent, damaged, or another file.
    """
    header = _header(path)
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: was not written by 'm2mkd import'; import it first, or say what it is with --kind and --config")
    try:
        config = json.loads(header["config"])
        description = describe(header["kind"], config, {}, str(path))
        return Imported(description, header["source"], header["source_sha256"], lambda: _tensors(path))
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: its header is damaged ({error}); import the file anew") from None


def open_run(path: Path) -> Imported:
    """Open the weights of a whole network that a run of this suite published, with the ``run.json`` beside them.

    Raises
    ------
    InputError
        If there is no such record, or the run's network is not whole.
    """
    from m2mkd.models.weights import checked_weights, load_weights
    from m2mkd.study.phase import RECORD, phase_from
    from m2mkd.study.phases import AssembleTeacher, ImportWeights, PretrainMeta, TrainStudent

    try:
        record = json.loads((path.parent / RECORD).read_text())
        config = phase_from(record["config"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: has no readable {RECORD} beside it ({type(error).__name__}); give --kind and --config") from None
    checked_weights(path.parent)
    architecture: ViTConfig | NACConfig
    stitch_width: int | None = None
    match config:
        case PretrainMeta(model=architecture) | AssembleTeacher(model=architecture):
            image_size, num_classes = config.data.image_size, config.data.classes
        case TrainStudent(student=architecture, stitch_width=stitch_width):
            image_size, num_classes = config.data.image_size, config.data.classes
        case ImportWeights(index=None, model=architecture, stitch_width=stitch_width):
            image_size, num_classes = config.image_size, config.classes
        case _:
            raise InputError(f"{path}: this run of {config.name()} gives no whole network; give that of train_student or assemble_teacher")
    kept = getattr(architecture, "stitch", "dropped") == "kept"
    width = stitch_width if kept else None
    description = Description(architecture.family, architecture, image_size, num_classes, config={}, stitch_width=width)
    return Imported(description, record["id"], record["outputs"][path.name], lambda: load_weights(path.parent))


def open_weights(path: Path, kind: str | None, config: Mapping[str, Any] | None, where: str = "config") -> Imported:
    """Open any file of weights: with a kind a released one, otherwise an imported one or that of an own run.

    Raises
    ------
    InputError
        If it is none of them, or damaged.
    """
    if kind is not None:
        return open_released(path, kind, config or {}, where)
    if "run" in _header(path):
        return open_run(path)
    return open_imported(path)


def _header(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: is not a file; give the path of a checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no safetensors file ({' '.join(str(error).split())}); give --kind and --config") from None


def _tensors(path: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: is damaged ({' '.join(str(error).split())}); import the file anew") from None
