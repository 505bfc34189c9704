"""What a run leaves in its directory for people, beside its checkpoints: settings, summary and picture, each whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jtrpo.tools.checkpoint import describe, versions
from jtrpo.tools.plot import learning_curve, save_figure
from jtrpo.training.config import Hyperparams, TrainConfig
from jtrpo.training.trainer import Metrics

METRICS_FILE = "metrics.csv"
_CONFIG_FILE = "config.json"
_SUMMARY_FILE = "summary.json"
_CURVE_FILE = "curve.png"


def write_settings(directory: Path, config: TrainConfig, hyperparams: Hyperparams, seed: int) -> None:
    """Write ``config.json``: every setting by name, and the versions that run it.

    Raises:
        ValueError: it cannot be written.
    """
    content = {"settings": describe(config, hyperparams, seed), "versions": versions()}
    _replace(directory / _CONFIG_FILE, lambda file: file.write_text(json.dumps(content, indent=1) + "\n"))


def write_result(directory: Path, summary: dict[str, Any], returns: np.ndarray, metrics: Metrics) -> None:
    """Write ``summary.json``, with the return of every episode of the evaluation, and ``curve.png``.

    Raises:
        ValueError: they cannot be written.
    """
    content = {**summary, "evaluation_returns": returns.astype(float).tolist()}
    _replace(directory / _SUMMARY_FILE, lambda file: file.write_text(json.dumps(content) + "\n"))
    title = f"{summary['env']}, seed {summary['seed']}"
    _replace(
        directory / _CURVE_FILE,
        lambda file: save_figure(lambda axes: learning_curve(metrics, axes).set_title(title), file),
    )


def read_settings(directory: Path) -> dict[str, Any]:
    """``config.json`` of a run: its ``settings`` and ``versions``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    settings = _read(directory, _CONFIG_FILE, {"settings", "versions"})
    if settings is None:
        raise FileNotFoundError(
            f"{str(directory)!r} holds no {_CONFIG_FILE}; name a folder that was given as checkpoint_dir"
        )
    return settings


def read_summary(directory: Path) -> dict[str, Any] | None:
    """``summary.json`` of a run; ``None`` where it has not reached its end.

    Raises:
        ValueError: it is damaged.
    """
    return _read(directory, _SUMMARY_FILE, {"evaluation_returns"})


def _read(directory: Path, name: str, needed: set[str]) -> dict[str, Any] | None:
    file = directory / name
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
        if needed <= set(content):
            return content
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{str(file)!r} is damaged; `--resume` writes it anew")


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    """Write beside and rename: what was there stays whole until the new one is."""
    beside = file.with_name(f".jtrpo-{file.name}")
    try:
        write(beside)
        os.replace(beside, file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ValueError(
            f"{str(file)!r} could not be written ({error.strerror}); checkpoints and metrics before it are whole. Make room, or "
            "mend the folder, and go on from the last checkpoint"
        ) from error
