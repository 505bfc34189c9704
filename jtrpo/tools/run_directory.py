"""What a run leaves in its directory for people, beside its checkpoints: settings, summary and picture, each whole."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jtrpo.tools.checkpoint.folder import checkpoint_folders
from jtrpo.tools.files import atomic_write
from jtrpo.tools.plot import learning_curve, save_figure
from jtrpo.tools.settings import versions
from jtrpo.training.state import Metrics

METRICS_FILE = "metrics.csv"
_CONFIG_FILE = "config.json"
_SUMMARY_FILE = "summary.json"
_CURVE_FILE = "curve.png"
_SUMMARY: dict[str, Any] = {
    "evaluation_returns": list, "evaluation_return": float, "total_timesteps": int, "accepted_fraction": float, "refused": dict,
    "max_kl_seen": float,
}  # fmt: skip


def check_no_foreign_files(directory: Path) -> None:
    """Raise ``ValueError`` where a file that a run writes is there already, and jtrpo did not write it."""
    try:
        read_settings(directory)
        return
    except (FileNotFoundError, ValueError):
        pass
    names = (METRICS_FILE, _CONFIG_FILE, _SUMMARY_FILE, _CURVE_FILE)
    foreign = [name for name in names if os.path.lexists(directory / name)]
    if foreign and not checkpoint_folders(directory):
        raise ValueError(
            f"checkpoint_dir={str(directory)!r} holds {', '.join(foreign)}, which no run of jtrpo wrote and this one would write "
            "over; choose another folder, or move them away"
        )


def write_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Write ``config.json``: the settings, as :func:`jtrpo.tools.settings.describe` gives them, and the versions that run them.

    Raises:
        ValueError: it cannot be written.
    """
    content = {"settings": settings, "versions": versions()}
    _write(directory / _CONFIG_FILE, json.dumps(content, indent=1))


def write_summary(directory: Path, summary: dict[str, Any], returns: np.ndarray) -> None:
    """Write ``summary.json``, with the return of every episode of the evaluation.

    Raises:
        ValueError: it cannot be written.
    """
    _write(directory / _SUMMARY_FILE, json.dumps({**summary, "evaluation_returns": returns.astype(float).tolist()}))


def write_curve(directory: Path, title: str, metrics: Metrics) -> None:
    """Write ``curve.png``; where it cannot be drawn or written, a warning says so: the run is whole without it."""
    file = directory / _CURVE_FILE
    try:
        atomic_write(
            file, lambda temporary: save_figure(lambda axes: learning_curve(metrics, axes).set_title(title), temporary)
        )
    except Exception as error:
        warnings.warn(f"{str(file)!r} could not be drawn ({error}); `jtrpo plot` draws it anew", stacklevel=2)


def read_settings(directory: Path) -> dict[str, Any]:
    """``config.json`` of a run: its ``settings`` and ``versions``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    settings = _read(directory, _CONFIG_FILE, {"settings": dict, "versions": dict})
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
    return _read(directory, _SUMMARY_FILE, _SUMMARY)


def _read(directory: Path, name: str, needed: dict[str, type]) -> dict[str, Any] | None:
    file = directory / name
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if all(isinstance(content[name], kind) for name, kind in needed.items()):
            return content
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"{str(file)!r} is damaged; `--resume` writes it anew")


def _write(file: Path, text: str) -> None:
    atomic_write(file, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
