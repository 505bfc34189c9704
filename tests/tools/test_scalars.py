import jax
import numpy as np
import pytest

from jtrpo.tools.scalars import scalars


def test_names_are_those_of_stable_baselines3_where_the_values_mean_the_same(history):
    named = scalars(2, history[1])
    metrics = history[1]
    for name, value in {
        "time/iterations": 2,
        "time/total_timesteps": 128,
        "train/n_updates": 2,
        "train/policy_objective": metrics.policy.objective_after,
        "train/is_line_search_success": metrics.policy.accepted,
        "train/explained_variance": metrics.critic.explained_variance,
        "train/kl": metrics.policy.kl,
        "rollout/metrics.discount.sum": metrics.episode.metrics["discount"].sum,
        "hyperparams/max_kl": metrics.hyperparams.max_kl,
    }.items():
        assert named[name] == pytest.approx(float(value)), name


def test_every_metric_has_a_name_of_its_own(history):
    whole = jax.tree.map(np.ones_like, history[0])
    assert len(scalars(1, whole)) == len(jax.tree.leaves(whole)) + 2


def test_seeds_are_averaged_and_what_is_not_finite_is_left_out(history):
    many = jax.tree.map(lambda *leaves: np.stack(leaves), *history)
    many = many._replace(episode=many.episode._replace(return_mean=np.array([10.0, np.nan, 20.0])))
    assert scalars(1, many)["rollout/ep_rew_mean"] == 15.0
    none = many._replace(episode=many.episode._replace(return_mean=np.full(3, np.nan)))
    assert "rollout/ep_rew_mean" not in scalars(1, none)
