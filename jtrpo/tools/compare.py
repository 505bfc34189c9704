"""Saved runs side by side: one curve for each setting, with a band over its seeds."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtrpo.core.check import check_choice
from jtrpo.tools.run_directory import METRICS_FILE, read_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def read_metrics(folder: Path) -> dict[str, np.ndarray]:
    """The columns of a run's metrics table, by name.

    Raises:
        FileNotFoundError: the folder has none.
    """
    file = folder / METRICS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {METRICS_FILE}; name a folder that was given as checkpoint_dir"
        )
    with file.open() as opened:
        names, *rows = list(csv.reader(opened))
    whole = [row for row in rows if len(row) == len(names)]  # the last one of a run that was killed may be torn
    return dict(zip(names, np.array(whole, float).reshape(-1, len(names)).T, strict=True))


def compare_runs(folders: list[Path], metric: str = "episode.return_mean", axes: "Axes | None" = None) -> "Axes":
    """Draw a metric of several runs against environment steps.

    Runs that differ in nothing but their seed are one curve: the median, with the quartiles as a band. A curve is named by the
    settings in which it differs from the others.

    Args:
        folders: each given as ``checkpoint_dir`` to a run.
        metric: a column of their ``metrics.csv``.
        axes: where to draw; ``None``: new axes.

    Raises:
        FileNotFoundError: a folder without metrics or settings.
        ValueError: no such metric, or settings that are damaged.
    """
    import matplotlib.pyplot as plt

    groups: dict[str, list[dict[str, np.ndarray]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for folder in folders:
        table = read_metrics(folder)
        check_choice("metric", metric, [name for name in table if name != "update"])
        known = {name: value for name, value in read_settings(folder)["settings"].items() if name != "seed"}
        groups.setdefault(str(known), []).append(table)
        settings[str(known)] = known
    first = next(iter(settings.values()))
    differ = [name for name in first if any(known.get(name) != first[name] for known in settings.values())]
    if axes is None:
        _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for group, tables in groups.items():
        length = min(len(table["timesteps"]) for table in tables)
        steps = tables[0]["timesteps"][:length]
        values = np.stack([table[metric][:length] for table in tables])
        seen = ~np.isnan(values).all(axis=0)
        low, middle, high = np.nanquantile(values[:, seen], [0.25, 0.5, 0.75], axis=0)
        name = ", ".join(f"{name}={settings[group][name]}" for name in differ) or str(first["env"])
        seeds = f" ({len(tables)} seeds)" if len(tables) > 1 else ""
        (line,) = axes.plot(steps[seen], middle, label=name + seeds)
        if len(tables) > 1:
            axes.fill_between(steps[seen], low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    axes.set(xlabel="environment steps", ylabel=metric)
    axes.grid(alpha=0.3)
    axes.legend()
    return axes
