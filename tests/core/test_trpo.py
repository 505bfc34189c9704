from functools import partial

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jtrpo import Batch, Categorical, DiagGaussian, TRPOInfo, UpdateStatus, mean_kl, trpo_update
from jtrpo.core.batch import stratified

OBSERVATION, HIDDEN, ACTIONS, DIMENSIONS = 3, 4, 3, 2


def mlp(params, observation):
    return jnp.tanh(observation @ params["w1"] + params["b1"][None]) @ params["w2"] + params["b2"][None]


def categorical_policy(params, observation):
    return Categorical(mlp(params, observation))


def gaussian_policy(params, observation):
    return DiagGaussian(mlp(params, observation), params["log_std"])


POLICIES = {"categorical": categorical_policy, "gaussian": gaussian_policy}
# Every number is passed, and so traced: one compilation serves all tests of the same shapes.
NUMBERS = {
    "max_kl": 0.01,
    "cg_iterations": 10,
    "cg_damping": 0.1,
    "cg_tolerance": 1e-5,
    "backtrack_factor": 0.8,
    "max_backtracks": 10,
    "entropy_coefficient": 0.0,
}
jitted_update = jax.jit(trpo_update, static_argnames=("policy", "fisher_fraction", "normalize_advantage"))


def update(policy, params, batch, **settings):
    return jitted_update(policy, params, batch, **(NUMBERS | settings))


# The reference: NumPy in float64, dense matrices, every derivative by hand.


