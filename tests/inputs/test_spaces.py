"""Spaces that people have, one test for each kind: what they see and do is right, or they are told before anything is traced."""

import dataclasses
from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.actions import environment_action, stretched
from jtrpo.envs.check import canonical
from jtrpo.networks.torso import Torso, channels_first, is_image
from tests import probes

SMALL = {"num_envs": 2, "num_steps": 2, "hidden_sizes": (8,), "critic_epochs": 1, "critic_minibatches": 1}
BOX = spaces.Box(-1.0, 1.0, (2,))


def config(observation=probes.Probe.observation_space, action=probes.DISCRETE, **settings):
    env = probes.ConstantReward(action)
    env.observation_space = observation
    return jtrpo.TrainConfig(env, **{**SMALL, **settings})


def kernels(space):
    """Shapes of the kernels of a policy that sees this space."""
    made = config(space)
    example = jax.tree.map(jnp.asarray, space.sample())
    return [
        x.shape for x in jax.tree.leaves(jax.eval_shape(jtrpo.make_agent(made).init_policy, jax.random.key(0), example))
    ]


def features(space, *observations):
    """What the dense layers get of each observation."""
    torso = Torso(space, hidden_sizes=())
    batch = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(each) for each in x]), *observations)
    return np.asarray(torso.apply(torso.init(jax.random.key(0), batch), batch))


def sent(space, *actions):
    """Actions that reach the environment, each checked to be in its space."""
    batch = environment_action(space, jax.tree.map(lambda *x: jnp.stack([jnp.asarray(each) for each in x]), *actions))
    for i in range(len(actions)):
        one = jax.tree.map(lambda x, i=i: np.asarray(np.asarray(x)[i]), batch)
        assert space.contains(one), one
    return batch


@pytest.mark.parametrize(
    "shape", [(3, 3, 1), (4, 4, 2), (4, 9, 3), (5, 5, 2), (3, 8, 8), (4, 20, 20), (3, 9, 12), (2, 2, 2)]
)
def test_no_picture_is_too_small_for_its_layers(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    assert all(min(kernel) > 0 for kernel in kernels(space))
    one = np.zeros(shape, np.uint8)
    other = one.copy()
    other[0, 0, 0] = 200
    first, second = features(space, one, other)
    assert (first != second).any()


def test_channels_first_are_recognised_and_seen_as_channels_last():
    first, last = spaces.Box(0, 1, (3, 8, 9)), spaces.Box(0, 1, (8, 9, 3))
    assert channels_first(first)
    assert not channels_first(last)
    image = np.random.default_rng(0).random((8, 9, 3), np.float32)
    np.testing.assert_array_equal(features(first, np.moveaxis(image, -1, 0)), features(last, image))
    for shape in [(10, 10, 4), (10, 10, 10), (30, 40, 3), (10, 12, 64), (210, 160, 3)]:
        assert not channels_first(spaces.Box(0, 1, shape)), shape
        assert is_image(spaces.Box(0, 1, shape)), shape


STARTS = [
    (spaces.Discrete(3, start=-1), -1, 1),
    (spaces.Discrete(3, start=7, dtype=np.uint8), np.uint8(7), np.uint8(9)),
    (spaces.MultiDiscrete([2, 11], start=[0, 25]), np.array([0, 25]), np.array([1, 35])),
    (
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, -9], [1, 0]]),
        np.array([[0, -9], [1, 0]]),
        np.array([[1, -7], [4, 4]]),
    ),
]


@pytest.mark.parametrize(("space", "least", "most"), STARTS)
@pytest.mark.parametrize("nest", [lambda x: x, lambda x: {"a": x}, lambda x: {"a": (x,)}])
def test_a_start_counts_wherever_the_space_stands(space, least, most, nest):
    def around(tree):
        if isinstance(tree, dict):
            return spaces.Dict({name: around(child) for name, child in tree.items()})
        return spaces.Tuple([around(child) for child in tree]) if isinstance(tree, tuple) else tree

    sizes = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    zero = np.zeros(() if isinstance(space, spaces.Discrete) else sizes.size, np.int32)
    last = zero + (sizes - 1 if zero.ndim else sizes[0] - 1)
    batch = sent(around(nest(space)), nest(zero), nest(last.astype(np.int32)))
    np.testing.assert_array_equal(jax.tree.leaves(batch)[0], [least, most])
    seen = features(around(nest(space)), nest(least), nest(most))
    assert seen.shape == (2, sizes.sum())
    np.testing.assert_array_equal(seen.sum(axis=1), sizes.size)  # one of each is hot
    assert (np.argmax(seen, axis=1) != sizes.sum() - 1).any()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32, bool])
