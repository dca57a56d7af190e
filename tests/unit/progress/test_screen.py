"""The picture of a study at any size of the terminal, and the same in lines."""

import io

import pytest
from rich.console import Console

from m2mkd.progress.lines import QUIET_SECONDS, PlainLines
from m2mkd.progress.screen import picture
from m2mkd.progress.snapshot import EndedRun, FailedJob, PhaseCount, RunningJob, Snapshot

PHASES = tuple(PhaseCount(f"phase_{number}", done, 4) for number, done in enumerate((4, 4, 4, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)))
JOBS = tuple(
    RunningJob(f"distil module {number} of vmoe_base/m2mkd, seed 3", 100 - number, "epoch 3/12", "loss 0.812  top-1 71.2 %")
    for number in range(30)
)
FAILED = tuple(FailedJob(f"train vmoe_base/m2mkd, seed {n}", f"results/logs/{n}.log", "m2mkd: no data; fetch it", 1) for n in range(5))


def snapshot(**changes) -> Snapshot:
    facts = {
        "title": "A study", "done": 14, "total": 56, "elapsed": 125.0, "left": 240.0, "phases": PHASES, "running": JOBS[:2],
        "failed": (), "ended": (), "news": (), "planned": True,
    }  # fmt: skip
    return Snapshot(**(facts | changes))


def drawn(state: Snapshot, columns: int, rows: int, stopping: str = "") -> list[str]:
    console = Console(width=columns, height=rows, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(picture(state, ["12 runs are new"], stopping, console.size), end="")
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("rows", [10, 16, 24, 60])
@pytest.mark.parametrize("jobs", [0, 1, 2, 30])
@pytest.mark.parametrize("failed", [0, 1, 5])
def test_it_fits_any_terminal_and_always_says_what_matters(columns, rows, jobs, failed):
    state = snapshot(running=JOBS[:jobs], failed=FAILED[:failed])
    lines = drawn(state, columns, rows)
    text = "\n".join(lines)
    assert all(len(line) <= columns for line in lines)
    assert lines[0] == "A study: 14 of 56 runs done"
    assert "phase_3" in text or rows < 16  # in which something happens
    if failed and rows >= 16:
        assert "failed: train vmoe_base" in text and "m2mkd: no data" in text
    if rows >= 16:
        assert len(lines) <= rows
        assert text.count("distil mo") >= min(jobs, 1)
    if jobs and columns >= 80 and rows >= 16:
        words = " ".join(text.split())
        assert "seed 3 epoch 3/12 loss 0.812 top-1 71.2 % 1:40" in words  # of a long title the middle is left out
    if columns >= 80 and rows == 60:
        assert "about 4 min left, 2:05 so far" in text and text.count("epoch 3/12") == jobs


def test_jobs_that_do_not_fit_are_counted():
    lines = drawn(snapshot(running=JOBS), 80, 24)
    shown = sum("distil module" in line for line in lines)
    assert f"running, {shown} of 30 jobs" in lines


def test_stopping_is_said_below_everything():
    assert drawn(snapshot(), 80, 24, "stopping: jobs save their state")[-1] == "stopping: jobs save their state"


def lines_of(*states: Snapshot) -> list[str]:
    file = io.StringIO()
    with PlainLines(file) as lines:
        for state in states:
            lines.show(state)
    return file.getvalue().splitlines()


def test_without_a_terminal_finished_runs_and_failures_are_lines():
    ended = (EndedRun("train one", 75.0, "loss 0.5  top-1 71.2 %"), EndedRun("split it", None))
    assert lines_of(snapshot(ended=ended, news=("12 runs are new",)), snapshot(failed=FAILED[:1]), snapshot(failed=FAILED[:1])) == [
        "12 runs are new",
        "13 of 56 runs, about 4 min left: train one (1:15, loss 0.5, top-1 71.2 %)",
        "14 of 56 runs, about 4 min left: split it",
        "failed: train vmoe_base/m2mkd, seed 0; log results/logs/0.log: m2mkd: no data; fetch it",
    ]


def test_silence_is_broken_by_what_runs():
    said = lines_of(*(snapshot(elapsed=float(second)) for second in range(int(2.5 * QUIET_SECONDS))))
    assert len(said) == 2
    assert said[0].startswith(
        "14 of 56 runs, about 4 min left; running: distil module 0 of vmoe_base/m2mkd, seed 3, epoch 3/12, loss 0.812, "
    )


def test_nothing_in_a_log_moves_the_cursor():
    said = lines_of(snapshot(failed=(FailedJob("one", "a.log", "\x1b[2J\x07bad", 1),)))
    assert all(line.isprintable() for line in said)
