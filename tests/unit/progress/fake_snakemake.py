"""Stands in for Snakemake: plays a study whose finished runs lie in a folder, one step for each file ``go-<n>`` that appears."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

SCENE = json.loads(Path("scene.json").read_text())
ROOT, READY = Path(SCENE["root"]), Path("ready")
FAILURE = """Error in rule distill_module:
    message: distil a module
    jobid: 3
    log: {log} (check log file(s) for error details)
"""


def wait(step: int) -> None:
    while not Path(f"go-{step}").exists():
        time.sleep(0.02)


def begin(run_id: str, lines: list[dict]) -> None:
    """Hold a run as its job does, and write its learning curve."""
    _, key = run_id.split("/")
    work = ROOT / "work" / run_id
    work.mkdir(parents=True)
    process = psutil.Process()
    identity = {"pid": process.pid, "created": process.create_time()}
    (work.parent / f".{key}.owner.json").write_text(json.dumps({"host": socket.gethostname(), "self": identity}))
    (work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def publish(run_ids: list[str]) -> None:
    """Let finished runs appear."""
    for run_id in run_ids:
        (ROOT / "runs" / run_id).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(READY / run_id, ROOT / "runs" / run_id)
        for owner in (ROOT / "work").glob(f"{run_id.replace('/', '/.')}.owner.json"):
            owner.unlink()


def fail() -> None:
    """A job refuses its input."""
    log = ROOT / "logs" / f"{SCENE['failing']}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("reading\nm2mkd: data/x: absent; fetch it\n")
    sys.stdout.write(FAILURE.format(log=log))


def main() -> int:
    if "--unlock" in sys.argv:
        return 0
    if SCENE["ending"] == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if SCENE["ending"] == "job":
        signal.signal(signal.SIGTERM, lambda *_: None)
        subprocess.Popen([sys.executable, SCENE["job"]])
    sys.stdout.write("m2mkd: since the last plan 3 of 36 runs are new\nJob stats:\n")
    sys.stdout.flush()
    begin(SCENE["running"], SCENE["curve"])
    try:
        wait(1)
        if SCENE["ending"] == "failure":
            fail()
            sys.stdout.flush()
            wait(2)
            return 1
        publish([SCENE["running"]])
        wait(2)
        publish(SCENE["others"])
        wait(3)
    except KeyboardInterrupt:
        time.sleep(0.5)  # jobs save their state
        Path("stopped").touch()
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
