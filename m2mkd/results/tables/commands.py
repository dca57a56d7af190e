"""Commands that repeat the computations of a study."""

import json
import shlex
from collections.abc import Sequence

from m2mkd.config import load
from m2mkd.study.study import Study


class Commands:
    """Writer of commands for one study, with its scale, its changes and, if given, its experiments."""

    def __init__(self, study: Study, experiments: Sequence[str] = ()):
        self.config = [f"scale={study.scale_name}"]
        if study.overrides:
            self.config.append(f"overrides={json.dumps(study.overrides)}")
        if experiments:
            self.config.append(f"experiments={json.dumps(list(experiments))}")
        chosen = [word for name in experiments for word in ("--experiment", name)]
        changed = [word for change in load.as_assignments(study.overrides) for word in ("--set", change)]
        self.arguments = ["--scale", study.scale_name, *chosen, *changed]

    def to(self, target: str) -> str:
        """Command that computes what is missing of a target: an experiment, or a file of a run."""
        return shlex.join(["snakemake", "--cores", "all", target, "--config", *self.config])

    def of(self, *words: str) -> str:
        """A command of ``m2mkd`` on the study."""
        return shlex.join(["m2mkd", *words, *self.arguments])
