"""What can only be seen where there are eight devices, one function a test; test_mesh.py runs them in one process.

python -m tests.training.on_eight_devices a_case another
"""

import json
import re
import sys
import traceback
from functools import partial

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

import jtrpo
from jtrpo.envs.gymnax import GymnaxEnvironment
from jtrpo.training.trainer import make_collect
from tests.devices import communicating
from tests.envs.test_reset_pool import Numbered
from tests.probes import counting
from tests.training.own_networks import averaging, networks
from tests.training.test_acting_kl import SMALL, acting_updates, assert_within

QUICK, SLOW, LONG = {}, {}, {}


def quick(case):
    QUICK[case.__name__] = case
    return case


def slow(case):
    SLOW[case.__name__] = case
    return case


def long(case):
    LONG[case.__name__] = case
    return case


def all_devices():
    return Mesh(np.array(jax.devices()), ("envs",))


def difference(x, y):
    x, y = (ravel_pytree(jax.device_get(tree))[0] for tree in (x, y))
    return float(jnp.linalg.norm(x - y) / jnp.maximum(jnp.linalg.norm(x), 1e-30))


def updates(config, number):
    """In float64: in float32 the same 20 updates differ by some 1e-6, and more on other tasks."""
    trainer = jtrpo.make_trainer(config)
    double = lambda x: x.astype(float) if x.dtype == jnp.float32 else x  # noqa: E731
    numbers = jtrpo.Hyperparams(cg_tolerance=1e-3)  # near rounding, rounding would decide which iteration is the last
    state = jax.tree.map(double, jax.jit(trainer.init)(jax.random.key(0), numbers))
    step = jax.jit(trainer.step)
    for _ in range(number):
        state, metrics = step(state)
        yield state, metrics
    # JAX 0.10 meets the first state of a mesh, which init made, with another entry than those that step makes.
    assert step._cache_size() == (2 if config.mesh is not None and jax.__version_info__ < (0, 11) else 1)


def side_by_side(number, **settings):
    """The same updates on one device and on eight."""
    configs = [jtrpo.TrainConfig(**{"env": "CartPole-v1", **settings}, mesh=mesh) for mesh in (None, all_devices())]
    return zip(*(updates(config, number) for config in configs), strict=True)


@quick
def two_devices_under_shard_map_give_the_update_of_one():
    def policy(params, observation):
        return jtrpo.DiagGaussian(jnp.tanh(observation @ params["w"]) @ params["v"], params["log_std"])

    keys = jax.random.split(jax.random.key(0), 6)
    params = {"w": jax.random.normal(keys[0], (3, 4)), "v": jax.random.normal(keys[1], (4, 2)), "log_std": jnp.zeros(2)}
    observation, noise = jax.random.normal(keys[2], (8, 3)), jax.random.normal(keys[3], (8, 2))
    weight = jnp.array([1.0, 2, 0, 1, 1, 0, 0, 3])
    old = policy(params, observation)
    action = old.mean + noise
    batch = jtrpo.Batch(observation, action, jax.random.normal(keys[4], (8,)), old.log_prob(action) + 0.1, weight)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    uneven = {"fisher_fraction": 0.4}  # three samples: two of one device, one of the other
    for settings in ({}, {"constraint": "kl_max", "preconditioner": "diagonal", **uneven}):
        whole = jax.jit(partial(jtrpo.trpo_update, policy, **settings))(params, batch)
        local = partial(jtrpo.trpo_update, policy, axis_name="data", **settings)
        sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()))(params, batch)
        assert whole[1].accepted
        assert whole[1].kl > 1e-4
        jax.tree.map(lambda s, w: np.testing.assert_allclose(s, w, rtol=1e-8, atol=1e-8), sharded, whole)


def three_updates_are_those_of_one(**settings):
    common = {"num_envs": 16, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 2, "cg_iterations": 3}
    for one, eight in side_by_side(3, **common, **settings):
        assert one[1].policy.accepted
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-12), one[1], jax.device_get(eight[1]))
    for name in ("policy_params", "critic_params", "observation_statistics", "return_statistics", "target_statistics"):
        assert difference(getattr(one[0], name), getattr(eight[0], name)) < 1e-6, name  # float32 begins it


class Costly(GymnaxEnvironment):
    """CartPole with two costs."""

    def step(self, key, state, action):
        result = super().step(key, state, action)
        return result._replace(cost=jnp.abs(result.final_observation[:2]))


