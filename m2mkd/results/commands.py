"""Commands that redo what a study holds."""

import json
import shlex

from m2mkd.config.study import Study
from m2mkd.results.changes import overrides_of


class Commands:
    """Writes commands for one study, which carry its scale and its changes."""

    def __init__(self, study: Study):
        self.config = [f"scale={study.scale_name}"]
        if overrides := overrides_of(study):
            self.config.append(f"overrides={json.dumps(overrides)}")

    def to(self, target: str) -> str:
        """The command that computes what is missing of a target: an experiment, or a file of a run."""
        return shlex.join(["snakemake", "--cores", "all", target, "--config", *self.config])