def test_boxes_of_whole_numbers_are_stretched_in_floating_point(dtype):
    low, high = (0, 1) if dtype is bool else (0, 200) if np.dtype(dtype).kind == "u" else (-100, 100)
    space = spaces.Box(low, high, (1,), dtype)
    policy = np.float32([-7.0, -1.0, 0.24, 1.0, 7.0])[:, None]
    middle, half = (low + high) / 2, (high - low) / 2
    expected = np.clip(np.round(middle + half * policy), low, high)
    np.testing.assert_array_equal(sent(space, *policy), expected.astype(dtype))


WIDE = [
    (np.float32, np.finfo(np.float32).max, False),
    (np.float32, 2e38, False),
    (np.float32, 1e30, True),
    (np.float64, np.finfo(np.float64).max, False),
    (np.float64, 1e300, False),
    (np.float64, 3e38, False),
    (np.float16, np.finfo(np.float16).max, False),
    (np.float16, 40000, True),
    (np.int32, np.iinfo(np.int32).max, False),
    (np.int64, np.iinfo(np.int64).max, False),
    (np.int16, np.iinfo(np.int16).max, True),
]


@pytest.mark.parametrize(("dtype", "bound", "bounded"), WIDE)
def test_a_bound_too_large_to_stretch_to_is_none(dtype, bound, bounded):
    space = spaces.Box(-bound, bound, (1,), dtype)
    assert stretched(space).all() == bounded
    moved = float(sent(space, np.float32([1.0]), np.float32([-1e9]), np.float32([1e9]))[0, 0])
    assert moved == pytest.approx(bound) if bounded else moved == 1.0
    if not bounded:
        for name in ("tanh_gaussian", "beta"):
            with pytest.raises(ValueError, match=name):
                config(action=space, box_distribution=name)


def test_each_number_of_a_box_has_bounds_of_its_own():
    inf, most = np.inf, np.finfo(np.float32).max
    space = spaces.Box(np.float32([-2, 0, -inf, 100, -most, 5]), np.float32([2, inf, -7, inf, most, 5]))
    assert stretched(space).tolist() == [True, False, False, False, False, True]
    action = sent(space, np.zeros(6, np.float32), np.full(6, 0.5, np.float32), np.full(6, -3, np.float32))
    np.testing.assert_array_equal(action[0], [0, 0, -7, 100, 0, 5])
    np.testing.assert_array_equal(action[1], [1, 0.5, -7, 100.5, 0.5, 5])
    np.testing.assert_array_equal(action[2], [-2, 0, -10, 100, -3, 5])


def test_bounds_of_64_bits_hold_in_32():
    sent(spaces.Box(-0.1, 0.1, (3,), np.float64), np.full(3, 9, np.float32), np.full(3, -9, np.float32))
    sent(spaces.Box(-1.0, 1.0, (), np.float64), np.float32([9.0]))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Discrete(2, start=2**40), "counts from 1099511627776"),
        (spaces.MultiDiscrete([2, 3], start=[0, -(2**35)]), "counts from -34359738368"),
        (spaces.Box(2**40, 2**41, (1,), np.int64), "beyond the numbers of int32"),
        (spaces.Box(1e300, 1e301, (1,), np.float64), "beyond the numbers of float32"),
        (spaces.Text(3), "not supported; give Box, Discrete"),
        (spaces.Sequence(BOX), "not supported"),
        (spaces.Graph(BOX, None), "not supported"),
        (spaces.OneOf([BOX, BOX]), "not supported"),
        (spaces.Dict([(1, BOX), ("a", BOX)]), "names of one type"),
        ((3,), r"must be a space of gymnasium.spaces; got \(3,\) of type tuple"),
    ],
)
def test_spaces_that_cannot_be_held_are_named_wherever_they_stand(space, words):
    nested = [space] if isinstance(space, tuple) else [space, spaces.Dict({"x": BOX, "y": spaces.Tuple([space])})]
    for each in nested:
        with pytest.raises((TypeError, ValueError), match=f"observation_space.*{words}"):
            config(observation=each)
        with pytest.raises((TypeError, ValueError), match=f"action_space.*{words}"):
            config(action=each)


EMPTY = [
    spaces.Box(0, 1, (0,)),
    spaces.Dict({}),
    spaces.Tuple([]),
    spaces.Tuple([spaces.Dict({})]),
    spaces.Box(0, 1, (3, 0)),
]


@pytest.mark.parametrize("space", EMPTY)
def test_nothing_to_see_or_to_choose_is_told_but_an_empty_part_of_what_is_seen_is_let_be(space):
    masked = spaces.Dict({"action_mask": spaces.MultiBinary(2), "nothing": space})
    for each in (space, masked):
        with pytest.raises(ValueError, match=r"observation_space .*nothing for a network to see.*constant"):
            config(observation=each)
    with pytest.raises(ValueError, match=r"action_space .*nothing to choose"):
        config(action=space)
    with pytest.raises(ValueError, match=r"action_space\['b'\] .*nothing to choose"):
        config(action=spaces.Dict({"a": BOX, "b": space}))
    assert kernels(spaces.Dict({"a": BOX, "b": space})) == kernels(BOX)