class Reference:
    names = ("b1", "b2", "log_std", "w1", "w2")

    def __init__(self, params):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.gaussian = "log_std" in params
        self.names = [name for name in self.names if name in params]

    def ravel(self, tree):
        return np.concatenate([np.asarray(tree[name], np.float64).ravel() for name in self.names])

    def moved(self, step):
        new, start = {}, 0
        for name in self.names:
            old = self.params[name]
            new[name] = old + step[start : start + old.size].reshape(old.shape)
            start += old.size
        return Reference(new)

    def forward(self, x):
        """Network outputs [B, K] (for the Gaussian followed by log_std) and their Jacobian [B, K, P]."""
        w1, b1, w2, b2 = (self.params[name] for name in ("w1", "b1", "w2", "b2"))
        h = np.tanh(x @ w1 + b1)
        z = h @ w2 + b2
        (size, k), slope = z.shape, 1 - h**2
        columns = {
            "b1": np.einsum("bh,hk->bkh", slope, w2),
            "b2": np.broadcast_to(np.eye(k), (size, k, k)),
            "w1": np.einsum("bi,bh,hk->bkih", x, slope, w2),
            "w2": np.einsum("bh,kl->bkhl", h, np.eye(k)),
        }
        if self.gaussian:
            columns["log_std"] = np.zeros((size, k, k))
        jacobian = np.concatenate([columns[name].reshape(size, k, -1) for name in self.names], axis=-1)
        if self.gaussian:
            columns = {name: np.zeros((size, k, column[0, 0].size)) for name, column in columns.items()}
            columns["log_std"] = np.broadcast_to(np.eye(k), (size, k, k))
            rows = np.concatenate([columns[name] for name in self.names], axis=-1)
            jacobian = np.concatenate([jacobian, rows], axis=1)
            z = np.concatenate([z, np.broadcast_to(self.params["log_std"], (size, k))], axis=1)
        return z, jacobian

    def log_p(self, z):
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def split(self, z):
        return z[:, : z.shape[1] // 2], z[:, z.shape[1] // 2 :]

    def log_prob(self, x, action):
        z, _ = self.forward(x)
        if not self.gaussian:
            return self.log_p(z)[np.arange(len(x)), action]
        mean, log_std = self.split(z)
        return (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)

    def score(self, x, action):
        """Gradient of log_prob in the outputs."""
        z, _ = self.forward(x)
        if not self.gaussian:
            return np.eye(z.shape[1])[action] - np.exp(self.log_p(z))
        mean, log_std = self.split(z)
        return np.concatenate([(action - mean) / np.exp(2 * log_std), ((action - mean) / np.exp(log_std)) ** 2 - 1], 1)

    def entropy(self, x):
        """Entropy [B] and its gradient in the outputs."""
        z, _ = self.forward(x)
        if not self.gaussian:
            log_p = self.log_p(z)
            entropy = -(np.exp(log_p) * log_p).sum(-1)
            return entropy, -np.exp(log_p) * (log_p + entropy[:, None])
        mean, log_std = self.split(z)
        entropy = (log_std + 0.5 * np.log(2 * np.pi * np.e)).sum(-1)
        return entropy, np.concatenate([np.zeros_like(mean), np.ones_like(log_std)], 1)

    def kl(self, new, x):
        """KL(self || new), [B]."""
        z, other = self.forward(x)[0], new.forward(x)[0]
        if not self.gaussian:
            log_p, log_q = self.log_p(z), self.log_p(other)
            return (np.exp(log_p) * (log_p - log_q)).sum(-1)
        (m, s), (n, t) = self.split(z), self.split(other)
        return (t - s + (np.exp(2 * s) + (m - n) ** 2) / (2 * np.exp(2 * t)) - 0.5).sum(-1)

    def fisher(self, x, weight):
        z, jacobian = self.forward(x)
        if self.gaussian:
            _, log_std = self.split(z)
            diagonal = np.concatenate([np.exp(-2 * log_std), np.full_like(log_std, 2)], 1)
            metric = diagonal[:, :, None] * np.eye(z.shape[1])
        else:
            p = np.exp(self.log_p(z))
            metric = p[:, :, None] * np.eye(z.shape[1]) - p[:, :, None] * p[:, None, :]
        return np.einsum("b,bkp,bkl,blq->pq", weight, jacobian, metric, jacobian)


def cg_loop(matrix, b, iterations, tolerance):
    x, r, p, k = np.zeros_like(b), b.copy(), b.copy(), 0
    while k < iterations and np.linalg.norm(r) > tolerance * np.linalg.norm(b):
        alpha = (r @ r) / (p @ matrix @ p)
        x, previous = x + alpha * p, r @ r
        r = b - matrix @ x
        p = r + (r @ r) / previous * p
        k += 1
    return x, k


def reference_update(
    old, x, action, advantage, log_prob, weight, *, max_kl=0.01, cg_iterations=10, cg_damping=0.1, cg_tolerance=1e-5,
    backtrack_factor=0.8, max_backtracks=10, entropy_coefficient=0.0, fisher_rows=slice(None), normalize=True,
):  # fmt: skip
    w = weight / weight.sum()
    if normalize:
        mean = w @ advantage
        advantage = (advantage - mean) / (np.sqrt(w @ (advantage - mean) ** 2) + 1e-8)

    def objective(policy):
        ratio = np.exp(policy.log_prob(x, action) - log_prob)
        return w @ (ratio * advantage + entropy_coefficient * policy.entropy(x)[0])

    _, jacobian = old.forward(x)
    ratio = np.exp(old.log_prob(x, action) - log_prob)
    slope = (ratio * advantage)[:, None] * old.score(x, action) + entropy_coefficient * old.entropy(x)[1]
    g = np.einsum("b,bk,bkp->p", w, slope, jacobian)
    fisher = old.fisher(x[fisher_rows], weight[fisher_rows] / weight[fisher_rows].sum())
    damped = fisher + cg_damping * np.eye(len(g))
    direction, iterations = cg_loop(damped, g, cg_iterations, cg_tolerance)
    full = np.sqrt(2 * max_kl / (direction @ damped @ direction)) * direction

    backtracks, accepted, new = 0, False, old
    for k in range(max_backtracks):
        candidate = old.moved(backtrack_factor**k * full)
        if w @ old.kl(candidate, x) <= max_kl and objective(candidate) > objective(old):
            accepted, new = True, candidate
            break
        backtracks += 1
    step = new.ravel(new.params) - old.ravel(old.params)
    return new, {
        "objective_before": objective(old),
        "objective_after": objective(new),
        "predicted_improvement": g @ step,
        "kl": w @ old.kl(new, x),
        "kl_max": old.kl(new, x)[w > 0].max(),
        "entropy": w @ new.entropy(x)[0],
        "gradient_norm": np.linalg.norm(g),
        "cg_residual": np.linalg.norm(g - damped @ direction) / np.linalg.norm(g),
        "cg_iterations": iterations,
        "curvature": direction @ fisher @ direction,
        "step_size": np.linalg.norm(step),
        "backtracks": backtracks,
        "accepted": accepted,
    }


def make_params(kind, rng, scale=1.0):
    outputs = ACTIONS if kind == "categorical" else DIMENSIONS
    shapes = {"w1": (OBSERVATION, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, outputs), "b2": (outputs,)}
    shapes |= {} if kind == "categorical" else {"log_std": (outputs,)}
    params = {name: scale * rng.normal(size=shape) for name, shape in shapes.items()}
    if kind == "gaussian":
        params["log_std"] = np.clip(0.3 * params["log_std"], -1, 1)
    return params


def make_problem(kind, size=12, seed=0):
    """Parameters, and a batch collected by others nearby."""
    rng = np.random.default_rng(seed)
    params, behaviour = make_params(kind, rng), None
    behaviour = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in params.items()}
    x = rng.normal(size=(size, OBSERVATION))
    action = rng.integers(ACTIONS, size=size) if kind == "categorical" else rng.normal(size=(size, DIMENSIONS))
    advantage = 2 + 3 * rng.normal(size=size)
    weight = rng.integers(0, 4, size=size).astype(float)
    weight[0], weight[1] = 0, 1
    return params, Batch(x, action, advantage, Reference(behaviour).log_prob(x, action), weight)


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if np.issubdtype(x.dtype, np.floating) else None), tree)


