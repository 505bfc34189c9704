"""Learning curves."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtrpo.tools.files import check_file
from jtrpo.training.state import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning_curve(metrics: Metrics, axes: "Axes | None" = None, label: str | None = None) -> "Axes":
    """Draw the mean episode return against environment steps; with a leading axis of seeds, median and quartiles.

    Args:
        metrics: of one run, ``[updates]``, or of many, ``[seeds, updates]``.
        axes: where to draw; ``None``: new axes.
        label: for the legend.
    """
    import matplotlib.pyplot as plt

    if axes is None:
        _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    returns = np.atleast_2d(np.asarray(metrics.episode.return_mean, float))
    steps = np.atleast_2d(np.asarray(metrics.timesteps))[0]
    draw_band(axes, steps, returns, label, "no episode ended")
    axes.set(xlabel="environment steps", ylabel="episode return")
    axes.grid(alpha=0.3)
    return axes


def cost_curve(metrics: Metrics, axes: "Axes | None" = None, label: str | None = None) -> "Axes":
    """Draw what an episode costs against environment steps, and the limit; with a leading axis of seeds, median and quartiles.

    Args:
        metrics: of a training with ``constraint_method`` and one cost, as for :func:`learning_curve`.
        axes: where to draw; ``None``: new axes.
        label: for the legend.

    Raises:
        ValueError: a training without a cost.
    """
    import matplotlib.pyplot as plt

    if metrics.cost == ():
        raise ValueError("metrics.cost is empty: train with constraint_method, in an environment with a cost")
    if axes is None:
        _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = np.atleast_2d(np.asarray(metrics.timesteps))[0]
    draw_band(axes, steps, np.atleast_2d(np.asarray(metrics.cost.episode, float)), label, "no cost")
    axes.plot(steps, np.atleast_2d(np.asarray(metrics.cost.limit, float))[0], ":", color="black", linewidth=1)
    axes.set(xlabel="environment steps", ylabel="cost of an episode")
    axes.grid(alpha=0.3)
    return axes


def draw_band(axes: "Axes", steps: np.ndarray, values: np.ndarray, label: str | None, empty: str) -> None:
    """Draw the median over runs, with the quartiles as a band where there are several; where there is nothing, say so.

    Args:
        axes: where to draw.
        steps: ``[updates]``.
        values: ``[runs, updates]``; NaN where there is none.
        label: for the legend.
        empty: what to write where no value is finite.
    """
    seen = ~np.isnan(values).all(axis=0)  # updates in which some run has a value
    low, middle, high = np.nanquantile(values[:, seen], [0.25, 0.5, 0.75], axis=0) if seen.any() else np.zeros((3, 0))
    (line,) = axes.plot(steps[seen], middle, label=label)
    if not seen.any():
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center")
    elif len(values) > 1:
        axes.fill_between(steps[seen], low, high, color=line.get_color(), alpha=0.25, linewidth=0)


def check_picture(name: str, file: Path) -> None:
    """Raise ``ValueError`` where a picture cannot be written to ``file``: before hours of training, not after."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kinds = FigureCanvasAgg.filetypes
    if file.suffix[1:].lower() not in kinds:
        raise ValueError(f"{name}={str(file)!r} must end with .png, .svg or .pdf")
    check_file(name, file)


def save_figure(draw: Callable[["Axes"], Any], path: Path) -> None:
    """Write a picture of what ``draw`` puts on its axes, without a window; the suffix names the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    canvas: Any = FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    canvas.print_figure(path)
