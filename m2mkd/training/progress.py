"""What a person sees of a training: live bars on a terminal, one line an epoch elsewhere."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress(AbstractContextManager):
    """Epochs and the last measurements of one or more trainings.

    Parameters
    ----------
    epochs
        Epochs of each training.
    done
        Epochs that each has behind it, by its title.
    """

    def __init__(self, epochs: int, done: Mapping[str, int]):
        self.epochs = epochs
        self.console = Console(file=sys.stderr)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks = {title: self.bar.add_task(title, total=epochs, completed=count, news="") for title, count in done.items()}

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def epoch(self, title: str, epoch: int, measured: Mapping[str, float]) -> None:
        """Show that ``epoch`` (from 0) of a training has ended."""
        news = "  ".join(f"{name} {value:.4g}" for name, value in measured.items() if name not in ("epoch", "step") and "/" not in name)
        if self.console.is_terminal:
            self.bar.update(self.tasks[title], completed=epoch + 1, news=news)
        else:
            self.console.print(f"{title}  epoch {epoch + 1}/{self.epochs}  {news}", highlight=False, soft_wrap=True)
