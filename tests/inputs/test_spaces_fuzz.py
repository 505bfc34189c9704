"""Spaces as hypothesis draws them: two tiny updates, or a refusal before anything is traced that names the argument.

The pure parts of all draws are looked at, and few are trained, since each compiles its own program; ``--long``: more of both.
"""

import re
from collections import OrderedDict, namedtuple
from functools import partial

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import strategies as st

import jtrpo
from jtrpo.envs.actions import environment_action
from jtrpo.envs.check import canonical
from jtrpo.networks.torso import Torso

KINDS = [
    np.float16,
    np.float32,
    np.float64,
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.uint64,
    bool,
]
SHAPES = [(), (1,), (3,), (2, 2), (0,), (4, 4, 2), (3, 6, 6), (6, 5, 2)]
NUMBERS = [
    -np.inf,
    -1e300,
    -1e30,
    -40000,
    -129,
    -5,
    -1,
    -0.1,
    0,
    0.1,
    1,
    7,
    100,
    255,
    40000,
    2**31,
    1e30,
    1e300,
    np.inf,
]
NAMES = ["a", "b c", "x/y", "", "é", "action_mask", "0"]
SEEN = 4
POOL = {"num_envs": 2, "num_steps": 2, "hidden_sizes": (4,), "critic_epochs": 1, "critic_minibatches": 1}


@st.composite
def boxes(draw):
    kind, shape = np.dtype(draw(st.sampled_from(KINDS))), draw(st.sampled_from(SHAPES))
    limit = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind) if kind.kind == "f" else np.iinfo(np.uint8)
    free = kind.kind == "f"
    number = float if free else int
    least, most = (0, 1) if kind.kind == "b" else (number(limit.min), number(limit.max))

    def bound():
        each = draw(st.one_of(st.sampled_from(NUMBERS), st.sampled_from([least, most])))
        return each if free and np.isinf(each) else number(max(min(each, most), least))

    ends = [sorted((bound(), bound())) for _ in range(2)]
    low, high = (np.resize(np.array([pair[i] for pair in ends], kind), shape) for i in range(2))
    low, high = np.where(np.isposinf(low), 0, low).astype(kind), np.where(np.isneginf(high), 0, high).astype(kind)
    hypothesis.assume((low <= high).all())
    return spaces.Box(low, high, shape, kind)


counts = st.integers(1, 4)
starts = st.sampled_from([0, 0, 1, -1, 25, -(2**31), 2**31 - 2, 2**40])
discretes = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), counts, starts),
    st.builds(
        lambda n, start, kind: spaces.Discrete(n, None, start, kind), counts, counts, st.sampled_from(["u1", "i2"])
    ),
)
multi_discretes = st.builds(
    lambda sizes, start, wide: spaces.MultiDiscrete(
        [sizes] * 2 if wide else sizes, start=[[start] * len(sizes)] * 2 if wide else [start] * len(sizes)
    ),
    st.lists(counts, min_size=1, max_size=3),
    starts,
    st.booleans(),
)
binaries = st.sampled_from([1, 3, (2, 2), (1, 3)]).map(spaces.MultiBinary)
others = st.sampled_from(
    [spaces.Text(3), spaces.Sequence(spaces.Discrete(2)), spaces.Graph(spaces.Discrete(2), None), "Box", None]
)
leaves = st.one_of(boxes(), boxes(), discretes, multi_discretes, binaries)


def nested(children):
    some = st.dictionaries(st.sampled_from(NAMES), children, max_size=3)
    return st.one_of(st.lists(children, max_size=3).map(spaces.Tuple), some.map(spaces.Dict))


drawn = st.one_of(
    st.recursive(leaves, nested, max_leaves=4), st.recursive(leaves, nested, max_leaves=4), leaves, others
)


