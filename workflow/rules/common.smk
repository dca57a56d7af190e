import json
import os
import shlex
import subprocess
import sys
from glob import glob

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import validate


def machine():
    """What a profile says of the machine among its default resources, as ``plan``: options of `m2mkd plan`."""
    defaults = workflow.resource_settings.default_resources
    given = dict(arg.split("=", 1) for arg in defaults.args) if defaults else {}
    return shlex.split(given.get("plan", ""))


def storage():
    """Where Snakemake keeps local copies of outputs that it sends to an object storage; nothing without one."""
    settings = workflow.storage_settings
    if settings.default_storage_provider is None:
        return []
    bucket = settings.default_storage_prefix.partition("://")[2]
    provider = settings.default_storage_provider
    copies = os.path.join(settings.local_storage_prefix, provider, bucket.strip("/"))
    return ["--storage", copies]


def planned():
    """Path of the graph of runs: planned now, or by the Snakemake that sent this one to a node of a cluster."""
    if not workflow.is_main_process and os.environ.get("M2MKD_PLAN"):
        return os.environ["M2MKD_PLAN"]
    command = ["m2mkd", "runs", "plan", "--config", json.dumps(config), *machine()]
    # Snakemake has read them too, and takes the last of two equal keys without a word.
    command += [f"--read={file}" for file in workflow.configfiles]
    command += storage()
    if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
        command.append("--in-container")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # the command has said why, in one line
    return done.stdout.strip()


# The package explains a mistake in one line, so it looks first; the schema then fills in what is left out. From here on nothing reads the
# configuration: whoever edits it while jobs wait changes nothing in what was planned.
os.environ["M2MKD_PLAN"] = planned()
with open(os.environ["M2MKD_PLAN"]) as file:
    PLAN = json.load(file)
validate(config, "../schemas/config.schema.json")
ROOT = PLAN["root"]
RUNS = f"{ROOT}/runs"
LOGS = f"{ROOT}/logs"


envvars:
    "M2MKD_PLAN",


# Without --use-singularity Snakemake ignores the image and says so. With it, each job is told that it must find itself inside.
container: PLAN["container"]["image"]


os.environ.update(PLAN["tracking"] | PLAN["container"]["environment"])
if PLAN["container"]["prefix"]:
    shell.prefix(PLAN["container"]["prefix"])


def outputs(phase):
    """What a run of the phase publishes, with the wildcard key."""
    return [
        f"{RUNS}/{phase}/{{key}}/{name}" for name in PLAN["phases"][phase]["outputs"]
    ]


def inputs(phase):
    """What a run of the phase builds on."""

    def of_key(wildcards):
        run_id = f"{phase}/{wildcards.key}"
        if run_id not in PLAN["runs"]:
            raise WorkflowError(
                f"{run_id} is not a run of this configuration; 'm2mkd runs list' shows them"
            )
        return inputs_of([run_id])

    return of_key


def inputs_of(run_ids):
    """What some runs build on."""
    needed = {file for run_id in run_ids for file in PLAN["runs"][run_id]["inputs"]}
    beside = {file for run_id in run_ids for file in PLAN["runs"][run_id]["ancient"]}
    sets = {file for file in needed if file.startswith(("data/", f"{ROOT}/plan/"))}
    # Of a link into a cache of DVC Snakemake looks at the time of the file there, which is not ours to set.
    files = sorted(needed - sets) + [local(file) for file in sorted(sets)]
    return [ancient(f) if os.path.islink(f) else f for f in files] + [
        ancient(local(file)) for file in sorted(beside - needed)
    ]


def phase_of(run_id):
    """Phase of a run."""
    phase, _, key = run_id.partition("/")
    return phase


def results(selected, whole=False, part=None):
    """Outputs of every run of the study, of a part of what its scale has, or of all that, which a predicate of phase and run selects."""
    return [
        f"{RUNS}/{run_id}/{name}"
        for run_id, run in PLAN["runs"].items()
        if (whole or (part in run["parts"] if part else run["study"]))
        and selected(phase_of(run_id), run)
        for name in PLAN["phases"][phase_of(run_id)]["outputs"]
    ]


def outputs_of(run_ids):
    """Outputs of some runs."""
    return [
        f"{RUNS}/{run_id}/{name}"
        for run_id in run_ids
        for name in PLAN["phases"][phase_of(run_id)]["outputs"]
    ]


def asked(job, resource):
    """What a job asks of the machine that a profile describes: a run, written with the wildcard key, or a group by the first key."""
    return lambda wildcards: PLAN["requests"][job.format(**wildcards)][resource]


def cores(job, phase):
    """Cores of a job."""
    own = PLAN["requests"] and not PLAN["phases"][phase]["head_node"]
    return asked(job, "threads") if own else PLAN["threads"]


def needs(job, phase):
    """Resources of a job, which on the head node are none."""
    if PLAN["phases"][phase]["head_node"]:
        return {}
    if not PLAN["requests"]:
        return {"gpu": 1}
    memory = asked(job, "mem_mb")
    return {
        "gpu": asked(job, "gpu"),
        "runtime": asked(job, "runtime"),
        # A job that was killed for its memory gets more when it is retried.
        "mem_mb": lambda wildcards, attempt: attempt * memory(wildcards),
    }


def arguments(wildcards, resources):
    """Arguments of a job. On a machine that a profile describes, its GPUs are its own."""
    own = PLAN["requests"] and "gpu" in resources.keys()
    gpus = f" --gpus {resources.gpu}" if own else ""
    return f"--scale {shlex.quote(PLAN['scale'])}{gpus}"


def message(phase):
    """What Snakemake says of a job when it starts: its title, its first run, and what it asks of a machine that a profile describes."""
    own = PLAN["requests"] and not PLAN["phases"][phase]["head_node"]
    asks = " ".join(
        f"{name}={{resources.{name}}}" for name in ("gpu", "runtime", "mem_mb")
    )
    return "{params.title} ({params.run[0]})" + (f" {asks}" if own else "")


def of_study(key):
    """Arguments of what is made of a whole study, as it was planned."""
    return f"--scale {shlex.quote(PLAN['scale'])} --study {shlex.quote(key)}"


def receipt(name):
    """What says that a source file is in data/raw, and right."""
    return f"{ROOT}/fetched/{name}"


def sources(wildcards):
    """Receipts of the source files of a prepared set, unless it is there: then nothing is fetched for it, however long they are gone."""
    made = f"data/packed/{wildcards.data}/{wildcards.key}/manifest.json"
    files = [] if os.path.exists(made) else PLAN["raw"].get(wildcards.data, [])
    return [ancient(local(receipt(os.path.basename(file)))) for file in files]


wildcard_constraints:
    key="[0-9a-f]{16}",
