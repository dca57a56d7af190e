"""Codes that a NAC's latents start with (specification nac.md 4, 14 and 15)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from m2mkd.config.experiment import Codes
from m2mkd.errors import InputError
from m2mkd.models.nac.circuit import NAC

SPREAD = 0.3
"""Standard deviation of the latents' codes around that of their module, without which latents of equal codes would stay alike."""


@torch.no_grad()
def start_codes(nac: NAC, how: Codes, modules: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Set the codes of all latents, in place, drawing from torch's global generator.

    A distilled module knows one constant code, while the circuit draws one for each latent (nac.md finding 18).

    Parameters
    ----------
    nac
        Circuit with L propagators, whose codes were drawn independently.
    how
        ``independent`` leaves them; ``identical`` gives all latents of a group its first latent's code; ``of_modules`` gives each latent
        the code of the module that computes it, and a small difference: the input latents that of the read-in, the mediators those of
        the propagators in turn, the output latents that of the read-out.
    modules
        State dicts of the L + 2 distilled modules by their number, for ``of_modules``.

    Raises
    ------
    InputError
        If a module lacks its code, as imported ones do.
    """
    groups = nac.input_latents, nac.mediator_latents, nac.output_latents
    if how == "identical":
        for group in groups:
            group.codes.copy_(group.codes[:1].expand_as(group.codes))
    if how == "of_modules":
        if lacking := [str(number) for number, module in modules.items() if "codes" not in module]:
            raise InputError(
                f"codes: of_modules, but the files of modules {', '.join(lacking)} hold no code; choose identical or independent"
            )
        last = nac.config.modules - 1
        for group, numbers in zip(groups, ([0], range(1, last), [last]), strict=True):
            known = torch.cat([modules[number]["codes"] for number in numbers])
            turn = torch.arange(len(group.codes)) % len(known)
            group.codes.copy_(known[turn] + SPREAD * torch.randn(group.codes.shape))
