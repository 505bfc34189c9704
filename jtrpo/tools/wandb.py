"""Curves in Weights & Biases."""

import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jtrpo.tools.files import atomic_write
from jtrpo.tools.scalars import scalars
from jtrpo.tools.settings import describe
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams
from jtrpo.training.state import Metrics

_FILE = "wandb-id.txt"


class WandB:
    """Logs what each update reports to Weights & Biases, by the names of :func:`jtrpo.tools.scalars.scalars`.

        with WandB(config, hyperparams, seed, project="trust-regions") as wandb:
            run_training(config, seed, hyperparams, on_update=wandb)

    The horizontal axis is environment steps. ``WANDB_MODE=offline`` writes to the disk alone. Needs the extra ``wandb``.

    Args:
        config: of the run; recorded, as are the next two.
        hyperparams: of the run at its start.
        seed: of the run.
        folder: of the run, where the id of the run of Weights & Biases is kept, in ``wandb-id.txt``; ``None``: nowhere.
        resume: go on with the run whose id is there.
        init: of ``wandb.init``: ``project``, ``name``, ``dir``, ``mode``, say.

    Raises:
        ImportError: wandb is not installed.
        ValueError: it cannot begin, without a login say.
    """

    def __init__(
        self,
        config: TrainConfig,
        hyperparams: Hyperparams | None = None,
        seed: int | None = None,
        *,
        folder: Path | None = None,
        resume: bool = False,
        **init: Any,
    ):
        try:
            import wandb
        except ImportError as error:
            raise ImportError("Weights & Biases needs its package: pip install 'jtrpo[wandb]'") from error
        if folder is not None and resume and (known := _read_id(folder)) is not None:
            init = {"id": known, "resume": "allow", **init}
        try:
            self._run = wandb.init(config=describe(config, hyperparams, seed), **init)
        except wandb.errors.Error as error:
            raise ValueError(
                f"wandb: no run could be begun ({' '.join(str(error).split())[:300]}); log in with `wandb login`, or set "
                "WANDB_MODE=offline to keep it on this machine"
            ) from error
        if folder is not None:
            atomic_write(folder / _FILE, lambda file: file.write_text(f"{self._run.id}\n", encoding="utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)

    def __call__(self, update: int, metrics: Metrics) -> None:
        """Log update number ``update`` (from 1)."""
        named = scalars(update, metrics)
        self._run.log(named, step=int(named["time/total_timesteps"]), commit=True)

    def show(self, step: int, file: Path) -> None:
        """Log an animated picture of the policy after so many environment steps, as ``policy``."""
        import wandb

        self._run.log({"policy": wandb.Video(str(file), format="gif")}, step=step, commit=False)


def _read_id(folder: Path) -> str | None:
    try:
        text = (folder / _FILE).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) else None
