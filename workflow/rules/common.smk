import json
import subprocess
import sys
from glob import glob

from snakemake.utils import validate


def plan_runs():
    """The graph of runs, as the package resolves it from the configuration."""
    command = ["m2mkd", "runs", "plan", "--config", json.dumps(config)]
    planned = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if planned.returncode:
        sys.exit(planned.returncode)  # the command has said why, in one line
    return json.loads(planned.stdout)


# The package explains a mistake in one line, so it looks first; the schema then fills in what is left out.
PLAN = plan_runs()
validate(config, "../schemas/config.schema.json")
ROOT = PLAN["root"]
RUNS = f"{ROOT}/runs"
LOGS = f"{ROOT}/logs"


def outputs(phase):
    """What a run of the phase publishes, with the wildcard key."""
    return [f"{RUNS}/{phase}/{{key}}/{name}" for name in PLAN["phases"][phase]]


def inputs(phase):
    """What a run of the phase builds on."""

    def of_key(wildcards):
        run = PLAN["runs"].get(f"{phase}/{wildcards.key}")
        if run is None:
            raise WorkflowError(
                f"{phase}/{wildcards.key} is not a run of this configuration; 'm2mkd runs list' shows them"
            )
        return run["inputs"]

    return of_key


def results(selected):
    """Outputs of every run that a predicate of id and run selects."""
    return [
        f"{RUNS}/{run_id}/{name}"
        for run_id, run in PLAN["runs"].items()
        if selected(run_id, run)
        for name in PLAN["phases"][run_id.split("/")[0]]
    ]


wildcard_constraints:
    key="[0-9a-f]{16}",
