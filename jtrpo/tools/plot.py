"""Learning curves."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtrpo.training.trainer import Metrics

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
    seen = ~np.isnan(returns).all(axis=0)  # updates in which some seed finished an episode
    low, middle, high = np.nanquantile(returns[:, seen], [0.25, 0.5, 0.75], axis=0)
    (line,) = axes.plot(steps[seen], middle, label=label)
    if len(returns) > 1:
        axes.fill_between(steps[seen], low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="episode return")
    axes.grid(alpha=0.3)
    return axes


def save_figure(draw: Callable[["Axes"], Any], path: Path) -> None:
    """Write a picture of what ``draw`` puts on its axes, without a window; the suffix names the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
    canvas: Any = FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    canvas.print_figure(path)
