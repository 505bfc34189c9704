import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.trainer import make_collect
from tests import probes


class Numbered:
    """An episode's number is drawn where it begins, and seen all along, with the step; two to four steps."""

    observation_space = probes.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = probes.DISCRETE

    def reset(self, key):
        state = {"number": jax.random.uniform(key), "step": jnp.int32(0)}
        return self.observe(state), state

    def step_without_reset(self, key, state, action):
        after = {**state, "step": state["step"] + 1}
        ended, cut_off = after["step"] >= 2 + action, jnp.bool_(False)
        return jtrpo.EnvStep(self.observe(after), after, jnp.float32(1.0), ended, cut_off, self.observe(after))

    step = step_without_reset  # with a pool nothing resets itself, and of this only the shapes are asked

    def observe(self, state):
        return jnp.stack([state["number"], state["step"].astype(float)])


CONFIG = jtrpo.TrainConfig(Numbered(), num_envs=4, num_steps=16, hidden_sizes=(4,), reset_pool=3, critic_minibatches=1)


def test_episodes_begin_at_starts_of_the_pool_which_is_another_one_in_each_collection_of_each_seed():
    trainer, drawn = jtrpo.make_trainer(CONFIG), []
    state = jax.vmap(trainer.init)(jax.random.split(jax.random.key(0), 2))
    step, look = jax.jit(jax.vmap(trainer.step)), jax.jit(jax.vmap(make_collect(CONFIG)))
    for _ in range(2):
        begun, seen = np.asarray(state.env_state.observation), look(state)
        for seed in range(2):
            trajectory = jax.tree.map(lambda x, seed=seed: np.asarray(x[seed]), seen)
            number, at = np.moveaxis(trajectory.observation, -1, 0)
            done = trajectory.done
            np.testing.assert_array_equal(number[0], begun[seed, :, 0])  # it goes on where it stood
            np.testing.assert_array_equal(number[1:] == number[:-1], ~done[:-1] | (number[1:] == number[:-1]))
            np.testing.assert_array_equal(at[1:], np.where(done[:-1], 0, at[:-1] + 1))
            np.testing.assert_array_equal(trajectory.final_observation[..., 1], at + 1)
            np.testing.assert_array_equal(trajectory.final_observation[..., 0], number)
            starts = set(number[1:][done[:-1]].tolist())
            assert done[:-1].sum() > 8
            assert len(starts) == 3  # of so many episodes each start is the first step of some
            drawn.append(starts)
        state, _ = step(state)
        np.testing.assert_array_equal(state.env_state.env_state["number"], state.env_state.observation[..., 0])
    assert len(set.union(*drawn)) == 4 * 3
    assert step._cache_size() == 1


def test_where_no_step_without_a_reset_is_to_be_had_a_pool_is_refused():
    for env in ("CartPole-v1", probes.TruncatedOnly(probes.DISCRETE), "gymnasium:CartPole-v1"):
        with pytest.raises(
            ValueError, match=r"reset_pool needs .* step_without_reset .* has none: leave reset_pool at 0"
        ):
            jtrpo.TrainConfig(env, reset_pool=8)
    with pytest.raises(ValueError, match="reset_pool"):
        jtrpo.TrainConfig(Numbered(), reset_pool=-1)
