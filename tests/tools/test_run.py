import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.tools import run as module
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.tools.checkpoint.state import to_arrays
from jtrpo.tools.run import run_training
from tests import probes

CONFIG = jtrpo.TrainConfig(
    "CartPole-v1", total_timesteps=640, num_envs=4, num_steps=16, hidden_sizes=(4,), env_metrics=("discount",)
)


@pytest.fixture(autouse=True)
def _few_episodes(monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_EPISODES", 2)  # as where else runs are of these settings


def train(folder, **settings):
    with Checkpoints(folder, CONFIG, seed=3) as checkpoints:
        restored = checkpoints.restore() if checkpoints.updates() else None
        return run_training(CONFIG, 3, checkpoints=checkpoints, restored=restored, checkpoint_every=2, **settings)


def test_a_run_stopped_anywhere_and_resumed_ends_with_the_same_bits(tmp_path):
    straight = train(tmp_path / "straight")
    for after in (1, 4):  # stops after 1 and 5 updates
        stopped = train(
            tmp_path / "stopped", stop=lambda counter=itertools.count(1), after=after: next(counter) > after
        )
        assert stopped.summary is None
    resumed = train(tmp_path / "stopped")
    ours, theirs = to_arrays(resumed.state), to_arrays(straight.state)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
    tables = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("straight", "stopped")]
    assert tables[0] == tables[1]
    assert b",episode.metrics.discount.mean,episode.metrics.discount.sum,episode.metrics.discount.last," in tables[0]
    assert int(resumed.state.env_state.episode_metrics["discount"].sum()) > 0
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), straight.metrics, resumed.metrics)
    )
    assert straight.summary["evaluation_return"] == resumed.summary["evaluation_return"]
    assert (
        train(tmp_path / "stopped").summary["evaluation_return"] == straight.summary["evaluation_return"]
    )  # once more


@pytest.mark.parametrize("quick", [0.0, 1e9])
def test_every_update_is_reported_once_in_order_and_before_it_is_saved(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(module, "QUICK", quick)
    seen, saved = [], []
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, state, score=None: saved.append((int(state.update), len(seen)))
    )
    train(tmp_path, on_update=lambda update, metrics: seen.append((update, int(metrics.timesteps))))
    assert seen == [(update, 64 * update) for update in range(1, 11)]
    assert saved == [(update, update) for update in (2, 4, 6, 8, 10)]


def test_evaluations_are_saved_with_their_score_and_the_summary_counts_refusals(tmp_path):
    run = train(tmp_path, evaluate_every=4, hyperparams=jtrpo.Hyperparams(critic_learning_rate=1e30))
    assert run.summary["critic_refused"] == 10
    assert sum(run.summary["refused"].values()) == (~run.metrics.policy.accepted).sum()
    with Checkpoints(tmp_path, CONFIG, seed=3) as checkpoints:
        scores = {update: checkpoints.restore(update).score for update in checkpoints.updates()}
    assert {4, 8, 10} & {update for update, score in scores.items() if score is not None}
    assert scores[10] == run.summary["evaluation_return"]
    json.dumps(run.summary)


class Breaks(probes.TruncatedOnly):
    """Its reward is NaN at the third step of each episode."""

    def outcome(self, key, state, action):
        _, terminated, truncated = super().outcome(key, state, action)
        return jnp.where(state == 2, jnp.nan, 1.0), terminated, truncated


BREAKS = jtrpo.TrainConfig(Breaks(probes.DISCRETE), num_envs=4, num_steps=2, total_timesteps=80, hidden_sizes=(4,))


@pytest.mark.slow
def test_debug_nans_names_the_step_and_the_array(monkeypatch):
    with pytest.raises(FloatingPointError, match=r"reward of environment 0 at step 2 .update 2, its step 0."):
        run_training(BREAKS, debug_nans=True)
    # Where no place is found, training goes on, as it does without it, and here without another program.
    monkeypatch.setattr(module, "first_non_finite", lambda *_: None)
    run = run_training(BREAKS, debug_nans=True)
    assert run.summary["invalid_samples"] == 4 * 4  # the third of every five of twenty steps, in four environments


@pytest.mark.slow
def test_debug_nans_names_what_broke_by_itself():
    with pytest.raises(FloatingPointError, match=r"critic's fit.* in update 1"):
        run_training(BREAKS, hyperparams=jtrpo.Hyperparams(critic_learning_rate=1e30), debug_nans=True)
