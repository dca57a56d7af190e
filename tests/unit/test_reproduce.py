"""What ``make reproduce`` hands on to Snakemake."""

import json

import pytest
from snakemake.cli import parse_config

from m2mkd.cli.options import read_settings
from m2mkd.config.experiment import Settings
from m2mkd.reproduce import _as_config

CHANGED = {
    "tracking_uri": "http://localhost:5000",
    "binds": ["/data:/data:ro"],
    "experiments": ["vmoe_base/m2mkd"],
    "overrides": {"recipes": {"pretrain_meta": {"clip_norm": None}}},
}


@pytest.mark.parametrize("changes", [{}, CHANGED], ids=["as they are", "changed"])
def test_settings_come_through_snakemakes_command_line(changes):
    settings = Settings(scale="smoke", **changes)
    assert read_settings(None, None, None, json.dumps(parse_config(_as_config(settings)))) == settings
