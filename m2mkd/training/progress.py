"""What a person sees of a training: a live bar on a terminal, one line an epoch elsewhere."""

import sys
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress(AbstractContextManager):
    """Epochs and the last measurements of one training."""

    def __init__(self, title: str, epochs: int, done: int = 0):
        self.title, self.epochs = title, epochs
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
        self.task = self.bar.add_task(title, total=epochs, completed=done, news="")

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def epoch(self, epoch: int, measured: dict[str, float]) -> None:
        """Show that ``epoch`` (from 0) has ended."""
        news = "  ".join(f"{name} {value:.4g}" for name, value in measured.items() if name not in ("epoch", "step"))
        if self.console.is_terminal:
            self.bar.update(self.task, completed=epoch + 1, news=news)
        else:
            self.console.print(f"{self.title}  epoch {epoch + 1}/{self.epochs}  {news}", highlight=False, soft_wrap=True)