PARTS = spaces.Dict(
    {"move": spaces.Discrete(3), "push": BOX, "two": spaces.Tuple([spaces.MultiBinary((1, 2)), spaces.Discrete(2)])}
)
MASKS = [
    {"move": spaces.MultiBinary(3)},
    {"two": spaces.Tuple([spaces.MultiBinary((1, 2))])},
    {"two": spaces.Tuple([spaces.Tuple([]), spaces.MultiBinary(2)])},
    {"move": spaces.Box(0, 1, (3,), np.int8), "two": spaces.Dict({1: spaces.MultiBinary(2)})},
]


@pytest.mark.parametrize("masks", MASKS)
def test_a_mask_for_one_part_leaves_the_others_alone(masks):
    space = spaces.Dict({"x": BOX, "action_mask": spaces.Dict(masks)})
    made = config(space, PARTS)
    agent = jtrpo.make_agent(made)
    observation = {
        "x": jnp.zeros((2, 2)),
        "action_mask": jax.tree.map(lambda x: jnp.zeros((2, *x.shape)), spaces.Dict(masks).sample()),
    }
    params = agent.init_policy(jax.random.key(0), jax.tree.map(lambda x: x[0], observation))
    parts = agent.policy_network(params, observation).parts
    two = parts["two"].parts
    illegal = {"move": parts["move"].logits, "0": two[0].logits, "1": two[1].logits}
    pair = masks.get("two")
    masked = {"move": "move" in masks, "0": False, "1": False}
    if pair is not None:
        children = pair.spaces if isinstance(pair, spaces.Dict) else dict(enumerate(pair.spaces))
        masked |= {str(i): child.shape is not None for i, child in children.items()}
    for name, logits in illegal.items():
        assert (np.isneginf(logits)).all() == masked[name], name
        assert np.isfinite(logits).all() != masked[name], name


@pytest.mark.parametrize(
    ("action", "mask", "words"),
    [
        (PARTS, spaces.MultiBinary(3), "must be a Dict or Tuple of masks for some of its parts"),
        (PARTS, spaces.Dict({"mvoe": spaces.MultiBinary(3)}), "mvoe"),
        (PARTS, spaces.Dict({"move": spaces.MultiBinary(4)}), r"action_space\['move'\].*\(3,\)"),
        (PARTS, spaces.Dict({"push": spaces.MultiBinary(2)}), r"action_space\['push'\].*cannot mask a Box"),
        (spaces.MultiBinary((2, 3)), spaces.MultiBinary(6), r"\(2, 3\)"),
        (spaces.MultiDiscrete([[2, 3]]), spaces.MultiBinary((2, 3)), r"\(5,\)"),
        (spaces.Tuple([BOX]), spaces.Tuple([spaces.Tuple([]), spaces.MultiBinary(3)]), "some of its parts"),
    ],
)
def test_a_mask_that_fits_no_part_is_told(action, mask, words):
    with pytest.raises(ValueError, match=f"action_mask of the .*{words}"):
        config(spaces.Dict({"x": BOX, "action_mask": mask}), action)


def test_a_mask_within_a_part_of_the_observation_is_seen_as_any_other_number():
    space = spaces.Dict({"x": BOX, "inner": spaces.Dict({"action_mask": spaces.MultiBinary(2)})})
    assert (4, 8) in kernels(space)


class Named(NamedTuple):
    a: object
    b: object


@dataclasses.dataclass
class Classed:
    b: object
    a: object


@pytest.mark.parametrize("form", [dict, OrderedDict, Named, Classed])
def test_observations_may_come_in_any_container_with_the_names(form):
    space = spaces.Dict({"a": BOX, "b": spaces.Tuple([spaces.Discrete(3), BOX])})

    class Env(probes.Probe):
        observation_space = space

        def observe(self, key, state):
            return form(**{"b": [state % 3, jnp.zeros(2)], "a": jnp.full((2,), state, jnp.float16)})

        def step(self, key, state, action):
            seen = self.observe(key, state + 1)
            return jtrpo.EnvStep(seen, state + 1, 1, jnp.bool_(False), jnp.bool_(False), seen)

    trainer = jtrpo.make_trainer(jtrpo.TrainConfig(Env(probes.DISCRETE), **SMALL))
    state, _ = jax.eval_shape(lambda key: trainer.step(trainer.init(key)), jax.random.key(0))
    seen = state.env_state.observation
    assert type(seen) is dict
    assert type(seen["b"]) is tuple
    assert (seen["a"].dtype, seen["b"][0].dtype) == (jnp.float32, jnp.int32)
    jax.eval_shape(lambda state: trainer.evaluate(state, jax.random.key(0), 3), state)


