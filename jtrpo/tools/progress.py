"""Progress of a run: a live display on a terminal or in a notebook, a plain line now and then elsewhere."""

import io
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from jtrpo.tools.fingerprint import environment_name
from jtrpo.training.config import TrainConfig
from jtrpo.training.state import Metrics

_PLAIN_LINES = 10
_GAUGE = 20
_NOTEBOOK_SECONDS = 0.25


@dataclass
class _Statistics:
    """Of one training, since its first update in this process, which is not the first of a run that was resumed."""

    began: float
    first: int
    updates: int = 0
    accepted: int = 0
    last_return: float = float("nan")
    best_return: float = float("nan")


class Progress:
    """Shows the updates of a run on standard error, or below a notebook's cell; standard output stays free for the summary.

        train = jax.jit(jtrpo.make_train(config, on_update=Progress(config)))

        with Progress(config, seed) as progress:  # the display is closed even where the run does not reach its end
            run_training(config, seed, on_update=progress)

    With a leading axis of seeds or settings it shows their means, and the largest KL of any.

    Args:
        config: of the run.
        seed: of the run, for the title.
        quiet: show nothing.
    """

    def __init__(self, config: TrainConfig, seed: int | None = None, *, quiet: bool = False):
        self._num_updates, self._batch_size, self._quiet = config.num_updates, config.batch_size, quiet
        self._console = Console(stderr=True)
        self._notebook = not quiet and self._console.is_jupyter
        self._live = not quiet and not self._notebook and self._console.is_terminal
        name = environment_name(config)
        self._title = name if seed is None else f"{name} seed {seed}"
        self._shown: Any = None  # the display, once there is one
        self._last_shown = 0.0
        self._statistics: _Statistics | None = None
        self._bar = self._new_bar()

    def __enter__(self) -> Self:
        if self._live:
            self._open()
        elif not self._quiet and not self._notebook:
            self._say(f"{self._title}: {self._num_updates} updates of {self._batch_size} steps; compiling")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def __call__(self, update: int, metrics: Metrics) -> None:
        """Show update number ``update`` (from 1)."""
        if self._quiet:
            return
        steps = int(np.max(metrics.timesteps))
        if self._statistics is None:
            self._statistics = _Statistics(time.perf_counter() - 1e-9, steps)
        statistics = self._statistics
        accepted = np.asarray(metrics.policy.accepted)
        statistics.updates += accepted.size
        statistics.accepted += int(accepted.sum())
        returns = np.asarray(metrics.episode.return_mean)
        returns = returns[np.isfinite(returns)]
        if returns.size:
            statistics.last_return = float(np.mean(returns))
            statistics.best_return = float(np.fmax(statistics.best_return, statistics.last_return))
        rate = accepted.size * (steps - statistics.first) / (time.perf_counter() - statistics.began)
        last = update >= self._num_updates
        if self._live or self._notebook:
            self._bar.update(self._bar.task_ids[0], completed=update, description=self._title)
            table = _table(metrics, statistics, steps, rate, ascii_only=self._console.options.ascii_only)
            self._show(Group(self._bar, table), last)
        elif last or update % max(1, self._num_updates // _PLAIN_LINES) == 0:
            self._say(
                f"{steps:>12,} steps  return {statistics.last_return:8.1f}  KL {np.max(metrics.policy.kl):.4f}  "
                f"accepted {statistics.accepted / statistics.updates:4.0%}  {rate:9,.0f} steps/s"
            )
        if last:
            self._close()

    def _new_bar(self) -> Bar:
        bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("updates,"),
            TimeRemainingColumn(), TextColumn("left"), console=self._console,
        )  # fmt: skip
        bar.add_task(f"{self._title}, compiling", total=self._num_updates)
        return bar

    def _open(self) -> None:
        self._shown = Live(self._bar, console=self._console, refresh_per_second=8)
        self._shown.start()

    def _show(self, what: Group, last: bool) -> None:
        if self._live:
            if self._shown is None:
                self._open()
            self._shown.update(what)
        elif last or time.perf_counter() - self._last_shown > _NOTEBOOK_SECONDS:
            from IPython.display import display

            self._last_shown = time.perf_counter()
            plain = Console(file=io.StringIO(), width=100, force_jupyter=False)
            plain.print(what)
            text = {"text/plain": plain.file.getvalue()}  # type: ignore[attr-defined]
            if self._shown is None:
                self._shown = display(text, raw=True, display_id=True)
            else:
                self._shown.update(text, raw=True)

    def _close(self) -> None:
        if self._live and self._shown is not None:
            self._shown.stop()
        self._shown, self._statistics = None, None  # a compiled training may be called again
        self._bar = self._new_bar()

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _table(metrics: Metrics, statistics: _Statistics, steps: int, rate: float, *, ascii_only: bool = False) -> Table:
    kl, bound = float(np.max(metrics.policy.kl)), float(np.max(metrics.hyperparams.max_kl))
    filled = round(_GAUGE * min(max(kl / bound, 0.0), 1.0)) if np.isfinite(kl) else 0
    table = Table.grid(padding=(0, 2))
    full, empty = "#-" if ascii_only else "█░"
    gauge = f"{full * filled}{empty * (_GAUGE - filled)} {kl:.2g} of {bound:.2g}"
    explained, entropy = np.mean(metrics.critic.explained_variance), np.mean(metrics.policy.entropy)
    for row in (
        ("return", f"{statistics.last_return:.1f}", "best", f"{statistics.best_return:.1f}"),
        ("KL", gauge, "accepted", f"{statistics.accepted / statistics.updates:.0%}"),
        ("explained variance", f"{explained:.2f}", "entropy", f"{entropy:.2f}"),
        *_cost_rows(metrics),
        ("steps", f"{steps:,}", "steps/s", f"{rate:,.0f}"),
    ):
        table.add_row(*row)
    return table


def _cost_rows(metrics: Metrics) -> list[tuple[str, str, str, str]]:
    """A row for each constraint."""
    if metrics.cost == ():
        return []
    costs, limits, multipliers = (jax.tree.leaves(x) for x in metrics.cost[:3])
    rows = [
        (np.mean(cost), np.max(limit), np.mean(weight))
        for cost, limit, weight in zip(costs, limits, multipliers, strict=True)
    ]
    return [("cost", f"{cost:.1f} of {limit:.1f}", "multiplier", f"{weight:.2g}") for cost, limit, weight in rows]
