"""Batches, parameters and distributions that a pipeline of one's own may give an update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo import UpdateStatus
from jtrpo.core.vine import all_actions_objective

B = 16
KEYS = jax.random.split(jax.random.key(0), 4)
OBSERVATION = jax.random.normal(KEYS[0], (B, 4))
PARAMS = jax.random.normal(KEYS[1], (4, 3)) / 10
ACTION = jax.random.randint(KEYS[2], (B,), 0, 3)
BATCH = jtrpo.Batch(OBSERVATION, ACTION, OBSERVATION[:, 0])
EVERY_ACTION = jtrpo.Batch(OBSERVATION, jnp.tile(jnp.arange(3), (B, 1)), jax.random.normal(KEYS[3], (B, 3)))


def policy(params, observation):
    return jtrpo.Categorical(observation @ params)


def on_the_sphere(params, observation):
    """No derivative at an observation of zero."""
    return policy(params, observation / jnp.linalg.norm(observation, axis=-1, keepdims=True))


@jax.tree_util.register_pytree_node_class
class LogNormal:
    """No density at an action of zero."""

    def __init__(self, mean):
        self.mean = mean

    def tree_flatten(self):
        return (self.mean,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def log_prob(self, action):
        return -jnp.square(jnp.log(action) - self.mean) / 2 - jnp.log(action)

    def sample(self, key):
        return jnp.exp(self.mean + jax.random.normal(key, self.mean.shape))

    def entropy(self):
        return self.mean + 1.4189

    def mode(self):
        return jnp.exp(self.mean - 1)

    def kl(self, other):
        return jnp.square(self.mean - other.mean) / 2


def log_normal(params, observation):
    return LogNormal(observation @ params[:, 0])


@pytest.mark.parametrize("garbage", [0.0, 5.0, jnp.nan, 1e38])
@pytest.mark.parametrize(
    ("own", "batch"),
    [(on_the_sphere, BATCH), (log_normal, BATCH._replace(action=jnp.exp(OBSERVATION[:, 1])))],
    ids=["observation", "action"],
)
def test_padding_changes_nothing_where_zero_has_no_derivative(own, batch, garbage):
    pad = lambda x: jnp.concatenate([jnp.full((2, *x.shape[1:]), garbage, x.dtype), x])  # noqa: E731
    padded = jax.tree.map(pad, batch._replace(log_prob=None, weight=None))
    padded = padded._replace(weight=jnp.ones(B + 2).at[:2].set(0.0))
    alone, info = jax.jit(lambda batch: jtrpo.trpo_update(own, PARAMS, batch))(batch)
    new, padded_info = jax.jit(lambda batch: jtrpo.trpo_update(own, PARAMS, batch))(padded)
    assert info.accepted
    assert padded_info.accepted, UpdateStatus(int(padded_info.status))
    np.testing.assert_allclose(new, alone, rtol=1e-4, atol=1e-6)
    products = [
        jtrpo.fisher_vector_product(own, PARAMS, observation, PARAMS, weight=weight)
        for observation, weight in ((batch.observation, None), (padded.observation, padded.weight))
    ]
    np.testing.assert_allclose(*products, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_diagonal_preconditioner_takes_parameters_of_any_size(dtype, x64):
    params = {"first": PARAMS.astype(dtype), "second": PARAMS.astype(jnp.float32)}
    own = lambda p, observation: policy(p["first"] + p["second"].astype(dtype), observation.astype(dtype))  # noqa: E731
    new, info = jtrpo.trpo_update(own, params, BATCH, preconditioner="diagonal")
    assert info.accepted
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, params)


@pytest.mark.parametrize("states", [B, 3])
def test_action_values_are_normalised_within_their_state_by_any_objective(states):
    batch = jax.tree.map(lambda x: x[:states], EVERY_ACTION)
    objectives = {
        "own": lambda *both: all_actions_objective(*both),
        "with_entropy": jtrpo.with_entropy(all_actions_objective, 0.0),
        "public": all_actions_objective,
    }
    found = [jtrpo.trpo_update(policy, PARAMS, batch, objective=each)[0] for each in objectives.values()]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    advantage = jtrpo.linearize(policy, PARAMS, batch).batch.advantage
    np.testing.assert_allclose(advantage.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.square(advantage).mean(), 1, rtol=1e-5)


def test_the_natural_policy_gradient_checks_its_settings_as_trpo_does():
    update = jax.jit(
        lambda **settings: jtrpo.natural_policy_gradient_update(policy, PARAMS, BATCH, **settings)[1].status
    )
    for settings in ({"cg_damping": -0.01}, {"max_kl": 0.0}, {"max_kl": jnp.inf}):
        assert update(**settings) == UpdateStatus.OUT_OF_RANGE, settings
    assert update(max_kl=0.01) == UpdateStatus.ACCEPTED
    with pytest.raises(ValueError, match="cg_iterations must be a whole number of at least 1; got 0"):
        jtrpo.natural_policy_gradient_update(policy, PARAMS, BATCH, cg_iterations=0)
    with pytest.raises(ValueError, match=r"batch.advantage must have shape \[B\]"):
        jtrpo.natural_policy_gradient_update(policy, PARAMS, EVERY_ACTION)


def test_a_subset_keeps_what_all_samples_of_the_acting_policy_share():
    own = lambda params, observation: jtrpo.DiagGaussian(observation @ params["w"], params["log_std"])  # noqa: E731
    params = {"w": PARAMS, "log_std": jnp.zeros(3)}
    acting = own({"w": PARAMS + 0.01, "log_std": jnp.full(3, 0.1)}, OBSERVATION)
    batch = BATCH._replace(action=acting.sample(jax.random.key(1)))
    some = jtrpo.linearize(own, params, batch, acting=acting).subset(0.5)
    np.testing.assert_array_equal(some.acting.log_std, acting.log_std)
    kl = some.measure(params, jtrpo.likelihood_ratio).kl
    np.testing.assert_allclose(kl, some.acting.kl(own(params, some.batch.observation)).mean(), rtol=1e-6)


class NotAPytree(LogNormal):
    """Not registered."""


@jax.tree_util.register_pytree_node_class
class Masked(LogNormal):
    """Holds a mask."""

    def __init__(self, mean, mask=None):
        self.mean, self.mask = mean, mask

    def tree_flatten(self):
        return (self.mean, self.mask), None


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (lambda p, o: NotAPytree(o @ p[:, 0]), "NotAPytree.* at its root: register its class"),
        (lambda p, o: Masked(o @ p[:, 0], o[:, 0] > 0), r"bool\[16\] at .*1.*: .*put a mask into the logits"),
    ],
)
def test_a_distribution_that_cannot_be_differentiated_is_refused_in_words(own, words):
    with pytest.raises(TypeError, match=words):
        jtrpo.trpo_update(own, PARAMS, BATCH._replace(action=jnp.exp(OBSERVATION[:, 1])))
