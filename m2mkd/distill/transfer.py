"""From modules trained apart to the whole network, strictly: every tensor is accounted for (specification vmoe.md 5, assembly)."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from torch import Tensor, nn

from m2mkd.errors import InputError
from m2mkd.models.vit import StagedTransformer

StateDict = Mapping[str, Tensor]
NetworkT = TypeVar("NetworkT", bound=StagedTransformer)


def assemble(modules: Mapping[int, StateDict], network: NetworkT, only: Collection[int] | None = None) -> NetworkT:
    """Load modules that were trained apart into the stages of a network, in place.

    Stitch tensors are dropped where the network says so (``drops_stitch``), and then must be there; nothing
    else may be missing or left over.

    Parameters
    ----------
    modules
        State of each module by its number, stage-local names (specification vmoe.md 3.2).
    network
        Network of stages.
    only
        Stages that are loaded, the others keep their initial weights; None: every one.

    Returns
    -------
    StagedTransformer
        ``network``.

    Raises
    ------
    InputError
        If a module or a tensor is missing, left over, or of another shape.
    """
    count = len(network.stages)
    wanted = check_indices(range(count) if only is None else only, count)
    if set(modules) != wanted:
        what = f"a network of modules 0 to {count - 1}" if only is None else f"modules {sorted(wanted)} of a network"
        raise InputError(f"got modules {sorted(modules)} for {what}; give each exactly once")
    for index, stage in enumerate(network.stages):
        dropped = stitch_tensors(index, count) if network.drops_stitch else ()
        if index in wanted:
            load_strictly(stage, modules[index], f"module {index}", dropped=dropped)
    return network


def check_indices(indices: Collection[int], count: int) -> set[int]:
    """Module numbers as a set; raises `InputError` where one of them is not from 0 to ``count`` - 1, or stands twice."""
    found = set(indices)
    if wrong := sorted(found - set(range(count))):
        raise InputError(f"module {wrong[0]} does not exist: this network has modules 0 to {count - 1}")
    if len(found) < len(indices):
        raise InputError(f"modules {list(indices)}: one stands twice; give each once")
    return found


def load_strictly(module: nn.Module, state: StateDict, name: str, *, dropped: Collection[str] = ()) -> None:
    """Load the state of a module in place, strictly.

    Parameters
    ----------
    module
        Where the tensors go.
    state
        Tensors by the module's own names.
    name
        What errors call the state.
    dropped
        Tensors that the state has and the module has not.

    Raises
    ------
    InputError
        If a tensor is missing, left over, or of another shape; the module is then as it was.
    """
    expected = module.state_dict()
    check_state(expected, state, name, dropped=dropped)
    module.load_state_dict({key: state[key] for key in expected})


def check_state(expected: StateDict, state: StateDict, name: str, *, dropped: Collection[str] = ()) -> None:
    """Raise `InputError` unless a state has the expected tensors in their shapes, and beside them only ``dropped``; see `load_strictly`."""
    if missing := sorted((expected.keys() | set(dropped)) - state.keys()):
        raise InputError(f"{name} lacks {_listed(missing)}; train it with the configuration that loads it")
    if surplus := sorted(state.keys() - expected.keys() - set(dropped)):
        raise InputError(f"{name} has {_listed(surplus)} that nothing takes; train it with the configuration that loads it")
    for key, tensor in expected.items():
        if state[key].shape != tensor.shape:
            raise InputError(
                f"{name}: {key} is {tuple(state[key].shape)}, expected {tuple(tensor.shape)}; use the same widths, image size and classes"
            )


def stitch_tensors(index: int, count: int) -> frozenset[str]:
    """Names of the stitch tensors of module ``index`` of ``count``: none before the first module, none after the last."""
    layers = [layer for layer, there in (("pre_stitch", index > 0), ("post_stitch", index < count - 1)) if there]
    return frozenset(f"{layer}.{tensor}" for layer in layers for tensor in ("ln.weight", "ln.bias", "fc.weight", "fc.bias"))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
