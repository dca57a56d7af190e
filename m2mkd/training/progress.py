"""Progress display of a training: live bars on a terminal, one line per epoch elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.recipe import Recipe
from m2mkd.training import update


class TrainingProgress:
    """Epochs, speed and the last measurements of one or more trainings.

    Parameters
    ----------
    recipe
        Determines epochs and images of a batch.
    steps_per_epoch
        Batches per epoch.
    quiet
        True: print nothing, for all ranks but the first.
    """

    def __init__(self, recipe: Recipe | DetectionRecipe, steps_per_epoch: int, *, quiet: bool = False):
        self.epochs, self.steps, self.batch, self.quiet = recipe.passes(steps_per_epoch), steps_per_epoch, recipe.batch_size, quiet
        self.console = Console(file=sys.stderr, quiet=quiet)
        self.live = self.console.is_terminal and not quiet
        self.bar = Progress(
            TextColumn("{task.description}  {task.fields[epoch]}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[now]}  {task.fields[news]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.tasks: dict[str, TaskID] = {}
        self._began, self._steps = time.monotonic(), 0

    @contextmanager
    def of(self, done: Mapping[str, int]) -> Iterator[None]:
        """Show trainings by title, each with its number of completed updates."""
        total = self.epochs * self.steps
        self.tasks = {
            title: self.bar.add_task(title, total=total, completed=updates, epoch="", now="", news="") for title, updates in done.items()
        }
        self._began = time.monotonic()
        with self.bar:
            yield

    def say(self, text: str) -> None:
        """Print a line between the others."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def step(self, title: str, progress: update.Progress) -> None:
        """Show one more completed batch of a training."""
        self._steps += 1
        if self.live:
            self.bar.update(
                self.tasks[title],
                completed=progress.updates,
                epoch=f"epoch {progress.epochs + 1}/{self.epochs}",
                now=f"loss {progress.total / max(1, progress.counted):.4g}  {self._speed()}",
            )

    def epoch(self, title: str, epoch: int, measured: Mapping[str, float]) -> None:
        """Show the end of ``epoch`` (from 0) of a training."""
        news = "  ".join(f"{name} {value:.4g}" for name, value in measured.items() if name not in ("epoch", "step") and "/" not in name)
        if self.live:
            self.bar.update(self.tasks[title], completed=(epoch + 1) * self.steps, news=news)
        else:
            self.say(f"{title}  epoch {epoch + 1}/{self.epochs}  {news}  {self._speed()}  {self._left(epoch)}")

    def _speed(self) -> str:
        """Images per second since the start, over all trainings including validation, and the GPU's peak memory."""
        speed = f"{self._steps * self.batch / max(1e-9, time.monotonic() - self._began):,.0f} images/s"
        return f"{speed}  {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if torch.cuda.is_initialized() else speed

    def _left(self, epoch: int) -> str:
        batches = (self.epochs - epoch - 1) * self.steps * len(self.tasks)
        seconds = round(batches * (time.monotonic() - self._began) / max(1, self._steps))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