def costly():
    return {"env": Costly(*gymnax.make("CartPole-v1")), "env_metrics": ("discount",)}


# Of 128 samples a tenth is 13, of 48 sequences 5: more for some devices than for others.
FRACTIONS = {"fisher_fraction": 0.25, "critic": "gauss_newton", "critic_fraction": 0.1, "normalize_values": True}


@long
def fractions_of_a_batch_and_own_metrics_know_no_devices():
    three_updates_are_those_of_one(**FRACTIONS, **costly())


@slow
def fractions_of_a_batch_memory_and_reuse_know_no_devices():
    three_updates_are_those_of_one(memory="gru", reuse=3, **FRACTIONS, **costly())


@long
def a_memory_of_ones_own_and_the_largest_kl_know_no_devices_where_adam_fits_the_critic():
    own = networks(averaging, hidden=(8,))
    common = {"reuse": 3, "critic_minibatches": 2, "fisher_fraction": 0.4, "constraint": "kl_max"}
    three_updates_are_those_of_one(**common, **own, **costly())


@quick
def a_pool_of_starts_knows_no_devices():
    settings = {"num_envs": 8, "num_steps": 16, "hidden_sizes": (4,), "reset_pool": 3, "critic": "gauss_newton"}
    found = []
    for mesh in (None, all_devices()):
        config = jtrpo.TrainConfig(Numbered(), mesh=mesh, **settings)
        state = jax.jit(jtrpo.make_trainer(config).init)(jax.random.key(0))
        found.append(jax.device_get(jax.jit(make_collect(config))(state)))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert found[0].done.sum() > 8


def on_the_host(**settings):
    """Episodes of two steps, each begun by a step of its own, beside longer ones that go on beyond the samples meanwhile."""
    common = {"num_envs": 16, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 2, "total_timesteps": 2 * 128}
    found = []
    for mesh in (None, Mesh(np.array(jax.devices()).reshape(2, 4), ("hosts", "devices"))):
        vector = counting((2, 9, 10, 100) * 4, AutoresetMode.NEXT_STEP)
        trainer = jtrpo.make_host_trainer(jtrpo.TrainConfig(vector, mesh=mesh, **common, **settings))
        state = trainer.init(jax.random.key(0), jtrpo.Hyperparams(cg_tolerance=1e-3))
        for _ in range(2):
            state, metrics = trainer.step(state)
        found.append((state._replace(key=()), metrics, trainer.evaluate(state, jax.random.key(1), 5)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *map(jax.device_get, found))
    assert found[0][1].policy.accepted
    assert len(state.discounted_return.sharding.device_set) == 8
    assert state.discounted_return.addressable_shards[0].data.shape == (2,)
    assert (np.asarray(state.discounted_return) == 0).any()
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves((state.policy_params, metrics)))


@long
def environments_on_the_host_know_no_devices():
    on_the_host()


@long
def memory_and_reuse_know_no_devices_on_the_host():
    on_the_host(memory="gru", reuse=2, critic_minibatches=2)


@long
def the_largest_kl_knows_no_devices():
    three_updates_are_those_of_one(constraint="kl_max", preconditioner="diagonal", chunk_size=7)


@long
def the_policies_that_act_stay_within_max_kl():
    mesh = jax.make_mesh((2,), ("envs",), devices=jax.devices()[:2])
    with jax.enable_x64(False):
        config = jtrpo.TrainConfig("Pendulum-v1", **SMALL, mesh=mesh)
        state = jax.jit(jtrpo.make_trainer(config).init)(jax.random.key(0))
        update = acting_updates(config)
        for _ in range(4):
            state, metrics, acting, _ = update(state)
            assert_within(acting, metrics)


