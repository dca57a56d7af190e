"""What importing the interface from Python costs: every name of ``m2mkd.__all__`` over importing timm alone.

``python benchmarks/importing.py [--rounds N] [--json]`` starts a fresh process for each import, the kinds in turn, and prints medians and
ratios. A process measures its own import statement; the interpreter's start is not counted.
"""

import argparse
import json
import statistics
import subprocess
import sys

REFERENCE = "timm"
KINDS = {
    REFERENCE: "import timm",
    "m2mkd": "import m2mkd",
    "every name": "from m2mkd import *",
    "every name and pandas": "from m2mkd import *; import pandas",
}
WANTED = {"every name": "<= 1.2"}
TIMED = "{}import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
BEFORE = {REFERENCE: "import m2mkd; "}
"""Not timed: with a CPU build of torch, timm alone needs current metadata of this package (m2mkd/torchvision_cpu.py)."""


def seconds(name: str) -> float:
    """Time of an import in a process of its own."""
    code = TIMED.format(BEFORE.get(name, ""), KINDS[name])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true", help="print the measurements for a machine")
    arguments = parser.parse_args()
    for name in KINDS:  # bytecode, and the system's cache of files
        seconds(name)
    measured: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(arguments.rounds):
        for name in KINDS:
            measured[name].append(seconds(name))
    if arguments.json:
        sys.stdout.write(json.dumps(measured) + "\n")
        return
    reference = statistics.median(measured[REFERENCE])
    for name, values in measured.items():
        median = statistics.median(values)
        wanted = f"  wanted {WANTED[name]}" if name in WANTED else ""
        sys.stdout.write(f"{KINDS[name]:<40} {median:7.3f} s  {median / reference:5.2f} of timm{wanted}\n")


if __name__ == "__main__":
    main()
