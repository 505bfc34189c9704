"""Progress of a run: a live line on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from jtrpo.training.config import TrainConfig
from jtrpo.training.trainer import Metrics

_PLAIN_LINES = 10


class Progress:
    """Shows the updates of a run on standard error; standard output stays free for the summary.

    Args:
        config: of the run.
        seed: of the run.
    """

    def __init__(self, config: TrainConfig, seed: int):
        self._config = config
        self._console = Console(file=sys.stderr)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(f"{config.env} seed {seed}", total=config.num_updates, text="compiling ...")
        self._began = 0.0
        self._first: int | None = None
        self._last_return = float("nan")

    def __enter__(self) -> Self:
        self._bar.start()
        if not self._console.is_terminal:
            self._say(
                f"{self._config.env}: {self._config.num_updates} updates of {self._config.batch_size} steps; compiling"
            )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, update: int, metrics: Metrics) -> None:
        """Show update number ``update`` (from 1)."""
        if self._first is None:  # of this process: a resumed run begins in the middle
            self._began, self._first = time.perf_counter() - 1e-9, int(metrics.timesteps)
        if not np.isnan(metrics.episode.return_mean):
            self._last_return = float(metrics.episode.return_mean)
        rate = (int(metrics.timesteps) - self._first) / (time.perf_counter() - self._began)
        text = f"return {self._last_return:8.1f}  KL {float(metrics.policy.kl):.4f}  {rate:9,.0f} steps/s"
        self._bar.update(self._task, completed=update, text=text)
        every = max(1, self._config.num_updates // _PLAIN_LINES)
        if not self._console.is_terminal and (update % every == 0 or update == self._config.num_updates):
            self._say(f"{int(metrics.timesteps):>12,} steps  {text}")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