@slow
def twenty_updates_are_those_of_one():
    common = {"num_envs": 16, "num_steps": 32, "total_timesteps": 20 * 512}
    for one, eight in side_by_side(20, **common):
        assert eight[1].policy.accepted
        assert eight[1].policy.kl <= eight[1].hyperparams.max_kl
        assert one[1].policy.cg_iterations == eight[1].policy.cg_iterations
        for x, y in zip(*(jax.tree.leaves(each[0].env_state.env_state) for each in (one, eight)), strict=True):
            np.testing.assert_array_equal(x, y)
    state = eight[0]
    assert len(state.env_state.observation.sharding.device_set) == 8
    assert state.env_state.observation.addressable_shards[0].data.shape == (2, 4)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.policy_params))
    config = jtrpo.TrainConfig("CartPole-v1", mesh=all_devices(), **common)
    evaluate = jax.jit(jtrpo.make_trainer(config).evaluate, static_argnums=2)
    returns = evaluate(state, jax.random.key(1), 16)
    alone = jtrpo.make_trainer(jtrpo.TrainConfig("CartPole-v1", **common)).evaluate
    assert (returns == jax.jit(alone, static_argnums=2)(one[0], jax.random.key(1), 16)).all()
    assert difference(one[0].policy_params, state.policy_params) <= 1e-5
    assert difference(one[0].critic_params, state.critic_params) <= 1e-9


@slow
def a_second_axis_takes_the_seeds_which_say_nothing_to_one_another():
    mesh = jax.make_mesh((4, 2), ("seeds", "envs"), axis_types=(AxisType.Explicit,) * 2)  # either kind of axes will do
    common = {"num_envs": 4, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 2, "total_timesteps": 64}
    keys = jax.random.split(jax.random.key(0), 8)
    alone = jax.jit(jax.vmap(jtrpo.make_train(jtrpo.TrainConfig("CartPole-v1", **common))))(keys)
    config = jtrpo.TrainConfig("CartPole-v1", mesh=mesh, **common)
    train = jax.jit(jax.vmap(jtrpo.make_train(config), spmd_axis_name="seeds"))
    compiled = train.lower(keys).compile()
    result = compiled(keys)
    assert difference(alone.state.policy_params, result.state.policy_params) < 1e-5
    here = result.state.env_state.observation.addressable_shards[0].data
    assert here.shape == (2, 2, 4), here.shape
    lines = [line.split(", metadata=")[0] for line in compiled.as_text().splitlines()]
    groups = [communicating(line) for line in lines if " all-reduce(" in line]
    assert len(groups) > 8
    assert all(each == {frozenset({n, n + 1}) for n in (0, 2, 4, 6)} for each in groups), groups
    assert not [
        line for line in lines if re.search(" (all-gather|all-to-all|collective-permute|reduce-scatter)[-(]", line)
    ]


@quick
def what_a_mesh_cannot_divide_is_refused_with_the_numbers():
    none, others = Mesh(np.array([], dtype=object), ("envs",)), Mesh(np.array(jax.devices()), ("seeds",))
    with_seeds = Mesh(np.array(jax.devices()).reshape(2, 4), ("seeds", "envs"))
    for settings, error, message in [
        (
            {"num_envs": 20},
            ValueError,
            "must be divisible by the mesh's 8 devices along envs; got 20: 16 or 24 would do",
        ),
        ({"num_envs": 4}, ValueError, "8 devices along envs; got 4: 8 would do"),
        ({"num_envs": 8, "num_steps": 2}, ValueError, "share of the batch, 2 samples on each of 8 devices; got 4"),
        ({"num_envs": 16, "memory": "gru"}, ValueError, "share of the batch, 2 sequences on each of 8 devices; got 4"),
        ({"sampling": "vine"}, ValueError, "sampling='vine' draws its states from the whole collection"),
        ({"mesh": none}, ValueError, "mesh needs devices"),
        ({"mesh": others}, ValueError, "axis beside 'seeds'; got {'seeds': 8}"),
        ({"mesh": 8}, TypeError, "mesh must be a jax.sharding.Mesh.*; got 8"),
        ({"env": "gymnasium:CartPole-v1", "mesh": with_seeds}, ValueError, "no axis 'seeds'.*one seed at a time"),
        ({"env": counting((2,), AutoresetMode.NEXT_STEP)}, ValueError, "that of the vector environment, 1; got 64"),
    ]:
        with pytest.raises(error, match=message):
            jtrpo.TrainConfig(**{"env": "CartPole-v1", "mesh": all_devices(), **settings})
    jtrpo.TrainConfig("CartPole-v1", num_envs=8, num_steps=2, critic="gauss_newton", mesh=all_devices())


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    jax.config.update("jax_enable_x64", True)
    errors = {}
    for name in sys.argv[1:]:
        try:
            (QUICK | SLOW | LONG)[name]()
            errors[name] = ""
        except Exception:
            errors[name] = traceback.format_exc()
    print(json.dumps(errors))
