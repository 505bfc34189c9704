"""Recurrent networks in training: memory ends with the episode, and the update sees what the rollout saw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.rollout import collect, flatten
from jtrpo.training.state import step_keys
from tests import probes


class Walk(probes.Probe):
    """Observes random numbers; episodes end after 5 steps, or are cut after 3 in every other episode's place."""

    def observe(self, key, state):
        return jax.random.normal(key, (1,))

    def outcome(self, key, state, action):
        return state.astype(float), state == 4, (state == 2) & (jax.random.uniform(key) < 0.3)


def config(**settings):
    small = {"num_envs": 4, "num_steps": 8, "hidden_sizes": (6,), "critic_epochs": 2, "critic_minibatches": 2}
    return jtrpo.TrainConfig(env=Walk(probes.DISCRETE), total_timesteps=32, **{**small, **settings})


@pytest.fixture(
    scope="module", params=["shared lstm", *(pytest.param(each, marks=pytest.mark.long) for each in ("gru", "shared"))]
)
def collected(request):
    """An agent, its state after an update, and what that state collects next."""
    cell = request.param.split()[-1]
    settings = config(memory=cell if cell in ("gru", "lstm") else None, shared_torso="shared" in request.param)
    trainer, agent = jtrpo.make_trainer(settings), jtrpo.make_agent(settings)
    step = jax.jit(trainer.step)
    state, _ = step(jax.jit(trainer.init)(jax.random.key(0)))

    @jax.jit
    def gather(key):
        policy = lambda observation, memory: agent.policy(state, observation, memory)  # noqa: E731
        return collect(settings.environment, policy, state.env_state, key, settings.num_steps)[:2]

    return settings, agent, state, *gather(jax.random.key(1)), step, gather


def test_the_update_sees_the_distributions_that_acted(collected):
    _, agent, state, _, trajectory, *_ = collected
    distribution = agent.policy_network(state.policy_params, agent.policy_input(state, trajectory))
    log_prob = distribution.log_prob(flatten(trajectory.action))
    np.testing.assert_allclose(log_prob, flatten(trajectory.log_prob), atol=1e-6)


def test_memory_is_empty_at_an_episodes_start_and_nowhere_else(collected):
    settings, _, state, end, trajectory, *_ = collected
    for memory in jax.tree.leaves((end.memory.policy, state.env_state.memory)):
        assert memory.shape == (settings.num_envs, settings.hidden_sizes[-1])
    for memory in jax.tree.leaves(end.memory.policy):
        np.testing.assert_array_equal(jnp.all(memory == 0, axis=1), trajectory.done[-1])
    if settings.memory:
        assert trajectory.done.any()


def test_the_value_of_what_followed_is_the_next_steps_value_within_an_episode(collected):
    _, agent, state, _, trajectory, *_ = collected
    value, next_value, memory = agent.values(state, trajectory)
    within = ~trajectory.done[:-1]
    np.testing.assert_allclose(next_value[:-1][within], value[1:][within], atol=1e-6)
    assert within.any()
    for leaf in jax.tree.leaves(memory):
        np.testing.assert_array_equal(jnp.all(leaf == 0, axis=1), trajectory.done[-1])


def test_a_training_step_carries_the_memory_on_to_the_next_collection(collected):
    _, _, state, _, _, step, gather = collected
    following, _ = step(state)
    end, _ = gather(jax.random.split(step_keys(state)[1])[0])
    np.testing.assert_array_equal(following.env_state.episode_length, end.episode_length)
    for a, b in zip(*map(jax.tree.leaves, (following.env_state.memory.policy, end.memory.policy)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for memory in jax.tree.leaves(following.env_state.memory):
        np.testing.assert_array_equal(jnp.all(memory == 0, axis=1), following.env_state.episode_length == 0)


def memoryless_bound():
    """Best expected return in MemoryChain of any policy that acts on the present observation alone.

    Only the last action is rewarded, by +1 where it equals a bit that is shown at the first step only, and -1 otherwise. The
    bit is fair and the last observation does not depend on it, so each action is right with probability 1/2.
    """
    return 0.5 * 1.0 + 0.5 * -1.0


@pytest.mark.long
def test_a_gru_remembers_the_chain_where_no_memoryless_policy_can():
    returns = {}
    for memory in (None, "gru"):
        settings = jtrpo.TrainConfig("MemoryChain-bsuite", total_timesteps=60_000, hidden_sizes=(32,), memory=memory)
        trainer = jtrpo.make_trainer(settings)
        state = jax.jit(jtrpo.make_train(settings))(jax.random.key(0)).state
        returns[memory] = np.asarray(jax.jit(trainer.evaluate, static_argnums=2)(state, jax.random.key(1), 256))
    error = returns[None].std() / np.sqrt(256)
    assert abs(returns[None].mean() - memoryless_bound()) < 4 * error
    assert returns["gru"].mean() > 0.95


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": "rnn"}, ["memory", "'gru'", "'rnn'"]),
        ({"memory": "gru", "hidden_sizes": ()}, ["hidden_sizes", "memory"]),
        ({"shared_torso": True, "hidden_sizes": ()}, ["hidden_sizes", "shared torso"]),
        ({"memory": "gru", "critic_minibatches": 8}, ["critic_minibatches", "num_envs = 4", "8"]),
    ],
)
def test_settings_that_memory_forbids_are_refused(settings, words):
    with pytest.raises(ValueError, match=r"memory|torso|minibatches") as caught:
        config(**settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)
