import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtrpo
from jtrpo.training.adaptation import LIMITS, adapt, reduction_ratio
from tests import probes


def info(gain, predicted):
    fields = dict.fromkeys(jtrpo.TRPOInfo._fields, jnp.float32(0))
    return jtrpo.TRPOInfo(**fields)._replace(
        objective_after=jnp.float32(gain), predicted_improvement=jnp.float32(predicted)
    )


@pytest.mark.parametrize(("gain", "predicted", "ratio"), [(0.5, 1.0, 0.5), (-0.2, 0.1, -2.0), (0.0, 0.0, 0.0)])
def test_reduction_ratio_is_gained_over_predicted_and_zero_for_a_refusal(gain, predicted, ratio):
    np.testing.assert_allclose(reduction_ratio(info(gain, predicted)), ratio, rtol=1e-6)


@pytest.mark.parametrize(("ratio", "growth"), [(0.9, 1.5), (0.5, 1.0), (0.1, 1 / 1.5), (-1.0, 1 / 1.5)])
def test_a_good_prediction_widens_the_region_and_lowers_the_damping_a_bad_one_the_reverse(ratio, growth):
    numbers = jtrpo.Hyperparams(max_kl=jnp.float32(0.01), cg_damping=jnp.float32(0.1))
    both = adapt(numbers, ("max_kl", "cg_damping"), info(ratio, 1.0))
    np.testing.assert_allclose([both.max_kl, both.cg_damping], [0.01 * growth, 0.1 / growth], rtol=1e-6)
    assert adapt(numbers, (), info(ratio, 1.0)) == numbers
    for _ in range(30):
        numbers = adapt(numbers, ("max_kl", "cg_damping"), info(ratio, 1.0))
    assert LIMITS["max_kl"][0] <= numbers.max_kl <= LIMITS["max_kl"][1]
    assert LIMITS["cg_damping"][0] <= numbers.cg_damping <= LIMITS["cg_damping"][1]


def config(**settings):
    small = {"num_envs": 16, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 1, "critic_minibatches": 1}
    env = probes.MatchObservation(probes.DISCRETE)
    return jtrpo.TrainConfig(env=env, **{**small, "total_timesteps": 128 * 40, **settings})


def test_a_schedule_is_followed_and_reported_and_the_other_settings_train_as_well():
    """Everything at once, in one compilation: schedules, adaptation, and each of the other pieces."""
    limit = optax.linear_schedule(0.02, 0.002, 39)
    settings = config(
        schedules={"max_kl": limit, "entropy_coefficient": lambda update: 0.01 * 0.5**update},
        adapt=("cg_damping",),
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
    assert jnp.any(numbers.cg_damping != 0.1)
    assert float(metrics.episode.return_mean[-5:].mean()) > float(metrics.episode.return_mean[:5].mean()) + 0.2


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"adapt": ("gamma",)}, ValueError, ["adapt", "'max_kl'", "'gamma'"]),
        ({"adapt": "max_kl"}, TypeError, ["adapt", "tuple"]),
        ({"schedules": {"maxkl": lambda i: 0.1}}, ValueError, ["schedules", "'max_kl'", "'maxkl'"]),
        ({"schedules": {"max_kl": 0.1}}, TypeError, ["schedules['max_kl']", "function", "0.1"]),
        ({"schedules": {"max_kl": lambda i: 0.01 - i}}, ValueError, ["schedules['max_kl'](39)", "above 0"]),
        ({"schedules": {"max_kl": lambda i: 0.01}, "adapt": ("max_kl",)}, ValueError, ["max_kl", "choose one"]),
        ({"anneal": ("max_kl",), "adapt": ("max_kl",)}, ValueError, ["max_kl", "choose one"]),
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
