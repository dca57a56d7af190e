"""How much a job saves by reading its own plan: the time to plan its study over the time to read the plan of one run.

``python benchmarks/planning.py [--scale SCALE] [--rounds N]``, from the root of the project. Prints medians of interleaved rounds and their
ratio. The plan is written to ``results/<scale>/plan`` as the workflow would.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from m2mkd.config import load, strict
from m2mkd.study.files import write_plan
from m2mkd.study.lookup import find_runs
from m2mkd.study.plan import build_study


def seconds(work: Callable[[], object]) -> float:
    """Time of one call; what is cached within a process is forgotten first, for every job is one of its own."""
    load.datasets.cache_clear()
    load.switches.cache_clear()
    strict.parse_yaml.cache_clear()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", default="small")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    settings = load.settings({"scale": arguments.scale})
    study = build_study(settings)
    write_plan(study)
    run_id = next(reversed(study.runs))
    planning, reading = [], []
    for _ in range(arguments.rounds):
        planning.append(seconds(lambda: build_study(settings)))
        reading.append(seconds(lambda: find_runs([run_id], settings)))
    whole, one = statistics.median(planning), statistics.median(reading)
    sys.stdout.write(
        f"scale {arguments.scale}, {len(study.runs)} runs: planning {1e3 * whole:.1f} ms, reading one plan {1e3 * one:.2f} ms, "
        f"ratio {whole / one:.0f} : 1\n"
    )


if __name__ == "__main__":
    main()