def mask_of(space):
    """A mask that fits, or ``None``."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = dict(space.spaces if isinstance(space, spaces.Dict) else enumerate(space.spaces))
        masks = {name: mask_of(child) for name, child in children.items()}
        masks = {name: mask for name, mask in masks.items() if mask is not None}
        return spaces.Dict(masks) if masks else None
    if isinstance(space, spaces.Discrete):
        return spaces.MultiBinary(int(space.n))
    return spaces.MultiBinary(int(space.nvec.sum())) if isinstance(space, spaces.MultiDiscrete) else None


def elements(space, rng, count=SEEN):
    """Different elements of a space, ``[count, ...]`` each; of a bound that is none, what lies near zero."""
    if isinstance(space, spaces.Dict):
        return {name: elements(child, rng, count) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(elements(child, rng, count) for child in space.spaces)
    kind = jax.dtypes.canonicalize_dtype(space.dtype)
    shape = (count, *space.shape)
    if isinstance(space, spaces.Box):
        far = 3e4 if kind == np.float16 else 1e9
        low, high = (np.clip(np.asarray(x, float), -far, far) for x in (space.low, space.high))
        low, high = (np.clip(x, space.low.astype(float), space.high.astype(float)) for x in (low, high))
        value = low + (high - low) * rng.random(shape)
        value = np.where(abs(value) < 2e9, np.float32(value), value)  # what 32 bits tell apart
        value = np.round(value) if np.dtype(kind).kind in "iub" else value
        return value.astype(kind)
    size, start = (space.n, space.start) if isinstance(space, spaces.Discrete) else (2, 0)
    if isinstance(space, spaces.MultiDiscrete):
        size, start = space.nvec, space.start
    return (np.asarray(start, np.int64) + rng.integers(0, size, shape)).astype(kind)


def unlike(tree, i, j):
    return any((x[i] != x[j]).any() for x in jax.tree.leaves(tree))


def dressed(space, observation, form):
    """The same observation in other containers."""
    if isinstance(space, spaces.Tuple):
        parts = [dressed(child, each, form) for child, each in zip(space.spaces, observation, strict=True)]
        return parts if form == "list" else tuple(parts)
    if not isinstance(space, spaces.Dict):
        return observation
    parts = {name: dressed(child, observation[name], form) for name, child in space.spaces.items()}
    if form == "ordered":
        return OrderedDict(reversed(parts.items()))
    named = form == "named" and all(name.isidentifier() for name in parts)
    return namedtuple("Seen", list(parts))(**parts) if named else parts


class Drawn:
    """Shows elements of its space in turn; a reward is NaN if an action is outside of its space."""

    def __init__(self, observation_space, action_space, pool=None, form="dict"):
        self.observation_space, self.action_space, self.pool, self.form = observation_space, action_space, pool, form

    def observe(self, t):
        observation = jax.tree.map(lambda x: jnp.asarray(x)[t % SEEN], self.pool)
        return dressed(self.observation_space, observation, self.form)

    def reset(self, key):
        t = jax.random.randint(key, (), 0, SEEN)
        return self.observe(t), t

    def step(self, key, state, action):
        following, ended = state + 1, state % 3 == 2
        total = sum(jnp.sum(jnp.asarray(x, float) / 1e9) for x in jax.tree.leaves(action))
        reward = jnp.where(jnp.array(inside(self.action_space, action)).all(), 1.0 + jnp.tanh(total), jnp.nan)
        return jtrpo.EnvStep(
            self.observe(following), following, reward, ended, jnp.bool_(False), self.observe(following)
        )


def inside(space, action):
    """Whether each part of an action is in its space, in JAX's types."""
    if isinstance(space, spaces.Dict):
        return [good for name, child in space.spaces.items() for good in inside(child, action[name])]
    if isinstance(space, spaces.Tuple):
        return [good for child, part in zip(space.spaces, action, strict=True) for good in inside(child, part)]
    assert action.shape == space.shape
    if isinstance(space, spaces.Box):
        limit = np.finfo(np.float32)
        low, high = (np.clip(np.asarray(x, float), limit.min, limit.max) for x in (space.low, space.high))
        value = action.astype(jnp.float32)
        within = (value >= low.astype(np.float32)) & (value <= high.astype(np.float32))
        return [jnp.all(within | ~jnp.isfinite(value))]
    if isinstance(space, spaces.MultiBinary):
        return [jnp.all((action == 0) | (action == 1))]
    size, start = (space.n, space.start) if isinstance(space, spaces.Discrete) else (space.nvec, space.start)
    choice = action.astype(int) - jnp.asarray(np.asarray(start, np.int64), int)
    return [jnp.all((choice >= 0) & (choice < jnp.asarray(size.astype(np.int64), int)))]


