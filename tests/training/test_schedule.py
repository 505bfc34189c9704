import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtrpo
from tests import probes


def config(**settings):
    small = {"num_envs": 16, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 1, "critic_minibatches": 1}
    env = probes.MatchObservation(probes.DISCRETE)
    return jtrpo.TrainConfig(env=env, **{**small, "total_timesteps": 128 * 40, **settings})


def test_a_schedule_is_followed_and_reported_and_the_other_settings_train_as_well():
    """Everything at once, in one compilation: schedules, annealing, and each of the other pieces."""
    limit = optax.linear_schedule(0.02, 0.002, 39)
    settings = config(
        schedules={"max_kl": limit, "entropy_coefficient": lambda update: 0.01 * 0.5**update},
        anneal=("critic_max_change",),
        constraint="kl_max",
        preconditioner="diagonal",
        critic="gauss_newton",
        normalize_values=True,
        shared_torso=True,
    )
    state, metrics = jax.jit(jtrpo.make_train(settings))(jax.random.key(0))
    numbers = metrics.hyperparams
    np.testing.assert_allclose(numbers.critic_max_change, 0.3 * (1 - np.arange(40) / 40), rtol=1e-5)
    np.testing.assert_allclose(state.hyperparams.critic_max_change, 0.3, rtol=1e-6)
    np.testing.assert_allclose(numbers.max_kl, [limit(i) for i in range(40)], rtol=1e-5)
    np.testing.assert_allclose(numbers.entropy_coefficient, 0.01 * 0.5 ** np.arange(40), rtol=1e-4)
    assert jnp.all(metrics.policy.kl_max <= numbers.max_kl)
    assert float(metrics.episode.return_mean[-5:].mean()) > float(metrics.episode.return_mean[:5].mean()) + 0.2


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"anneal": "max_kl"}, TypeError, ["anneal", "tuple"]),
        ({"schedules": {"maxkl": lambda i: 0.1}}, ValueError, ["schedules", "'max_kl'", "'maxkl'"]),
        ({"schedules": {"max_kl": 0.1}}, TypeError, ["schedules['max_kl']", "function", "0.1"]),
        ({"schedules": {"max_kl": lambda: 0.1}}, TypeError, ["schedules['max_kl']", "(updates done)", "got one of ()"]),
        ({"schedules": {"max_kl": lambda i: 0.01 - i}}, ValueError, ["schedules['max_kl'](39)", "above 0"]),
        ({"schedules": {"max_kl": lambda i: 0.01}, "anneal": ("max_kl",)}, ValueError, ["max_kl", "choose one"]),
        ({"anneal": ("gamma",)}, ValueError, ["anneal", "'max_kl'", "'gamma'"]),
        ({"constraint": "max"}, ValueError, ["constraint", "'kl_max'"]),
        ({"preconditioner": "full"}, ValueError, ["preconditioner", "'diagonal'"]),
        ({"critic": "sgd"}, ValueError, ["critic", "'gauss_newton'"]),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(settings, error, words):
    with pytest.raises(error) as caught:
        config(**settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)
