"""The smoke study comes to what it came to before: a change of code that is not meant to change results changes no bit of them."""

import pytest

from tests.golden.curves import exact_on
from tests.golden.smoke import came_to, recorded


def test_every_run_has_the_bits_that_were_recorded(finished):
    machines, now = recorded(), came_to(finished.root)
    known = machines.get(exact_on())
    before = known or next(iter(machines.values()))
    assert now.keys() == before.keys(), "the study has other runs; record it anew with python -m tests.golden.smoke"
    if known:
        assert {name: run for name, run in now.items() if run != known[name]} == {}
    # On another machine sums are rounded otherwise, and a short training carries that to the third digit at most.
    for name, run in now.items():
        assert ("loss" in run) == ("loss" in before[name])
        assert run.get("loss", 0.0) == pytest.approx(before[name].get("loss", 0.0), rel=2e-2), name