@pytest.fixture(params=["categorical", "gaussian"])
def kind(request):
    return request.param


CASES = {
    "defaults": {},
    "entropy bonus, no normalisation": {"entropy_coefficient": 0.5, "normalize": False},
    "few iterations, no damping": {"cg_iterations": 3, "cg_damping": 0.0},
    "loose tolerance": {"cg_tolerance": 0.3},
    "backtracking": {"max_kl": 0.3, "cg_iterations": 6, "cg_damping": 0.01, "backtrack_factor": 0.6},
    "refused": {"max_kl": 0.3, "cg_iterations": 6, "cg_damping": 0.01, "max_backtracks": 1},
    "Fisher on a quarter": {"fisher_fraction": 0.25},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_one_update_agrees_with_a_dense_numpy_reference(kind, case):
    settings = dict(CASES[case])
    params, batch = make_problem(kind)
    old = Reference(params)
    size, fraction = len(batch[0]), settings.pop("fisher_fraction", 1.0)
    rows = np.asarray(stratified(jnp.arange(size), None, size, fraction)[0])
    new, expected = reference_update(old, *batch, fisher_rows=rows, **settings)
    if case == "backtracking":
        assert 0 < expected["backtracks"] < 10
    assert expected["accepted"] == (case != "refused")

    normalize = settings.pop("normalize", True)
    actual, info = update(
        POLICIES[kind], params, batch, **settings, normalize_advantage=normalize, fisher_fraction=fraction
    )
    actual, wanted = old.ravel(actual), old.ravel(new.params)
    assert np.linalg.norm(actual - wanted) <= 1e-9 * np.linalg.norm(wanted)
    if case != "refused":
        step = wanted - old.ravel(params)
        assert np.linalg.norm(actual - wanted) <= 1e-8 * np.linalg.norm(step)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(info, name), value, rtol=1e-7, atol=1e-10, err_msg=name)
    if case == "refused":
        np.testing.assert_array_equal(actual, old.ravel(params))
        assert info.status in (UpdateStatus.KL_EXCEEDED, UpdateStatus.NO_IMPROVEMENT)
    else:
        assert info.status == UpdateStatus.ACCEPTED


def two_armed_policy(logits, observation):
    return Categorical(jnp.broadcast_to(logits[None], (observation.shape[0], 2)))


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_two_armed_example_raises_the_probability_and_keeps_the_trust_region(both, scale):
    logits = jnp.log(jnp.array([0.20, 0.80])) + scale
    action, advantage = (jnp.array([0, 1]), jnp.array([10.0, 0.0])) if both else (jnp.array([0]), jnp.array([10.0]))
    batch = Batch(jnp.zeros((len(action), 1)), action, advantage)
    new, info = update(two_armed_policy, logits, batch, max_kl=0.01, normalize_advantage=False)
    p = np.exp(np.float64(new)) / np.exp(np.float64(new)).sum()
    assert 0.22 < p[0] < 0.27
    kl = 0.2 * np.log(0.2 / p[0]) + 0.8 * np.log(0.8 / p[1])
    assert 0.005 < kl <= 0.01 * (1 + 1e-4)
    np.testing.assert_allclose(info.kl, kl, rtol=1e-3)
    assert info.accepted


