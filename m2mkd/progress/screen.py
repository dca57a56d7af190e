"""The live display: one picture of the study that fills the terminal, whatever its size, and is drawn again each second."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from m2mkd.progress.durations import exact_duration, rough_duration
from m2mkd.progress.snapshot import FailedJob, PhaseCount, RunningJob, Snapshot

BAR_COLUMNS = 30
"""Width of a phase's bar."""
LEAST_COLUMNS = 60
"""Columns of a terminal in which phases have bars, and jobs their measurements."""
ENDING = 10
"""Characters at the end of a title that are always shown."""
FAILED_SHOWN = 3
"""Failed jobs that are shown as long as the study runs; the end names all of them."""
NEWS_SHOWN = 2
"""Lines of news that are shown."""


class Screen:
    """Shows snapshots on the alternate screen of a terminal, where no resize can garble them.

    Parameters
    ----------
    console
        The terminal.
    """

    def __init__(self, console: Console):
        self.console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._news: list[str] = []

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        for line in self._news:  # the screen is gone, and what it said of the plan with it
            self.console.print(Text(line), soft_wrap=True)

    def show(self, snapshot: Snapshot, stopping: str = "") -> None:
        """Draw a snapshot; ``stopping`` says that the study is being stopped, and how."""
        self._news += snapshot.news
        self._live.update(picture(snapshot, self._news[-NEWS_SHOWN:], stopping, self.console.size), refresh=True)


def picture(snapshot: Snapshot, news: Sequence[str], stopping: str, size: ConsoleDimensions) -> RenderableType:
    """A snapshot in at most as many lines as the terminal has: phases that nothing happens in give way to running and failed jobs.

    Parameters
    ----------
    snapshot
        State of the study.
    news
        Lines about the plan.
    stopping
        How the study is being stopped; empty while it is not.
    size
        Of the terminal.
    """
    head: list[RenderableType] = [_headline(snapshot), _bar_of_all(snapshot)]
    head += [_line(line, "dim") for line in news]
    failed = [line for job in snapshot.failed[-FAILED_SHOWN:] for line in _failure(job)]
    if more := len(snapshot.failed) - FAILED_SHOWN:
        failed += [_line(f"and {more} more that failed", "red")] if more > 0 else []
    foot = [_line(stopping, "bold yellow")] if stopping else []
    room = max(2, size.height - len(head) - len(failed) - len(foot))
    jobs = snapshot.running
    # At least a third of the room is for jobs, so that many phases do not push them out.
    wanted = min(len(jobs), max(room - len(snapshot.phases) - 2, room // 3))
    phases = _fitting(snapshot.phases, room - wanted - (2 if wanted else 1))
    blank = [Text()] if room - wanted - len(phases) > (2 if wanted else 1) else []
    lines: list[RenderableType] = [*head, *blank, _phase_table(phases, bars=size.width >= LEAST_COLUMNS)]
    if wanted:
        lines += [_line(_count_running(jobs, wanted), "bold"), _job_table(jobs[:wanted], size.width)]
    elif not snapshot.planned:
        lines.append(_line("Snakemake plans the jobs", "dim"))
    return Group(*lines, *failed, *foot)


def _headline(snapshot: Snapshot) -> Text:
    return _line(f"{snapshot.title}: {snapshot.done} of {snapshot.total} runs done", "bold")


def _bar_of_all(snapshot: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row(ProgressBar(total=max(1, snapshot.total), completed=snapshot.done), Text(_clock(snapshot)))
    return table


def _clock(snapshot: Snapshot) -> str:
    if snapshot.done == snapshot.total:
        left = "all runs are done"
    elif snapshot.left is None:
        left = "time left is known after the first run"
    else:
        left = f"about {rough_duration(snapshot.left)} left"
    return f"{left}, {exact_duration(snapshot.elapsed)} so far"


def _count_running(jobs: Sequence[RunningJob], shown: int) -> str:
    return "running" if shown == len(jobs) else f"running, {shown} of {len(jobs)} jobs"


def _fitting(phases: Sequence[PhaseCount], lines: int) -> list[PhaseCount]:
    """As many phases as fit: first those that are finished are left out, then the last ones that have not begun."""
    kept = list(phases)
    for is_idle in (lambda phase: phase.done == phase.total, lambda phase: phase.done == 0):
        for phase in [one for one in (kept if is_idle(kept[0]) else reversed(kept)) if is_idle(one)]:
            if len(kept) > max(1, lines):
                kept.remove(phase)
    return kept[: max(1, lines)]


def _phase_table(phases: Sequence[PhaseCount], *, bars: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    if bars:
        table.add_column(no_wrap=True, width=BAR_COLUMNS)
    for phase in phases:
        style = "green" if phase.done == phase.total else "" if phase.done else "dim"
        bar = ProgressBar(total=max(1, phase.total), completed=phase.done, width=BAR_COLUMNS)
        table.add_row(Text(phase.name, style), Text(f"{phase.done}/{phase.total}", style), *([bar] if bars else []))
    return table


def _job_table(jobs: Sequence[RunningJob], columns: int) -> Table:
    """Running jobs; a narrow terminal has no room for their measurements, and of a long title the middle is left out."""
    facts = [(job.position, job.measured[: columns // 3], exact_duration(job.seconds)) for job in jobs]
    if columns < LEAST_COLUMNS:
        facts = [(position, "", time) for position, _, time in facts]
    widths = [max(map(cell_len, cells)) for cells in zip(*facts, strict=True)]
    room = columns - sum(widths) - 2 * len(widths)
    table = Table.grid(padding=(0, 2, 0, 0))
    for side in ("left", "left", "left", "right"):
        table.add_column(no_wrap=True, justify=side)
    for job, cells in zip(jobs, facts, strict=True):
        table.add_row(Text(_shortened(job.title, max(ENDING + 2, room))), *map(Text, cells))
    return table


def _shortened(title: str, room: int) -> str:
    """A title in so many characters: without its middle, for it ends with the seed."""
    return title if len(title) <= room else f"{title[: room - ENDING - 1]}…{title[-ENDING:]}"


def _failure(job: FailedJob) -> list[Text]:
    times = f" ({job.times} times)" if job.times > 1 else ""
    return [_line(f"failed{times}: {job.title}; log {job.log}", "red"), _line(f"  {job.last_line}", "red")]


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")
