"""A training on eight devices is the training on one: the same environments, the same constrained update, the same numbers."""

import json

import pytest

from tests.devices import communicating, run_on

COMMON = """
import json
import re
from functools import partial

import jtrpo
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh

jax.config.update("jax_enable_x64", True)  # in float32 the same 20 updates differ by some 1e-6, and more on other tasks
assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()), ("envs",))


def difference(x, y):
    x, y = (ravel_pytree(jax.device_get(tree))[0] for tree in (x, y))
    return float(jnp.linalg.norm(x - y) / jnp.maximum(jnp.linalg.norm(x), 1e-30))


def updates(config, number):
    trainer = jtrpo.make_trainer(config)
    double = lambda x: x.astype(float) if x.dtype == jnp.float32 else x
    numbers = jtrpo.Hyperparams(cg_tolerance=1e-3)  # near rounding, rounding would decide which iteration is the last
    state = jax.tree.map(double, jax.jit(trainer.init)(jax.random.key(0), numbers))
    step = jax.jit(trainer.step)
    for _ in range(number):
        state, metrics = step(state)
        yield state, metrics
    assert step._cache_size() == 1
"""

CARTPOLE = """
common = {"num_envs": 16, "num_steps": 32, "total_timesteps": 20 * 512}
for one, eight in zip(*(updates(jtrpo.TrainConfig("CartPole-v1", mesh=m, **common), 20) for m in (None, mesh))):
    assert eight[1].policy.accepted and eight[1].policy.kl <= eight[1].hyperparams.max_kl
    assert one[1].policy.cg_iterations == eight[1].policy.cg_iterations
    for x, y in zip(jax.tree.leaves(one[0].env_state.env_state), jax.tree.leaves(eight[0].env_state.env_state)):
        np.testing.assert_array_equal(x, y)
state = eight[0]
assert len(state.env_state.observation.sharding.device_set) == 8
assert state.env_state.observation.addressable_shards[0].data.shape == (2, 4)
assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.policy_params))
evaluate = jax.jit(jtrpo.make_trainer(jtrpo.TrainConfig("CartPole-v1", mesh=mesh, **common)).evaluate, static_argnums=2)
returns = evaluate(state, jax.random.key(1), 16)
alone = jtrpo.make_trainer(jtrpo.TrainConfig("CartPole-v1", **common)).evaluate
assert (returns == jax.jit(alone, static_argnums=2)(one[0], jax.random.key(1), 16)).all()
print(json.dumps([difference(one[0].policy_params, state.policy_params), difference(one[0].critic_params, state.critic_params)]))
"""


@pytest.mark.slow
def test_twenty_updates_on_eight_devices_are_those_on_one():
    policy, critic = json.loads(run_on(8, COMMON + CARTPOLE))
    assert policy <= 1e-5
    assert critic <= 1e-9


