"""The policy stays the same function of raw observations when their statistics move, whatever its network and spaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.training.normalization import init_statistics, update_statistics
from tests import probes

BOX = spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
NESTED = spaces.Dict(
    {
        "action_mask": spaces.MultiBinary(2),
        "image": spaces.Box(0, 255, (5, 6, 2), np.uint8),
        "pair": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.MultiDiscrete([2, 3])]),
        "place": spaces.Discrete(4),
        "switches": spaces.MultiBinary(3),
        "vector": spaces.Box(-1, 1, (), np.float32),
    }
)


class Anything(probes.Probe):
    def __init__(self, observation_space, action_space):
        super().__init__(action_space)
        self.observation_space = observation_space


def observations(space, number):
    space.seed(number)
    rows = [space.sample() for _ in range(number)]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(each) for each in x]), *rows)
    if isinstance(space, spaces.Dict):
        stacked = {**stacked, "action_mask": stacked["action_mask"].at[:, 0].set(1)}
    return stacked


def settings():
    one, many = probes.DISCRETE, probes.CONTINUOUS
    pair = spaces.Tuple([one, many])
    yield from ((BOX, many, {"box_distribution": kind}) for kind in jtrpo.networks.heads.BOX_DISTRIBUTIONS)
    yield from ((BOX, pair, {"hidden_sizes": sizes, "activation": "elu"}) for sizes in ((), (4, 8)))
    yield from ((NESTED, one, {"memory": memory}) for memory in (None, "gru", "lstm"))
    yield BOX, one, {"shared_torso": True, "normalize_values": True}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("seen", "acted", "own"), list(settings()), ids=str)
def test_the_policy_stays_the_same_function_when_the_statistics_move(seen, acted, own):
    config = jtrpo.TrainConfig(Anything(seen, acted), **{"hidden_sizes": (8,), **own})
    agent, learner = jtrpo.make_agent(config), jtrpo.training.trainer.make_learner(config)
    observation = observations(seen, 16)
    example = jax.tree.map(lambda x: x[0], observation)
    state = learner.init(jax.random.key(0), jtrpo.Hyperparams(), (), example)
    # As after some updates: nothing is zero any more.
    leaves, structure = jax.tree.flatten(state.policy_params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    state = state._replace(policy_params=structure.unflatten(moved))
    before = update_statistics(init_statistics(example), jax.tree.map(lambda x: 5.0 + 2.0 * x[:9], observation))
    after = update_statistics(before, jax.tree.map(lambda x: 30.0 * x, observation))
    state = state._replace(observation_statistics=before)
    other = agent.with_statistics(state, after)
    old, new = agent.policy(state, observation), agent.policy(other, observation)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), old, new)
    assert other.observation_statistics is after
    assert not jax.tree.all(jax.tree.map(np.array_equal, state.policy_params, other.policy_params))


def test_the_first_policy_ignores_what_it_sees_and_begins_in_the_units_of_the_first_statistics():
    config = jtrpo.TrainConfig(Anything(BOX, spaces.Tuple([probes.DISCRETE, probes.CONTINUOUS])), hidden_sizes=(8,))
    agent, learner = jtrpo.make_agent(config), jtrpo.training.trainer.make_learner(config)
    x = 100.0 + 7.0 * jax.random.normal(jax.random.key(0), (64, *BOX.shape))
    state = learner.init(jax.random.key(0), jtrpo.Hyperparams(), (), x[0])
    other = agent.with_statistics(state, update_statistics(state.observation_statistics, x))
    jax.tree.map(np.testing.assert_array_equal, agent.policy(state, x), agent.policy(other, x))
    jax.tree.map(np.testing.assert_array_equal, state.policy_params, other.policy_params)
    assert float(jnp.std(agent.see(other, x))) < 1.1