SIZE = 12
finite_scale = st.floats(-3, 3).map(lambda x: 10.0**x)


@hypothesis.given(
    kind=st.sampled_from(list(POLICIES)),
    seed=st.integers(0, 10_000),
    advantage_scale=finite_scale,
    params_scale=st.floats(0.1, 3),
    max_kl=st.floats(-5, 0.5).map(lambda x: 10.0**x),
    cg_damping=st.sampled_from([0.0, 1e-3, 0.1]),
    max_backtracks=st.sampled_from([1, 10]),
    padding=st.integers(0, SIZE - 2),
)
def test_an_accepted_step_is_finite_inside_the_trust_region_and_better_and_a_refused_one_is_none(
    kind, seed, advantage_scale, params_scale, max_kl, cg_damping, max_backtracks, padding
):
    params = as_float32(make_params(kind, np.random.default_rng(seed), params_scale))
    old = Reference(params)
    _, batch = make_problem(kind, SIZE, seed)
    if kind == "gaussian":  # actions of this policy, at any scale of its parameters
        mean, log_std = old.split(old.forward(batch.observation)[0])
        batch = batch._replace(action=mean + np.exp(log_std) * batch.action)
    w = (np.arange(SIZE) >= padding) / (SIZE - padding)
    batch = as_float32(batch._replace(advantage=advantage_scale * batch.advantage, weight=w))
    x, action = np.float64(batch.observation), np.asarray(batch.action)
    batch = batch._replace(log_prob=jnp.float32(old.log_prob(x, action)))
    new, info = update(
        POLICIES[kind], params, batch, max_kl=max_kl, cg_damping=cg_damping, max_backtracks=max_backtracks
    )
    assert info.accepted == (info.status == UpdateStatus.ACCEPTED)
    if not info.accepted:
        jax.tree.map(np.testing.assert_array_equal, new, params)
        assert (info.kl, info.kl_max, info.step_size, info.predicted_improvement) == (0, 0, 0, 0)
        assert info.objective_after == info.objective_before
        return
    after = Reference(new)
    assert np.all(np.isfinite(after.ravel(new)))
    kl = w @ old.kl(after, x)
    rounding = 1e-5 * (max_kl + np.sqrt(2 * max_kl))  # of float32 logits, through d(KL) ~ |d| delta
    assert kl <= max_kl + rounding
    assert info.kl <= np.float32(max_kl)
    assert abs(info.kl - kl) <= rounding
    assert info.kl_max >= info.kl * (1 - 1e-5)
    assert info.objective_after > info.objective_before
    advantage = np.float64(batch.advantage)
    advantage = (advantage - w @ advantage) / np.sqrt(w @ (advantage - w @ advantage) ** 2)
    ratio = np.exp(after.log_prob(x, action) - old.log_prob(x, action))
    improvement = w @ ((ratio - 1) * advantage)
    assert improvement > -1e-5 * (w @ np.abs(ratio * advantage))
    np.testing.assert_allclose(info.objective_after - info.objective_before, improvement, rtol=1e-3, atol=1e-5)


@pytest.fixture
def problem32(kind):
    params, batch = make_problem(kind)
    return POLICIES[kind], as_float32(params), as_float32(batch)


@pytest.fixture
def problem64(kind, x64):
    return POLICIES[kind], *make_problem(kind)


categorical_only = pytest.mark.parametrize("kind", ["categorical"], indirect=True)
gaussian_only = pytest.mark.parametrize("kind", ["gaussian"], indirect=True)


def assert_close(actual, expected, rtol):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol), actual, expected)


def assert_refused(result, params, status):
    new, info = result
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32)),
        new,
        params,
    )
    assert not info.accepted
    assert UpdateStatus(int(info.status)) == status
    assert info.step_size == 0


def test_constant_advantages_change_nothing(problem32):
    policy, params, batch = problem32
    for value in (0.0, 0.1, -3.7, 1e5):
        constant = batch._replace(advantage=jnp.full_like(batch.advantage, value))
        assert_refused(update(policy, params, constant), params, UpdateStatus.ZERO_GRADIENT)


