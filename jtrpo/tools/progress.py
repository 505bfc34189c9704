"""Progress of a run: a live display on a terminal or in a notebook, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from jtrpo.training.config import TrainConfig
from jtrpo.training.trainer import Metrics

_PLAIN_LINES = 10
_GAUGE = 20


class Progress:
    """Shows the updates of a run on standard error; standard output stays free for the summary.

        with Progress(config, seed) as progress:
            run_training(config, seed, on_update=progress.update)

    Args:
        config: of the run.
        seed: of the run.
        quiet: show nothing.
    """

    def __init__(self, config: TrainConfig, seed: int = 0, *, quiet: bool = False):
        self._config, self._quiet = config, quiet
        self._console = Console(stderr=True)
        self._live = not quiet and (self._console.is_terminal or self._console.is_jupyter)
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("updates,"),
            TimeRemainingColumn(), TextColumn("left"), console=self._console,
        )  # fmt: skip
        name = config.env if isinstance(config.env, str) else repr(config.environment)
        self._title = f"{name} seed {seed}"
        self._task = self._bar.add_task(f"{self._title}, compiling", total=config.num_updates)
        self._display = Live(self._bar, console=self._console, refresh_per_second=8)
        self._began = 0.0
        self._first: int | None = None
        self._seen = self._accepted = 0
        self._last_return = self._best_return = float("nan")

    def __enter__(self) -> Self:
        if self._live:
            self._display.start()
        elif not self._quiet:
            self._say(
                f"{self._title}: {self._config.num_updates} updates of {self._config.batch_size} steps; compiling"
            )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._display.stop()

    def update(self, update: int, metrics: Metrics) -> None:
        """Show update number ``update`` (from 1)."""
        steps = int(metrics.timesteps)
        if self._first is None:  # of this process: a resumed run begins in the middle
            self._began, self._first = time.perf_counter() - 1e-9, steps
        self._seen += 1
        self._accepted += bool(metrics.policy.accepted)
        if not np.isnan(metrics.episode.return_mean):
            self._last_return = float(metrics.episode.return_mean)
            self._best_return = float(np.fmax(self._best_return, self._last_return))
        rate = (steps - self._first) / (time.perf_counter() - self._began)
        if self._live:
            self._bar.update(self._task, completed=update, description=self._title)
            self._display.update(Group(self._bar, self._table(metrics, steps, rate)))
        every = max(1, self._config.num_updates // _PLAIN_LINES)
        if not self._live and not self._quiet and (update % every == 0 or update == self._config.num_updates):
            self._say(
                f"{steps:>12,} steps  return {self._last_return:8.1f}  KL {float(metrics.policy.kl):.4f}  "
                f"accepted {self._accepted / self._seen:4.0%}  {rate:9,.0f} steps/s"
            )

    def _table(self, metrics: Metrics, steps: int, rate: float) -> Table:
        kl, bound = float(metrics.policy.kl), float(metrics.hyperparams.max_kl)
        filled = round(_GAUGE * min(max(kl / bound, 0.0), 1.0)) if np.isfinite(kl) else 0
        table = Table.grid(padding=(0, 2))
        gauge = f"{'█' * filled}{'░' * (_GAUGE - filled)} {kl:.2g} of {bound:.2g}"
        explained, entropy = float(metrics.critic.explained_variance), float(metrics.policy.entropy)
        for row in (
            ("return", f"{self._last_return:.1f}", "best", f"{self._best_return:.1f}"),
            ("KL", gauge, "accepted", f"{self._accepted / self._seen:.0%}"),
            ("explained variance", f"{explained:.2f}", "entropy", f"{entropy:.2f}"),
            ("steps", f"{steps:,}", "steps/s", f"{rate:,.0f}"),
        ):
            table.add_row(*row)
        return table

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