def changing(**at_first):
    class Env(probes.TruncatedOnly):
        def reset(self, key):
            observation, state = super().reset(key)
            return at_first.get("observation", lambda x: x)(observation), at_first.get("state", lambda x: x)(state)

        def step(self, key, state, action):
            seen = jnp.zeros((1,))
            return jtrpo.EnvStep(seen, jnp.int32(1), 1.0, jnp.bool_(False), jnp.bool_(False), seen)

    return jtrpo.make_trainer(jtrpo.TrainConfig(Env(probes.DISCRETE), **SMALL))


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (changing(state=lambda x: x.astype(jnp.int16)), "state must keep its type.* int16 of shape .* int32 of shape"),
        (changing(state=lambda x: x[None]), r"state must keep its type.* \(1,\) at first and .* \(\) after a step"),
        (changing(state=lambda x: {"t": x}), "state must keep its structure"),
        (changing(state=lambda x: object()), "state must be an array; got object"),
    ],
)
def test_a_state_that_changes_its_type_is_told(env, words):
    with pytest.raises((TypeError, ValueError), match=words):
        jax.eval_shape(lambda key: env.step(env.init(key)), jax.random.key(0))


def test_a_type_that_holds_what_follows_is_kept():
    env = changing(state=lambda x: x.astype(jnp.float32), observation=lambda x: x.astype(jnp.int8))
    state, _ = jax.eval_shape(lambda key: env.step(env.init(key)), jax.random.key(0))
    assert (state.env_state.env_state.dtype, state.env_state.observation.dtype) == (jnp.float32, jnp.float32)


def test_numbers_that_the_spaces_type_cannot_hold_keep_their_own_or_are_told():
    space = spaces.Box(0, 1, (2,), np.int32)  # as of gymnax's Catch-bsuite, which shows floating-point numbers
    assert canonical(space, jnp.array([0.5, 1.0]), "observation").dtype == jnp.float32
    with pytest.raises(ValueError, match=r"observation has float64, but its observation_space says int32"):
        canonical(space, np.array([0.5, 1.0]), "observation", np)


@pytest.mark.parametrize(
    ("distribution", "action", "words"),
    [
        (jtrpo.Categorical(jnp.zeros((2, 3))), [[0], [1]], r"shape \(2,\); got \(2, 1\)"),
        (jtrpo.Categorical(jnp.zeros((2, 3))), [0, 1, 2], r"shape \(2,\); got \(3,\)"),
        (jtrpo.Categorical(jnp.zeros((2, 3))), [0, -1], r"in 0 .. 2.* got -1"),
        (jtrpo.Categorical(jnp.zeros((2, 3))), [0, 3], r"in 0 .. 2.* got 3"),
        (jtrpo.MultiCategorical((jnp.zeros((2, 3)), jnp.zeros((2, 4)))), [0, 1], r"shape \(2, 2\); got \(2,\)"),
        (jtrpo.MultiCategorical((jnp.zeros((2, 3)), jnp.zeros((2, 4)))), [[0, 4], [0, 1]], "in 0 .. 3.* got 4"),
        (jtrpo.Bernoulli(jnp.zeros((2, 3))), [[0], [1]], r"shape \(2, 3\); got \(2, 1\)"),
        (jtrpo.Bernoulli(jnp.zeros((2, 3))), [[0, 1, 2], [1, 1, 1]], "in 0 .. 1.* got 2"),
        (jtrpo.DiagGaussian(jnp.zeros((2, 3)), jnp.zeros(3)), [[0.0], [1.0]], r"shape \(2, 3\); got \(2, 1\)"),
        (jtrpo.DiagGaussian(jnp.zeros((2, 3)), jnp.zeros(3)), [[0.0] * 3] * 4, r"shape \(2, 3\); got \(4, 3\)"),
    ],
)
def test_an_action_of_another_shape_or_beyond_the_choices_is_told(distribution, action, words):
    with pytest.raises(ValueError, match=f"action must .*{words}"):
        distribution.log_prob(jnp.array(action))


def test_an_action_that_is_known_only_at_run_time_never_has_anothers_probability():
    log_prob = jax.jit(jtrpo.Categorical(jnp.array([0.0, 1.0, 2.0])).log_prob)
    assert np.isnan([log_prob(action) for action in (-1, 3, -4, 1000)]).all()
    assert np.isfinite([log_prob(action) for action in (0, 1, 2)]).all()