@gaussian_only
def test_one_sample_changes_nothing_when_normalised_and_improves_when_not(problem32):
    policy, params, batch = problem32
    one = jax.tree.map(lambda x: x[1:2], batch)
    assert_refused(update(policy, params, one), params, UpdateStatus.ZERO_GRADIENT)
    new, info = update(policy, params, one, normalize_advantage=False)
    assert info.accepted
    before, after = (Reference(p).log_prob(*map(np.asarray, one[:2]))[0] for p in (params, new))
    assert (after > before) == (one.advantage[0] > 0)


@categorical_only
def test_a_gradient_that_is_zero_changes_nothing(problem32):
    policy, params, batch = problem32

    def indifferent(params, observation):
        return policy(jax.tree.map(lambda p: 0 * p, params), observation)

    assert_refused(update(indifferent, params, batch), params, UpdateStatus.ZERO_GRADIENT)


def test_all_zero_weights_change_nothing(problem32):
    policy, params, batch = problem32
    result = update(policy, params, batch._replace(weight=jnp.zeros_like(batch.weight)))
    assert_refused(result, params, UpdateStatus.ZERO_GRADIENT)
    assert np.all(np.isfinite(jax.tree.leaves(result[1])))


def test_a_ratio_that_overflows_changes_nothing(problem32):
    policy, params, batch = problem32
    result = update(policy, params, batch._replace(log_prob=batch.log_prob.at[1].set(-1e4)))
    assert_refused(result, params, UpdateStatus.NON_FINITE_GRADIENT)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("entry", ["observation", "action", "advantage", "log_prob", "weight"])
def test_a_batch_entry_that_is_not_finite_changes_nothing_and_the_status_says_why(problem32, entry, value):
    policy, params, batch = problem32
    array = getattr(batch, entry)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.at[1].set(ACTIONS)  # no number that is not finite, but no such action either
    else:
        array = array.at[(1,) + (0,) * (array.ndim - 1)].set(value)
    result = update(policy, params, batch._replace(**{entry: array}))
    assert_refused(result, params, UpdateStatus.NON_FINITE_GRADIENT)


@pytest.mark.parametrize("entry", ["observation", "action", "advantage", "log_prob"])
def test_a_nan_in_a_sample_of_weight_zero_changes_nothing_of_the_update(problem32, entry):
    policy, params, batch = problem32
    array = getattr(batch, entry)
    assert batch.weight[0] == 0
    array = array.at[0].set(jnp.nan if jnp.issubdtype(array.dtype, jnp.floating) else ACTIONS)
    expected, _ = update(policy, params, batch)
    actual, info = update(policy, params, batch._replace(**{entry: array}))
    assert info.accepted
    assert_close(actual, expected, 1e-5)


@gaussian_only
def test_no_positive_curvature_changes_nothing(problem32):
    policy, params, batch = problem32

    class Flat(type(policy(params, batch.observation))):
        def kl(self, other):
            return -super().kl(other)

    jax.tree_util.register_pytree_node(Flat, lambda d: (tuple(d), None), lambda _, leaves: Flat(*leaves))
    result = update(lambda p, o: Flat(*policy(p, o)), params, batch, cg_damping=0.0)
    assert_refused(result, params, UpdateStatus.BAD_CURVATURE)


def test_masked_actions_stay_impossible_and_do_not_poison_the_update():
    params, batch = map(as_float32, make_problem("categorical"))
    legal = np.arange(ACTIONS)[None] != (np.asarray(batch.action)[:, None] + 1) % ACTIONS

    def policy(params, observation):
        return Categorical(jnp.where(observation["legal"], mlp(params, observation["x"]), -jnp.inf))

    masked = Batch({"x": batch.observation, "legal": legal}, batch.action, batch.advantage)
    new, info = update(policy, params, masked)
    assert info.accepted
    assert np.all(np.isfinite(jax.tree.leaves(info)))
    log_prob = jax.jit(lambda action: policy(new, masked.observation).log_prob(action))
    p = np.exp(np.stack([log_prob(np.full(12, action)) for action in range(ACTIONS)], axis=1))
    assert np.all(p[~legal] == 0)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


