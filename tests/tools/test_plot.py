import matplotlib
import numpy as np

from jtrpo.tools.plot import learning_curve
from jtrpo.training.episodes import EpisodeSummary
from jtrpo.training.state import Metrics

matplotlib.use("Agg")


def metrics(returns):
    returns = np.asarray(returns, float)
    steps = np.broadcast_to(100 * np.arange(1, returns.shape[-1] + 1), returns.shape)
    return Metrics(steps, None, EpisodeSummary(None, returns, None, None, None), None, None, None)


def test_many_seeds_give_the_median_and_leave_out_updates_without_episodes():
    axes = learning_curve(metrics([[np.nan, 1.0, 2.0], [np.nan, 3.0, 8.0], [np.nan, 2.0, np.nan]]))
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [200, 300])
    np.testing.assert_array_equal(line.get_ydata(), [2.0, 5.0])
    assert len(axes.collections) == 1  # the band


def test_one_run_has_no_band():
    axes = learning_curve(metrics([1.0, 5.0]), label="a run")
    assert len(axes.collections) == 0
    assert axes.lines[0].get_label() == "a run"
