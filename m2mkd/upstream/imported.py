"""Weights under this package's names: imported files, released ones as they are, and those of own runs."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2mkd.config.detection import DetectorSwitches
from m2mkd.config.family import Architecture
from m2mkd.config.registered_families import family_of
from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import write_atomically
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.description import Description
from m2mkd.upstream.foreign import read_text
from m2mkd.upstream.safetensors_file import read_header, read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2mkd.config.detection import DetectorConfig
    from m2mkd.config.models import NACConfig, ViTConfig, VMoEConfig

IMPORT_FORMAT = "m2mkd-import/1"
"""Value of ``format`` in the header of an imported file."""


@dataclass(frozen=True)
class Imported:
    """Network or module with weights from elsewhere; no tensor is read before :meth:`state` or :meth:`build`."""

    description: Description
    source: str
    """Name of the file that contained the weights."""
    source_sha256: str
    """Digest of that file, see :func:`~m2mkd.upstream.checkpoint.checkpoint_digest`."""
    state: Callable[[], dict[str, "Tensor"]]
    """Function that reads the state dict, by the names of this package."""

    @property
    def kind(self) -> str:
        """Kind of checkpoint, one of :data:`~m2mkd.upstream.kinds.KINDS`."""
        return self.description.kind

    @property
    def architecture(self) -> "ViTConfig | VMoEConfig | NACConfig | DetectorConfig":
        """Configuration of the network in this package."""
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
        """Build the network with its weights, in evaluation mode on the CPU."""
        from m2mkd.upstream.network import build_with_state

        return build_with_state(self.description, self.state(), self.source)


def open_released(
    path: Path,
    kind: str,
    config: Mapping[str, Any],
    where: str = "config",
    *,
    ema: bool = False,
    say: Callable[[str], object] = warnings.warn,
) -> Imported:
    """Open a file as released by third parties, and check every tensor of it.

    Parameters
    ----------
    path
        Path of the file, see :func:`~m2mkd.upstream.checkpoint.read`.
    kind, config
        See :func:`m2mkd.upstream.load`; ``config`` may omit what the file itself contains.
    where
        Name of the configuration in errors.
    ema
        Take the moving average of the weights.
    say
        Function that reports which weights are taken if the file has those of the last update and their moving average.

    Raises
    ------
    InputError
        If the file cannot be read, or does not match kind and configuration.
    """
    from m2mkd.upstream import network
    from m2mkd.upstream.checkpoint import checkpoint_digest, read

    checkpoint = read(path, ema=ema)
    description, state = network.adapt(kind, checkpoint, config, where=where, what=str(path))
    if checkpoint.choice:
        say(f"{path}: {checkpoint.choice}; {'leave out --ema' if ema else '--ema'} for the other")
    return Imported(description, path.name, checkpoint_digest(path), lambda: state)


def write_imported(imported: Imported, path: Path) -> None:
    """Write an imported network as safetensors, atomically; the header describes it and its origin.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {
        "format": IMPORT_FORMAT,
        "kind": imported.kind,
        "config": json.dumps(imported.description.config),
        "source": imported.source,
        "source_sha256": imported.source_sha256,
    }
    state, written = {}, set()
    for name, tensor in imported.state().items():
        # The format does not support tensors that share numbers, such as those of a tied layer.
        storage = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone(memory_format=torch.contiguous_format) if storage in written else tensor.contiguous()
        written.add(storage)
    try:
        # Safetensors writes directly to the named file: weights may be larger than the free memory.
        write_atomically(path, lambda file: save_file(state, file.name, metadata=header))
    except SafetensorError as error:
        raise InputError(f"{path}: cannot be written ({' '.join(str(error).split())}); free some space or give another path") from None


def open_imported(path: Path) -> Imported:
    """Open a file that ``write_imported`` wrote, reading only its header.

    Raises
    ------
    InputError
        If it is missing, damaged, or a file of another type.
    """
    header = read_header(path)
    if header.get("format") != IMPORT_FORMAT:
        raise InputError(f"{path}: was not written by 'm2mkd import'; import it first, or describe it with --kind and --config")
    if missing := {"kind", "config", "source", "source_sha256"} - header.keys():
        raise InputError(f"{path}: its header is damaged ({min(missing)} is missing); import the file again")
    config = parse_json(header["config"], f"{path}: its header is damaged; import the file again: config")
    description = describe_checkpoint(header["kind"], config, {}, str(path))
    return Imported(description, header["source"], header["source_sha256"], lambda: read_tensors(path, "import the file again"))


def open_run(path: Path) -> Imported:
    """Open the weights of a whole network that a run of this suite published, with ``run.json`` next to them.

    Raises
    ------
    InputError
        If there is no such record, or the run's network is not complete.
    """
    from m2mkd.models.weights import checked_weights, load_weights
    from m2mkd.study.phase import RECORD, phase_from
    from m2mkd.study.phases import AssembleTeacher, ImportWeights, PretrainMeta, TrainDetector, TrainStudent

    try:
        record = parse_json(read_text(path.parent / RECORD), RECORD)
        config = phase_from(record["config"])
        source, source_sha256 = record["id"], record["outputs"][path.name]
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: has no readable {RECORD} next to it ({type(error).__name__}); give --kind and --config") from None
    checked_weights(path.parent)
    architecture: Architecture
    stitch_width: int | None = None
    match config:
        case PretrainMeta(model=architecture) | AssembleTeacher(model=architecture):
            image_size, num_classes = config.data.image_size, config.data.classes
        case TrainDetector(model=detector, data=data, compat=compat):
            switches = DetectorSwitches.of(compat)
            sizes = detector.image_size, data.classes
            description = Description("vmoe_detector", detector, *sizes, config={}, switches=switches)
            return Imported(description, source, source_sha256, lambda: load_weights(path.parent))
        case TrainStudent(student=architecture, stitch_width=stitch_width):
            image_size, num_classes = config.data.image_size, config.data.classes
        case ImportWeights(index=None, model=architecture, stitch_width=stitch_width):
            image_size, num_classes = config.image_size, config.classes
        case _:
            wanted = "train_student, train_detector or assemble_teacher"
            raise InputError(f"{path}: this run of {config.name()} does not produce a whole network; give a run of {wanted}")
    kind: Any = family_of(architecture).imported_kind(architecture, None)
    if kind is None:
        raise InputError(f"{path}: a network of family {architecture.family} cannot be opened as a checkpoint; use the runs of its study")
    kept = getattr(architecture, "stitch", "dropped") == "kept"
    width = stitch_width if kept else None
    ours: Any = architecture
    description = Description(kind, ours, image_size, num_classes, config={}, stitch_width=width)
    return Imported(description, source, source_sha256, lambda: load_weights(path.parent))


def open_weights(
    path: Path,
    kind: str | None,
    config: Mapping[str, Any] | None,
    where: str = "config",
    *,
    ema: bool = False,
    say: Callable[[str], object] = warnings.warn,
) -> Imported:
    """Open any file of weights: with a kind, a released file; otherwise an imported file or that of an own run.

    Parameters
    ----------
    path
        Path of the file.
    kind, config, where, ema, say
        See `open_released`; for a released file.

    Raises
    ------
    InputError
        If it is none of them, or damaged; or if ``ema`` is set for a file without that choice.
    """
    if kind is not None:
        return open_released(path, kind, config or {}, where, ema=ema, say=say)
    if ema:
        raise InputError(f"{path}: --ema applies to released files only; add --kind and --config, or leave it out")
    return open_run(path) if "run" in read_header(path) else open_imported(path)