def test_objective_before_is_zero_with_the_policys_own_log_probabilities_and_none_means_them(problem64):
    policy, params, batch = problem64
    own = Reference(params).log_prob(batch.observation, batch.action)
    given, given_info = update(policy, params, batch._replace(log_prob=own))
    left_out, left_out_info = update(policy, params, batch._replace(log_prob=None))
    assert abs(given_info.objective_before) < 1e-14
    assert abs(left_out_info.objective_before) < 1e-14
    assert_close(given, left_out, 1e-9)
    _, stored_info = update(policy, params, batch)  # of another behaviour policy
    assert abs(stored_info.objective_before) > 1e-3


@gaussian_only
def test_padding_changes_nothing(problem64):
    policy, params, batch = problem64
    padding = batch.weight == 0
    assert padding.sum() > 1
    plain = jax.tree.map(lambda x: x[~padding], batch._replace(weight=None))
    junk = jax.tree.map(lambda x: np.where(padding.reshape(-1, *[1] * (x.ndim - 1)), 1, x), batch)
    junk = junk._replace(weight=1.0 - padding)
    expected = update(policy, params, plain)
    assert expected[1].accepted
    assert_close(update(policy, params, batch._replace(weight=1.0 - padding)), expected, 1e-8)
    assert_close(update(policy, params, junk), expected, 1e-8)


@categorical_only
def test_means_over_a_mapped_axis_equal_those_of_the_whole_batch(problem64):
    policy, params, batch = problem64
    halves = jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), batch)
    assert halves.weight[0].sum() != halves.weight[1].sum()
    expected = update(policy, params, batch, entropy_coefficient=0.1)
    assert expected[1].accepted
    part = partial(trpo_update, policy, entropy_coefficient=0.1, axis_name="i")
    parts = jax.jit(jax.vmap(part, in_axes=(None, 0), axis_name="i"))(params, halves)
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], parts), expected, 1e-8)


@gaussian_only
def test_a_second_call_compiles_nothing(problem32):
    policy, params, batch = problem32
    traces = 0

    def counted(params, observation):
        nonlocal traces
        traces += 1
        return policy(params, observation)

    step = jax.jit(lambda p, b, max_kl: trpo_update(counted, p, b, max_kl=max_kl))
    new, _ = step(params, batch, 0.01)
    once = traces
    again, _ = step(new, batch._replace(advantage=-batch.advantage), 0.02)
    assert traces == once > 0
    assert step._cache_size() == 1
    assert not np.array_equal(again["w1"], new["w1"])


@gaussian_only
def test_a_mapped_update_equals_a_loop(problem64):
    policy, params, batch = problem64
    settings = {
        "max_kl": jnp.array([1e-4, 0.01, 0.3]),
        "cg_iterations": jnp.array([2, 10, 6]),
        "cg_damping": jnp.array([0.1, 0.1, 0.01]),
        "cg_tolerance": jnp.array([1e-5, 0.1, 0.0]),
        "max_backtracks": jnp.array([10, 10, 1]),
        "backtrack_factor": jnp.array([0.8, 0.5, 0.8]),
        "entropy_coefficient": jnp.array([0.0, 0.1, 0.0]),
    }
    mapped = jax.jit(jax.vmap(lambda s: trpo_update(policy, params, batch, **s)))(settings)
    np.testing.assert_array_equal(mapped[1].accepted, [True, True, False])
    for i in range(3):
        alone = update(policy, params, batch, **{name: value[i].item() for name, value in settings.items()})
        assert_close(jax.tree.map(lambda x, i=i: x[i], mapped), alone, 1e-8)


def improvement(policy, params, batch):
    new, info = update(policy, params, batch._replace(log_prob=None))
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert info.accepted
    log_prob = jax.jit(lambda p: policy(p, batch.observation).log_prob(batch.action))
    weight, advantage = np.asarray(batch.weight), np.asarray(batch.advantage)
    ratio = np.exp(np.asarray(log_prob(new)) - np.asarray(log_prob(params)))
    return (weight * (ratio - 1) * (advantage - np.average(advantage, weights=weight))).sum()


def test_a_policy_written_by_hand_improves(problem64):
    assert improvement(*problem64) > 1e-3


def test_a_flax_nnx_policy_improves():
    _, batch = map(as_float32, make_problem("categorical"))

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(OBSERVATION, HIDDEN, rngs=rngs)
            self.out = nnx.Linear(HIDDEN, ACTIONS, rngs=rngs)

        def __call__(self, x):
            return Categorical(self.out(nnx.tanh(self.hidden(x))))

    graphdef, state = nnx.split(Network(nnx.Rngs(0)))
    assert improvement(lambda params, observation: nnx.merge(graphdef, params)(observation), state, batch) > 1e-3


