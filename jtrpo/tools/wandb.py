"""Curves in Weights & Biases."""

from types import TracebackType
from typing import Any, Self

from jtrpo.tools.checkpoint import describe
from jtrpo.tools.scalars import scalars
from jtrpo.training.config import Hyperparams, TrainConfig
from jtrpo.training.trainer import Metrics


class WandB:
    """Logs what each update reports to Weights & Biases, by the names of :func:`jtrpo.tools.scalars.scalars`.

        with WandB(config, hyperparams, seed, project="trust-regions") as wandb:
            run_training(config, seed, hyperparams, on_update=wandb)

    The horizontal axis is environment steps. ``WANDB_MODE=offline`` writes to the disk alone. Needs the extra ``wandb``.

    Args:
        config: of the run; recorded, as are the next two.
        hyperparams: of the run at its start.
        seed: of the run.
        init: of ``wandb.init``: ``project``, ``name``, ``dir``, ``mode``, and ``id`` with ``resume`` to go on with a run.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(
        self, config: TrainConfig, hyperparams: Hyperparams | None = None, seed: int | None = None, **init: Any
    ):
        try:
            import wandb
        except ImportError as error:
            raise ImportError("Weights & Biases needs its package: pip install 'jtrpo[wandb]'") from error
        self._run = wandb.init(config=describe(config, hyperparams, seed), **init)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)

    def __call__(self, update: int, metrics: Metrics) -> None:
        """Log update number ``update`` (from 1)."""
        named = scalars(update, metrics)
        self._run.log(named, step=int(named["time/total_timesteps"]), commit=True)
