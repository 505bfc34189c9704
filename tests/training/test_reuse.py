"""Sample reuse: what the window holds, and what an update makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.reuse import empty_window, slide_window, truncated_log_prob
from jtrpo.training.rollout import Trajectory
from tests import probes

STEPS, ENVS = 4, 3


def collection(number):
    """Rewards ``100 number + 10 step + environment``; its first row as the memory."""
    step, env = jnp.meshgrid(jnp.arange(STEPS), jnp.arange(ENVS), indexing="ij")
    x = 100.0 * number + 10.0 * step + env
    return Trajectory(x[..., None], x, x, x, x < 0, x < 0, x[..., None], memory=(x[0],), valid=x >= 0)


def test_the_window_slides_and_stands_side_by_side():
    window = empty_window(collection(0), reuse=3)
    for number in range(5):
        window, recent = slide_window(window, collection(number))
        there = [number >= 2, number >= 1, True]
        np.testing.assert_array_equal(recent.valid[0], there * ENVS)  # missing collections do not count
        if number < 2:
            continue
        expected = [collection(earlier) for earlier in (number - 2, number - 1, number)]
        for name in ("observation", "action", "log_prob", "reward", "terminated", "truncated", "final_observation"):
            for age, each in enumerate(expected):
                np.testing.assert_array_equal(getattr(recent, name)[:, age::3], getattr(each, name))
        for age, each in enumerate(expected):
            np.testing.assert_array_equal(recent.memory[0][age::3], each.memory[0])
        for newest_first, each in enumerate(reversed(expected[1:])):
            np.testing.assert_array_equal(window.reward[-1 - newest_first], each.reward)


def test_a_sample_of_an_older_policy_weighs_at_most_so_much():
    old, now = jnp.log(jnp.array([0.5, 0.1, 0.4])), jnp.log(jnp.array([0.1, 0.5, 0.4]))
    np.testing.assert_allclose(jnp.exp(now - truncated_log_prob(old, now, most=2.0)), [0.2, 2.0, 1.0], rtol=1e-6)


def config(**settings):
    common = {"num_envs": 8, "num_steps": 8, "hidden_sizes": (8,), "critic": "gauss_newton", "critic_epochs": 1}
    return jtrpo.TrainConfig("CartPole-v1", total_timesteps=256, **{**common, **settings})


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, pytest.param("gru", marks=pytest.mark.long)])
def test_the_first_update_is_the_one_without_reuse_and_later_ones_are_not(memory, x64):
    states, steps = {}, {}
    whole = {"fisher_fraction": 1.0, "critic_fraction": 1.0}  # a share of three collections is not one of the newest
    for reuse in (1, 3):
        trainer = jtrpo.make_trainer(config(reuse=reuse, memory=memory, **whole))
        steps[reuse] = jax.jit(trainer.step)
        state = jax.tree.map(
            lambda x: x.astype(float) if x.dtype == jnp.float32 else x, jax.jit(trainer.init)(jax.random.key(0))
        )
        states[reuse], _ = steps[reuse](state)
    learned = [jax.tree.leaves((s.policy_params, s.critic_params, s.env_state.memory)) for s in states.values()]
    for x, y in zip(*learned, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)  # as far as conjugate gradients are asked to go
    moved = [steps[reuse](states[reuse])[0].policy_params for reuse in (1, 3)]
    assert max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, moved), strict=True)) > 0.01


def test_older_samples_keep_their_log_probabilities_and_kl_holds_over_the_window():
    trainer = jtrpo.make_trainer(config(reuse=3))
    state, metrics = jax.jit(lambda state: jax.lax.scan(lambda s, _: trainer.step(s), state, length=6))(
        jax.jit(trainer.init)(jax.random.key(1))
    )
    assert metrics.policy.accepted.all()
    assert (metrics.policy.kl <= metrics.hyperparams.max_kl).all()
    agent = jtrpo.make_agent(config())
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), state.window._replace(memory=()))
    today = agent.policy(state, flat.observation)[0].log_prob(flat.action)
    assert np.abs(today - flat.log_prob).max() > 0.01  # stored under the policies of then


@pytest.mark.slow
def test_a_probe_is_solved_with_old_samples_too():
    config = jtrpo.TrainConfig(
        probes.MatchObservation(probes.DISCRETE),
        total_timesteps=20 * 64,
        num_envs=16,
        num_steps=4,
        reuse=3,
        hidden_sizes=(16,),
    )
    state = jax.jit(jtrpo.make_train(config))(jax.random.key(0), jtrpo.Hyperparams(max_kl=0.05)).state
    returns = jtrpo.make_trainer(config).evaluate(state, jax.random.key(1), 64)
    assert returns.mean() == 1.0


def test_reuse_below_one_is_refused():
    with pytest.raises(ValueError, match="reuse must be a whole number of at least 1; got 0"):
        config(reuse=0)
