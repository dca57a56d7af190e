"""Seeds derived from names, so that a stream of random numbers depends on its purpose and on nothing else."""

import contextlib
import hashlib
from collections.abc import Iterator


def derive_seed(*names: str | int) -> int:
    """Seed of the stream that ``names`` describe.

    Parameters
    ----------
    *names
        Purpose of the stream, from the general to the particular: ``("data", "digits", "student", seed, epoch)``.

    Returns
    -------
    int
        63 bits, the same on every machine and in every process.
    """
    text = "\x1f".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def forked_rng(*names: str | int) -> Iterator[None]:
    """Seed the global CPU generators of Python, numpy and torch by ``names``, and restore them afterwards.

    For libraries that draw from the global generators (timm's transforms, mixup, drop path). A CUDA generator is only seeded, not
    restored.
    """
    import random

    import numpy as np
    import torch

    seed = derive_seed(*names)
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would take a hundred times as long
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