def in_space_on_the_host(space, action):
    if isinstance(space, spaces.Dict):
        return all(in_space_on_the_host(child, action[name]) for name, child in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return all(map(in_space_on_the_host, space.spaces, action))
    action = np.asarray(action)
    narrow = isinstance(space, spaces.Box) and space.dtype == np.float64
    if narrow and not space.contains(action):  # one number, which 32 bits do not have
        return bool(np.all((np.float32(space.low) <= action) & (action <= np.float32(space.high))))
    return space.contains(action)


def policy_actions(distribution):
    """Actions of a policy at its wildest: samples, and numbers far beyond any bound."""
    wild = [distribution.sample(jax.random.key(seed)) for seed in range(2)] + [distribution.mode()]
    floating = partial(
        jax.tree.map, lambda x, far: jnp.full_like(x, far) if jnp.issubdtype(x.dtype, jnp.inexact) else x
    )
    return [*wild, *(floating(wild[0], jax.tree.map(lambda _, far=far: far, wild[0])) for far in (-1e30, 1e30, 0.5))]


REFUSAL = re.compile(r"observation_space|action_space|action_mask")


def try_spaces(observation, action, masked, form, seed, train):
    """One draw; returns what became of it."""
    if masked and isinstance(observation, spaces.Space) and isinstance(action, spaces.Space):
        mask = mask_of(action)
        if mask is not None:
            observation = spaces.Dict({"seen": observation, "action_mask": mask})
    try:
        config = jtrpo.TrainConfig(Drawn(observation, action), **POOL, total_timesteps=8)
    except (TypeError, ValueError) as error:
        if REFUSAL.search(str(error)):
            return "refused"
        raise
    rng = np.random.default_rng(seed)
    pool = elements(observation, rng)
    if isinstance(observation, spaces.Dict) and "action_mask" in observation.spaces:
        pool["action_mask"] = jax.tree.map(np.ones_like, pool["action_mask"])
    environment = config.environment
    environment.pool, environment.form = pool, form
    seen = canonical(observation, dressed(observation, pool, form), "observation", batch=1)
    assert jax.tree.structure(seen) == jax.tree.structure(pool)

    agent = jtrpo.make_agent(config)
    shapes = jax.eval_shape(agent.init_policy, jax.random.key(0), jax.tree.map(lambda x: x[0], seen))
    assert all(0 not in x.shape for x in jax.tree.leaves(shapes))
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.1, shapes)
    distribution = agent.policy_network(params, seen)
    for sent in policy_actions(distribution):
        sent = jax.device_get(environment_action(action, sent))
        for i in range(SEEN):
            one = jax.tree.map(lambda x, i=i: x[i], sent)
            assert in_space_on_the_host(action, one), (one, action)

    if any(np.max(np.abs(np.asarray(x, float)), initial=0) > 1e17 for x in jax.tree.leaves(pool)):
        return "looked at"  # squares of what is seen are beyond 32 bits: no statistics, and nothing to tell apart
    torso = Torso(observation, hidden_sizes=())
    features = np.asarray(torso.apply({"params": params["params"]["encoder"].get("Torso_0", {})}, seen))
    assert np.isfinite(features).all()
    sees = {name: x for name, x in pool.items() if name != "action_mask"} if isinstance(pool, dict) else pool
    for i, j in [(0, 1), (2, 3)]:
        assert unlike(sees, i, j) == (features[i] != features[j]).any(), (observation, pool)
    if train:
        train_two_updates(config, agent, seen, sees)
        return "trained"
    return "looked at"


def train_two_updates(config, agent, seen, sees):
    result = jax.jit(jtrpo.make_train(config))(jax.random.key(0))
    assert np.asarray(result.metrics.samples.invalid).tolist() == [0, 0]
    assert (np.asarray(result.metrics.policy.kl) <= 0.005).all()
    state = result.state
    for leaf in jax.tree.leaves((state.policy_params, state.critic_params)):
        assert np.isfinite(leaf).all()
    # The head begins at zero, and may not have moved: what it reads is what tells observations apart.
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(x.dtype), state.policy_params)
    distribution = jax.device_get(agent.policy(state._replace(policy_params=moved), seen)[0])
    told = [leaf for leaf in jax.tree.leaves(distribution) if leaf.ndim and len(leaf) == SEEN]
    normalized = jax.device_get(agent.normalize(state, seen))
    normalized = (
        {k: v for k, v in normalized.items() if k != "action_mask"} if isinstance(normalized, dict) else normalized
    )
    # Where numbers are large, every tanh may be 1 to the last digit.
    small = all(np.abs(np.asarray(x, float)).max(initial=0.0) < 3.0 for x in jax.tree.leaves(normalized))
    for i, j in [(0, 1), (2, 3)]:
        if small and unlike(sees, i, j) and unlike(normalized, i, j):
            assert any((leaf[i] != leaf[j]).any() for leaf in told), (config.environment.observation_space, seen)


def fuzz(examples, one_in):
    became = []

    @hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(
        drawn, drawn, st.booleans(), st.sampled_from(["dict", "ordered", "named", "list"]), st.integers(0, 99)
    )
    def one(observation, action, masked, form, seed):
        train = len([each for each in became if each != "refused"]) % one_in == 0
        became.append(try_spaces(observation, action, masked, form, seed, train))

    one()
    return became


@pytest.mark.slow
@pytest.mark.parametrize(
    ("examples", "one_in"), [(40, 10), pytest.param(200, 40, marks=pytest.mark.long)], ids=["some", "many"]
)
def test_every_drawn_pair_of_spaces_trains_or_is_refused_by_name(examples, one_in, request):
    became = fuzz(5000 if request.config.getoption("--long") else examples, one_in)
    assert became.count("trained") >= 2
    assert became.count("refused") < 0.8 * len(became)
