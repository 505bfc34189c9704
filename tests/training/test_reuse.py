"""Sample reuse: what the window holds, and what an update makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.reuse import empty_window, slide_window
from jtrpo.training.rollout import Trajectory
from tests import probes

STEPS, ENVS = 4, 3


def collection(number):
    """Rewards ``100 number + 10 step + environment``; its first row as the memory."""
    step, env = jnp.meshgrid(jnp.arange(STEPS), jnp.arange(ENVS), indexing="ij")
    x = 100.0 * number + 10.0 * step + env
    return Trajectory(x[..., None], x, x, x, x < 0, x < 0, x[..., None], memory=(x[0],))


def test_the_window_slides_and_stands_side_by_side():
    window = empty_window(collection(0), reuse=3)
    for number in range(5):
        window, recent = slide_window(window, collection(number), jnp.bool_(number == 0))
        expected = [collection(max(0, earlier)) for earlier in (number - 2, number - 1, number)]
        for name in ("observation", "action", "log_prob", "reward", "terminated", "truncated", "final_observation"):
            for age, each in enumerate(expected):
                np.testing.assert_array_equal(getattr(recent, name)[:, age::3], getattr(each, name))
        for age, each in enumerate(expected):
            np.testing.assert_array_equal(recent.memory[0][age::3], each.memory[0])
        for newest_first, each in enumerate(reversed(expected[1:])):
            np.testing.assert_array_equal(window.reward[-1 - newest_first], each.reward)


def config(**settings):
    common = {"num_envs": 8, "num_steps": 8, "hidden_sizes": (8,), "critic": "gauss_newton", "critic_epochs": 1}
    return jtrpo.TrainConfig("CartPole-v1", total_timesteps=256, **{**common, **settings})


@pytest.mark.parametrize("memory", [None, "gru"])
def test_the_first_update_is_the_one_without_reuse_and_later_ones_are_not(memory):
    states, steps = {}, {}
    for reuse in (1, 3):
        trainer = jtrpo.make_trainer(config(reuse=reuse, memory=memory))
        steps[reuse] = jax.jit(trainer.step)
        states[reuse], _ = steps[reuse](trainer.init(jax.random.key(0)))
    learned = [jax.tree.leaves((s.policy_params, s.critic_params, s.env_state.memory)) for s in states.values()]
    for x, y in zip(*learned, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)
    moved = [steps[reuse](states[reuse])[0].policy_params for reuse in (1, 3)]
    assert max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, moved), strict=True)) > 0.01


def test_older_samples_keep_their_log_probabilities_and_kl_holds_over_the_window():
    trainer = jtrpo.make_trainer(config(reuse=3))
    state, metrics = jax.jit(lambda state: jax.lax.scan(lambda s, _: trainer.step(s), state, length=6))(
        trainer.init(jax.random.key(1))
    )
    assert metrics.policy.accepted.all()
    assert (metrics.policy.kl <= metrics.hyperparams.max_kl).all()
    agent = jtrpo.make_agent(config())
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), state.window._replace(memory=()))
    today = agent.policy(state, flat.observation)[0].log_prob(flat.action)
    assert np.abs(today - flat.log_prob).max() > 0.01  # stored under the policies of then


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
