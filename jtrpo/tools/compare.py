"""Saved runs side by side: one curve for each setting, with a band over its seeds."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jtrpo.core.check import check_choice
from jtrpo.tools.plot import draw_band
from jtrpo.tools.run_directory import METRICS_FILE, read_settings
from jtrpo.tools.settings import with_defaults

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def read_metrics(folder: Path) -> dict[str, np.ndarray]:
    """The columns of a run's metrics table, by name.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is damaged.
    """
    file = folder / METRICS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {METRICS_FILE}; name a folder that was given as checkpoint_dir"
        )
    try:
        names, *rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
        # The last row of a killed run may be incomplete; the cells of a row that was lost are empty.
        whole = [[cell or "nan" for cell in row] for row in rows if len(row) == len(names)]
        columns = dict(zip(names, np.array(whole, float).reshape(-1, len(names)).T, strict=True))
        if "timesteps" in columns:
            return columns
    except (OSError, ValueError, csv.Error):
        pass
    raise ValueError(f"{str(file)!r} is damaged; `--resume` mends it")


class Group(NamedTuple):
    """Runs that differ in nothing but their seed.

    Attributes:
        name: the settings in which it differs from the other groups; the environment where there are none.
        settings: by name, without the seed.
        folders: of its runs.
    """

    name: str
    settings: dict[str, Any]
    folders: list[Path]


def group_runs(folders: list[Path]) -> list[Group]:
    """Put together runs that differ in nothing but their seed.

    Args:
        folders: each given as ``checkpoint_dir`` to a run.

    Raises:
        FileNotFoundError: a folder without settings.
        ValueError: settings that are damaged.
    """
    groups: list[tuple[dict[str, Any], list[Path]]] = []
    for folder in {folder.resolve(): folder for folder in folders}.values():  # a run that is named twice is one
        settings = with_defaults(read_settings(folder)["settings"])
        settings.pop("seed", None)
        same = next((runs for known, runs in groups if known == settings), None)
        if same is None:
            groups.append((settings, [folder]))
        else:
            same.append(folder)
    first = groups[0][0]
    names = dict.fromkeys(name for settings, _ in groups for name in settings)
    differ = [name for name in names if any(settings.get(name) != first.get(name) for settings, _ in groups)]
    if "env" in differ:  # its name says it; its spaces and parameters need not be listed
        differ = [name for name in differ if not name.startswith("env.")]
    return [
        Group(", ".join(f"{name}={settings.get(name)}" for name in differ) or str(first.get("env")), settings, runs)
        for settings, runs in groups
    ]


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
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, _, runs in group_runs(folders):
        tables = [read_metrics(folder) for folder in runs]
        for table in tables:
            check_choice("metric", metric, [column for column in table if column != "update"])
        length = min(len(table["timesteps"]) for table in tables)
        steps = tables[0]["timesteps"][:length]
        values = np.stack([table[metric][:length] for table in tables])
        seeds = f" ({len(tables)} seeds)" if len(tables) > 1 else ""
        draw_band(axes, steps, values, name + seeds, f"no value of {metric}")
    axes.set(xlabel="environment steps", ylabel=metric)
    axes.grid(alpha=0.3)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)  # a name may contain a dollar sign
    return axes