@gaussian_only
@pytest.mark.parametrize("case", ["float64 batch", "float64 settings", "no weights"])
def test_float32_parameters_stay_float32_under_x64(problem32, x64, case):
    policy, params, batch = problem32
    _, wide = make_problem("gaussian")
    _, expected = reference_update(
        Reference(params), *wide._replace(weight=np.ones(12) if case == "no weights" else wide.weight)
    )
    batch = {"float64 batch": wide, "no weights": batch._replace(weight=None)}.get(case, batch)
    settings = {name: np.asarray(value) for name, value in NUMBERS.items()} if case == "float64 settings" else {}
    new, info = update(policy, params, batch, **settings)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.float32)}
    assert info.accepted
    np.testing.assert_allclose(info.objective_before, expected["objective_before"], rtol=1e-4)
    np.testing.assert_allclose(info.objective_after, expected["objective_after"], rtol=1e-2)
    np.testing.assert_allclose(info.kl, expected["kl"], rtol=1e-2)


@gaussian_only
@pytest.mark.usefixtures("x64")
def test_parameters_of_several_dtypes_keep_them(kind):
    params, batch = make_problem(kind)
    params |= {"w1": np.float32(params["w1"]), "b2": np.float32(params["b2"])}
    new, info = update(POLICIES[kind], params, batch)
    assert info.accepted
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, params)
    _, expected = reference_update(Reference(params), *batch)
    np.testing.assert_allclose(info.objective_after, expected["objective_after"], rtol=1e-4)


@gaussian_only
@pytest.mark.usefixtures("x64")
def test_the_exact_inverse_as_preconditioner_solves_in_one_iteration(kind):
    params, batch = make_problem(kind)
    old, (_, unravel) = Reference(params), ravel_pytree(jax.tree.map(jnp.asarray, params))
    inverse = np.linalg.inv(
        old.fisher(batch.observation, batch.weight / batch.weight.sum()) + 0.1 * np.eye(len(old.ravel(params)))
    )

    def precondition(v):
        return unravel(inverse @ ravel_pytree(v)[0])

    step = jax.jit(lambda p, b: trpo_update(POLICIES[kind], p, b, preconditioner=precondition, cg_iterations=50))
    new, info = step(params, batch)
    expected, _ = reference_update(old, *batch, cg_iterations=200, cg_tolerance=1e-13)
    assert info.cg_iterations == 1
    np.testing.assert_allclose(old.ravel(new), old.ravel(expected.params), rtol=1e-8)


ERRORS = [
    ({"max_kl": -0.01}, ValueError, "max_kl must be .*above 0.*got -0.01"),
    ({"max_kl": 0.0}, ValueError, "max_kl must be .*above 0.*got 0.0"),
    ({"max_kl": float("nan")}, ValueError, "max_kl must be a finite number.*got nan"),
    ({"max_kl": "0.01"}, TypeError, "max_kl must be .*got '0.01' of type str"),
    ({"cg_iterations": 0}, ValueError, "cg_iterations must be a whole number of at least 1; got 0"),
    ({"cg_iterations": 1.5}, TypeError, "cg_iterations must be a whole number.*got 1.5"),
    ({"cg_iterations": "3"}, TypeError, "cg_iterations must be a whole number.*got '3' of type str"),
    ({"cg_damping": -1.0}, ValueError, "cg_damping must be .*at least 0.*got -1.0"),
    ({"cg_tolerance": -1.0}, ValueError, "cg_tolerance must be .*at least 0.*got -1.0"),
    ({"backtrack_factor": 1.5}, ValueError, "backtrack_factor must be .*above 0 and below 1; got 1.5"),
    ({"backtrack_factor": 0.0}, ValueError, "backtrack_factor must be .*above 0 and below 1; got 0.0"),
    ({"max_backtracks": 0}, ValueError, "max_backtracks must be .*at least 1; got 0"),
    ({"entropy_coefficient": float("inf")}, ValueError, "entropy_coefficient must be a finite number.*got inf"),
    ({"fisher_fraction": 0}, ValueError, "fisher_fraction must be .*above 0 and at most 1; got 0"),
    ({"fisher_fraction": 1.01}, ValueError, "fisher_fraction must be .*above 0 and at most 1; got 1.01"),
]


