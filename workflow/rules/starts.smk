import json
import os
import shutil
import socket
import threading
import time

from snakemake.settings.enums import Quietness

# A dry run counts the jobs of each rule; with --printshellcmds it lists them, too.
printed = workflow.output_settings
if printed.dryrun and printed.quiet and not printed.printshellcmds:
    printed.quiet.add(Quietness.RULES)


# With a limit of starts Snakemake looks at all waiting jobs once a second for each job that ever ended, which soon takes much of a core from
# the jobs. Its default, a hundred a second, limits nothing here. Snakemake heeds this in the file that it is started with alone.
onstart:
    limit = workflow.scheduler.job_rate_limiter
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
    _note_this_workflow()
    _give_up_what_was_refused()


onsuccess:
    _forget_this_workflow()
    # What jobs kept lest Snakemake, had it not seen them end, removed what they had published.
    with open(os.environ["M2MKD_PLAN"]) as file:
        plan = json.load(file)
    for run in plan["runs"]:
        phase, key = run.split("/")
        shutil.rmtree(
            f"{plan['root']}/work/{phase}/.{key}.done", ignore_errors=True
        )


onerror:
    _forget_this_workflow()


# Commands that remove things, and `m2mkd reproduce` before it takes back a lock, look for these notes (m2mkd/workflows.py). The touches tell
# them on other machines, which cannot look for the process, that it is still there.
WORKFLOW_NOTE = f"results/.workflows/{socket.gethostname()}-{os.getpid()}.json"


def _note_this_workflow():
    os.makedirs(os.path.dirname(WORKFLOW_NOTE), exist_ok=True)
    with open(WORKFLOW_NOTE, "w") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)

    def touch():
        while os.path.exists(WORKFLOW_NOTE):
            os.utime(WORKFLOW_NOTE)
            time.sleep(10)

    threading.Thread(target=touch, daemon=True).start()


def _forget_this_workflow():
    if os.path.exists(WORKFLOW_NOTE):
        os.unlink(WORKFLOW_NOTE)


def _give_up_what_was_refused():
    """Let Snakemake, which knows no exit codes, not give a job again that refused what it was given: it would only refuse it again."""
    scheduler = workflow.scheduler
    handle = getattr(scheduler, "_handle_error", None)
    if handle is None:  # another version of Snakemake: it retries
        return

    def handle_once(job, *arguments, **options):
        if any(map(_refused, job.log)):
            job.attempt = job.restart_times + 1
        return handle(job, *arguments, **options)

    scheduler._handle_error = handle_once


def _refused(log):
    """Whether a log ends with a refusal: one line of the package that is not about a signal or a lost process."""
    try:
        with open(log, errors="replace") as file:
            lines = file.read().split("\n")
    except OSError:
        return False
    last = next((line for line in reversed(lines) if line.strip()), "")
    passing = ("m2mkd: stopped by", "m2mkd: interrupted", "m2mkd: rank ")
    return last.startswith("m2mkd: ") and not last.startswith(passing)