OF_THREE_UPDATES = """
common = {"num_envs": 16, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 2, "cg_iterations": 3, **SETTINGS}
for one, eight in zip(*(updates(jtrpo.TrainConfig("CartPole-v1", mesh=m, **common), 3) for m in (None, mesh))):
    assert one[1].policy.accepted
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), one[1], jax.device_get(eight[1]))
for name in ("policy_params", "critic_params", "observation_statistics", "return_statistics", "target_statistics"):
    assert difference(getattr(one[0], name), getattr(eight[0], name)) < 1e-9, name
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        # 0.1 of 128 samples is 13: more for some devices than for others.
        {"fisher_fraction": 0.1, "critic": "gauss_newton", "critic_fraction": 0.1, "normalize_values": True},
        {"memory": "gru", "reuse": 3, "critic_minibatches": 2, "fisher_fraction": 0.4},
        {"constraint": "kl_max", "preconditioner": "diagonal"},
    ],
    ids=["fractions", "memory and reuse", "largest KL"],
)
def test_no_setting_knows_the_number_of_devices(settings):
    out = run_on(8, COMMON + OF_THREE_UPDATES.replace("SETTINGS", repr(settings)) + 'print("the same")')
    assert out == "the same\n"


SEEDS = """
from tests.devices import communicating
seeds_mesh = jax.make_mesh((4, 2), ("seeds", "envs"), axis_types=(AxisType.Explicit,) * 2)  # either kind of axes will do
common = {"num_envs": 4, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 2, "total_timesteps": 64}
keys = jax.random.split(jax.random.key(0), 8)
alone = jax.jit(jax.vmap(jtrpo.make_train(jtrpo.TrainConfig("CartPole-v1", **common))))(keys)
config = jtrpo.TrainConfig("CartPole-v1", mesh=seeds_mesh, **common)
train = jax.jit(jax.vmap(jtrpo.make_train(config), spmd_axis_name="seeds"))
result = train(keys)
assert difference(alone.state.policy_params, result.state.policy_params) < 1e-5
here = result.state.env_state.observation.addressable_shards[0].data
assert here.shape == (2, 2, 4), here.shape
lines = [line.split(", metadata=")[0] for line in train.lower(keys).compile().as_text().splitlines()]
groups = [communicating(line) for line in lines if " all-reduce(" in line]
assert len(groups) > 8 and all(each == {frozenset({n, n + 1}) for n in (0, 2, 4, 6)} for each in groups), groups
assert not [line for line in lines if re.search(" (all-gather|all-to-all|collective-permute|reduce-scatter)[-(]", line)]
"""


@pytest.mark.parametrize(
    ("notation", "groups"),
    [
        ("{{0,1},{2,3}}", {(0, 1), (2, 3)}),
        ("{{0,2},{1,3}}", {(0, 2), (1, 3)}),
        ("[2,2]<=[4]", {(0, 1), (2, 3)}),
        ("[2,2]<=[2,2]T(1,0)", {(0, 2), (1, 3)}),
        ("mesh['seeds'=2,'envs'=2] {'envs'}", {(0, 1), (2, 3)}),
        ("mesh['seeds'=2,'envs'=2] {'seeds'}", {(0, 2), (1, 3)}),
        ("mesh['seeds'=2,'envs'=2] {'seeds','envs'}", {(0, 1, 2, 3)}),
    ],
)
def test_who_talks_to_whom_is_read_in_every_notation_of_hlo(notation, groups):
    line = f"%psum = f64[2]{{0}} all-reduce(%x), channel_id=1, replica_groups={notation}, to_apply=%sum"
    assert communicating(line) == set(map(frozenset, groups))


def test_a_notation_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="replica_groups=mesh"):
        communicating("all-reduce(%x), replica_groups=mesh['a'=4] {'a':(1)2}")


@pytest.mark.slow
def test_a_second_axis_takes_the_seeds_which_say_nothing_to_one_another():
    assert run_on(8, COMMON + SEEDS + 'print("the same")') == "the same\n"


REFUSED = """
import pytest
from tests import probes

one = jtrpo.TrainConfig
cases = [
    ({"num_envs": 20}, ValueError, "num_envs must be divisible by the mesh's 8 devices along envs; got 20: 16 or 24 would do"),
    ({"num_envs": 4}, ValueError, "8 devices along envs; got 4: 8 would do"),
    ({"num_envs": 8, "num_steps": 2}, ValueError, "share of the batch, 2 samples on each of 8 devices; got 4"),
    ({"num_envs": 16, "memory": "gru"}, ValueError, "share of the batch, 2 sequences on each of 8 devices; got 4"),
    ({"sampling": "vine"}, ValueError, "sampling='vine' draws its states from the whole collection"),
    ({"mesh": Mesh(np.array([], dtype=object), ("envs",))}, ValueError, "mesh needs devices"),
    ({"mesh": Mesh(np.array(jax.devices()), ("seeds",))}, ValueError, "axis beside 'seeds'; got {'seeds': 8}"),
    ({"mesh": 8}, TypeError, "mesh must be a jax.sharding.Mesh.*; got 8"),
    ({"env": "gymnasium:CartPole-v1"}, ValueError, "stepped in Python"),
]
for settings, error, message in cases:
    with pytest.raises(error, match=message):
        one(**{"env": "CartPole-v1", "mesh": mesh, **settings})
one("CartPole-v1", num_envs=8, num_steps=2, critic="gauss_newton", mesh=mesh)
"""


def test_what_a_mesh_cannot_divide_is_refused_with_the_numbers():
    assert run_on(8, COMMON + REFUSED + 'print("refused")') == "refused\n"