@pytest.mark.parametrize(("settings", "error", "message"), ERRORS)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_wrong_setting_is_named_with_its_value_and_the_remedy(settings, error, message, jitted):
    params, batch = make_problem("categorical")
    call = partial(trpo_update, categorical_policy, **settings)
    with pytest.raises(error, match=f"^{message}"):
        (jax.jit(call) if jitted else call)(params, batch)


@pytest.mark.parametrize("jitted", [False, True])
def test_batch_entries_of_different_lengths_are_named(jitted):
    params, batch = make_problem("categorical")
    call = partial(trpo_update, categorical_policy)
    with pytest.raises(ValueError, match=r"^batch\.action must have the leading axis B = 12.*got shape \(11,\)"):
        (jax.jit(call) if jitted else call)(params, batch._replace(action=batch.action[:-1]))


@pytest.mark.parametrize("jitted", [False, True])
def test_a_policy_that_returns_an_array_is_named(jitted):
    call = partial(trpo_update, mlp)
    with pytest.raises(TypeError, match=r"^policy.*must return a distribution.*jtrpo\.Categorical"):
        (jax.jit(call) if jitted else call)(*make_problem("categorical"))


@pytest.mark.parametrize("name", ["fisher_fraction", "normalize_advantage"])
def test_a_traced_value_for_a_static_setting_is_named(name):
    params, batch = make_problem("categorical")
    with pytest.raises((TypeError, ValueError), match=f"^{name} .*static"):
        jax.jit(lambda value: trpo_update(categorical_policy, params, batch, **{name: value}))(True)


@pytest.mark.parametrize("name", ["max_kl", "cg_damping", "backtrack_factor", "entropy_coefficient", "fisher_fraction"])
def test_an_array_for_a_single_number_is_named(name):
    params, batch = make_problem("categorical")
    with pytest.raises((TypeError, ValueError), match=f"^{name} "):
        jax.eval_shape(partial(trpo_update, categorical_policy, **{name: np.array([0.1, 0.2])}), params, batch)


def test_a_distribution_without_the_batch_axis_is_named_instead_of_pairing_all_samples():
    params, batch = map(as_float32, make_problem("gaussian"))

    def policy(params, observation):
        d = gaussian_policy(params, observation)
        return DiagGaussian(d.mean[:, None], d.log_std)  # [B, 1, D]

    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match="policy"):  # JAX's default
        jax.eval_shape(partial(trpo_update, policy), params, batch)


def test_info_has_one_scalar_for_each_field(problem32):
    _, info = update(*problem32)
    assert isinstance(info, TRPOInfo)
    assert {np.shape(value) for value in info} == {()}
    assert info.accepted.dtype == bool


def test_the_kl_is_measured_from_the_policy_that_acted(x64):
    rng = np.random.default_rng(0)
    observation, params = jnp.asarray(rng.normal(size=(64, 3))), jnp.asarray(rng.normal(size=(3, 2)))
    policy = lambda params, observation: Categorical(observation @ params)  # noqa: E731
    acted = policy(params + 0.03 * rng.normal(size=(3, 2)), observation)
    action = acted.sample(jax.random.key(0))
    batch = Batch(observation, action, jnp.asarray(rng.normal(size=64)), acted.log_prob(action))
    new, info = trpo_update(policy, params, batch, acting=acted, max_kl=0.01)
    assert info.accepted
    np.testing.assert_allclose(info.kl, mean_kl(acted, policy(new, observation)), rtol=1e-12)
    assert info.kl <= 0.01
    np.testing.assert_allclose(info.kl_max, acted.kl(policy(new, observation)).max(), rtol=1e-12)
    without = trpo_update(policy, params, batch._replace(log_prob=None), acting=acted, max_kl=0.01)[0]
    np.testing.assert_allclose(without, new, rtol=1e-12)
    same, info = trpo_update(policy, params, batch, acting=acted, max_kl=1e-9)
    assert not info.accepted
    np.testing.assert_array_equal(same, params)
    np.testing.assert_allclose(info.kl, mean_kl(acted, policy(params, observation)), rtol=1e-12)
