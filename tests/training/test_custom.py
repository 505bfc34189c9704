"""Networks and functions of one's own in a training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

import jtrpo
from jtrpo.networks.network import over_sequences
from jtrpo.networks.recurrent import Sequences
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.training.custom import check_advantages
from jtrpo.training.trainer import make_collect
from tests.training.own_networks import KINDS, averaging, networks

SIZES = {"num_envs": 4, "num_steps": 8, "critic_epochs": 2, "critic_minibatches": 2, "total_timesteps": 64}
OWN = networks(averaging, hidden=(8,))


def config(**settings):
    return jtrpo.TrainConfig("CartPole-v1", **{**SIZES, **settings})


def counting(params, observation, memory):
    memory = memory + observation[:, 0]
    return memory * params, memory


def test_a_memory_is_stepped_through_time_and_begins_anew_with_each_episode():
    network = over_sequences(jtrpo.Network(None, counting, lambda batch: jnp.full((batch,), 10.0)))
    observation = jnp.arange(12.0).reshape(2, 6)  # two sequences of six steps
    start = jnp.zeros((2, 6), bool).at[0, 3].set(True).at[1, 0].set(True)
    carry = (jnp.array([1.0, 0.0]), jnp.array([100.0, 200.0]))  # the second was reset to zeros: an empty one is 10
    expected = np.empty((2, 6))
    for n, memory in enumerate((100.0, 10.0)):
        for t in range(6):
            memory = (10.0 if start[n, t] else memory) + float(observation[n, t])
            expected[n, t] = 2.0 * memory
    repeated = jax.tree.map(lambda x: jnp.repeat(x, 6), carry)
    whole = Sequences(observation.reshape(-1, 1), start.reshape(-1), repeated, length=6)
    output, (used, memory) = network.apply(jnp.float32(2.0), whole)
    np.testing.assert_allclose(output.reshape(2, 6), expected, rtol=1e-6)
    np.testing.assert_allclose(memory, output / 2.0, rtol=1e-6)
    assert (used == 1).all()


@pytest.fixture(scope="module")
def remembering():
    """A training with a memory of its own, two updates on, and what it collects next."""
    settings = config(**OWN)
    trainer = jtrpo.make_trainer(settings)
    step = jax.jit(trainer.step)
    state = jax.jit(trainer.init)(jax.random.key(0))
    for _ in range(2):
        state, metrics = step(state)
    return settings, state, metrics, jax.jit(make_collect(settings))(state)


def test_the_update_sees_what_the_rollout_saw_memory_included(remembering):
    settings, state, metrics, trajectory = remembering
    assert bool(metrics.policy.accepted)
    agent = jtrpo.make_agent(settings)
    distribution = jax.jit(agent.distribution)(state, trajectory)
    flat = lambda x: jnp.swapaxes(x, 0, 1).reshape(-1)  # noqa: E731
    np.testing.assert_allclose(distribution.log_prob(flat(trajectory.action)), flat(trajectory.log_prob), atol=1e-5)


def test_fisher_products_go_through_the_memory(remembering):
    settings, state, _, trajectory = remembering
    agent = jtrpo.make_agent(settings)
    seen = jax.jit(agent.policy_input)(state, trajectory)
    flat, unravel = ravel_pytree(state.policy_params)
    vector = jax.random.normal(jax.random.key(1), flat.shape)
    jacobian = jax.jit(jax.jacfwd(lambda x: agent.policy_network(unravel(x), seen).logits))(flat)
    probability = jax.nn.softmax(jax.jit(agent.policy_network)(state.policy_params, seen).logits)
    moved = jacobian @ vector
    curved = probability * (moved - jnp.sum(probability * moved, axis=-1, keepdims=True))
    expected = jnp.einsum("bap,ba->p", jacobian, curved) / len(probability)
    product = jax.jit(jtrpo.fisher_vector_product, static_argnums=0)(
        agent.policy_network, state.policy_params, seen, unravel(vector)
    )
    np.testing.assert_allclose(ravel_pytree(product)[0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=pytest.mark.slow if each in ("nnx", "equinox") else ()) for each in KINDS]
)
def test_networks_of_other_libraries_map_over_seeds_and_numbers(kind):
    train = jax.vmap(jax.vmap(jtrpo.make_train(config(**networks(KINDS[kind], hidden=(8,)))), (0, None)), (None, 0))
    numbers = jax.vmap(lambda kl: jtrpo.Hyperparams()._replace(max_kl=kl))(jnp.array([0.01, 0.02]))
    shapes = jax.eval_shape(train, jax.random.split(jax.random.key(0), 3), numbers)
    assert shapes.metrics.policy.kl.shape == (2, 3, 2)


def categorical(params, observation):
    return jtrpo.Categorical(observation @ params)


def one_value(params, observation):
    return observation @ params


INIT = lambda key, observation: jnp.zeros((4, 2))  # noqa: E731
INIT_VALUE = lambda key, observation: jnp.zeros((4,))  # noqa: E731
GOOD = jtrpo.Network(INIT, categorical)
WRONG = {
    "no network": ({"policy_network": categorical}, r"policy_network must be a jtrpo.Network\(init, apply\)"),
    "no function": ({"critic_network": jtrpo.Network(INIT, 3)}, r"critic_network.apply must be"),
    "no distribution": (
        {"policy_network": jtrpo.Network(INIT, lambda p, x: x @ p)},
        "policy_network.apply must return a dist",
    ),
    "another batch": (
        {"policy_network": jtrpo.Network(INIT, lambda p, x: jtrpo.Categorical((x @ p)[0]))},
        r"for 3 observations its .* has shape \(\)",
    ),
    "other actions": (
        {"policy_network": jtrpo.Network(INIT, lambda p, x: jtrpo.DiagGaussian(x @ p, x @ p))},
        r"returns a DiagGaussian; the action space Discrete\(2\) goes with jtrpo.Categorical\(logits\)(\n|$)",
    ),
    "another number of actions": (
        {"policy_network": jtrpo.Network(lambda k, x: jnp.zeros((4, 3)), categorical)},
        r"a Categorical over 3 choices; the action space is Discrete\(2\)",
    ),
    "no arrays": (
        {"policy_network": jtrpo.Network(lambda k, x: {"w": "a"}, categorical)},
        r"policy_network.init must return .*got str at params\['w'\]: keep what is not learned in apply",
    ),
    "whole numbers": (
        {"critic_network": jtrpo.Network(lambda k, x: {"n": jnp.arange(4)}, lambda p, x: x @ p["n"])},
        r"critic_network.init must return .*floating-point arrays.*got int32\[4\] at params\['n'\]",
    ),
    "no parameters": (
        {"policy_network": jtrpo.Network(lambda k, x: {}, lambda p, x: categorical(jnp.ones((4, 2)), x))},
        r"policy_network.init must return .*one at least; got {}",
    ),
    "squashed": (
        {"policy_network": jtrpo.Network(INIT, lambda p, x: jtrpo.TanhGaussian(x @ p, x @ p))},
        r"returns a TanhGaussian; the action space Discrete\(2\) goes with jtrpo.Categorical\(logits\)(\n|$)",
    ),
    "a column of values": (
        {"critic_network": jtrpo.Network(INIT, lambda p, x: x @ p)},
        r"one floating-point value for each observation, \[3\] for 3; got float32\[3, 2\]",
    ),
    "no memory returned": (
        {"policy_network": jtrpo.Network(INIT, lambda p, x, m: categorical(p, x), lambda batch: jnp.zeros(batch))},
        r"must return \(output, memory\), since it has an empty_memory; got Categorical",
    ),
    "a memory that changes": (
        {"critic_network": jtrpo.Network(INIT_VALUE, lambda p, x, m: (x @ p, x), lambda batch: jnp.zeros(batch))},
        r"critic_network.apply must return a memory like that of critic_network.empty_memory\(3\); "
        r"got float32\[3, 4\] in place of float32\[3\](\n|$)",
    ),
    "a memory of another type": (
        {
            "critic_network": jtrpo.Network(
                INIT_VALUE, lambda p, x, m: (x @ p, m + 0.5), lambda batch: jnp.zeros(batch, int)
            )
        },
        r"empty_memory\(3\); got float32\[3\] in place of int32\[3\](\n|$)",
    ),
    "a memory for one": (
        {"policy_network": jtrpo.Network(INIT, lambda p, x, m: (categorical(p, x + m), m), lambda batch: jnp.zeros(7))},
        r"policy_network.empty_memory\(batch\) must return arrays with a leading axis of batch; for 3 got float32\[7\]",
    ),
    "a memory that nothing takes": (
        {"critic_network": jtrpo.Network(INIT_VALUE, one_value, lambda batch: jnp.zeros(batch))},
        r"critic_network.apply must be .*\(params, observation, memory\).*an empty_memory; got one of \(params, observation\)",
    ),
    "a memory from nowhere": (
        {"policy_network": jtrpo.Network(INIT, lambda p, x, m: (categorical(p, x), m))},
        r"policy_network.apply must be .*has no empty_memory; got one of \(p, x, m\)",
    ),
    "init of one": (
        {"policy_network": jtrpo.Network(lambda key: jnp.zeros(2), categorical)},
        r"must be .*got one of \(key\)",
    ),
    "sequences in pieces": ({**OWN, "num_envs": 3, "critic_minibatches": 2}, "sequences stay whole"),
    "a memory of none": ({**OWN, "memory": "gru"}, "memory='gru' is of the built-in networks"),
    "a torso of none": ({"policy_network": GOOD, "shared_torso": True}, "shared_torso is of the built-in networks"),
    "objective": ({"objective": 3}, "objective must be"),
    "two objectives": (
        {"objective": jtrpo.likelihood_ratio, "sampling": "vine", "vine_states": 4, "vine_length": 1},
        "has an objective of its own",
    ),
    "an estimator of two": (
        {"advantage_estimator": lambda r, v: (r, v)},
        r"advantage_estimator must be a function, \(reward, value, .*gamma, gae_lambda\) -> .*; got one of \(r, v\)",
    ),
    "an estimator without ratios": (
        {"advantage_estimator": lambda r, v, n, e, t, *, gamma, gae_lambda: (r, v), "reuse": 2},
        r"advantage_estimator must be .*gamma, gae_lambda, ratio\) -> ",
    ),
    "an estimator of nothing": (
        {"advantage_estimator": lambda *all, gamma, gae_lambda: None},
        r"advantage_estimator must return .* of shape \[8, 4\] each; got NoneType",
    ),
    "objective of one": (
        {"objective": lambda d: 0},
        r"objective must be a function, \(distribution, batch\).*got one of \(d\)",
    ),
    "objective of all": (
        {"objective": lambda d, batch: batch.advantage.mean()},
        r"objective must return one floating-point number for each sample, \[B\] = \[32\]; got float32\[\]",
    ),
    "on_batch of one": (
        {"on_batch": lambda batch: batch},
        r"on_batch must be .*\(batch, state\).*got one of \(batch\)",
    ),
    "on_batch of nothing": (
        {"on_batch": lambda batch, state: None},
        "on_batch must return a batch like .*; got NoneType",
    ),
    "on_batch of whole numbers": (
        {"on_batch": lambda batch, state: batch._replace(advantage=jnp.sign(batch.advantage).astype(int))},
        r"on_batch must return .*; got int32\[32\] in place of float32\[32\] at .advantage",
    ),
    "parts of an array": ({"policy_observation": ("state",)}, "policy_observation names parts of a dictionary"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told_before_training(name):
    settings, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message):
        jtrpo.make_trainer(config(**settings))


@pytest.mark.slow
def test_estimator_objective_and_batch_are_those_given():
    def trained(gae_lambda, **settings):
        train = jax.jit(jtrpo.make_train(config(hidden_sizes=(8,), **settings)))
        result = train(jax.random.key(0), jtrpo.Hyperparams(gae_lambda=gae_lambda))
        return ravel_pytree(result.state.policy_params)[0]

    def one_step(reward, value, next_value, terminated, truncated, *, gamma, gae_lambda):
        target = reward + gamma * jnp.where(terminated, 0.0, next_value)
        return target - value, target

    # The wrong way with what is given, which the right way with one of them alone would not be.
    negated = lambda distribution, batch: -jtrpo.likelihood_ratio(distribution, batch)  # noqa: E731
    worse = trained(0.95, advantage_estimator=one_step, objective=negated)
    same = trained(0.0, on_batch=lambda batch, state: batch._replace(advantage=-batch.advantage))
    plain = trained(0.0)
    np.testing.assert_allclose(worse, same, atol=1e-5)
    assert np.linalg.norm(same - plain) > 0.1


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda r: (r.T, r.T), r"\(float32\[4, 8\], float32\[4, 8\]\)"),
        (lambda r: r, r"float32\[8, 4\]"),
        (lambda r: (r.astype(int), r), r"\(int32\[8, 4\], float32\[8, 4\]\)"),
        (lambda r: (r, r, r), r"\(float32.*, float32.*, float32.*\)"),
        (lambda r: (r, None), r"\(float32\[8, 4\], NoneType\)"),
    ],
)
def test_an_estimator_of_another_shape_is_told(wrong, got):
    with pytest.raises(ValueError, match=r"advantage_estimator must return .* of shape \[8, 4\] each; got " + got):
        check_advantages(wrong(jnp.zeros((8, 4))), (8, 4))


class Asked:
    """An environment of which only the spaces are asked."""

    observation_space = spaces.Box(-1.0, 1.0, (4,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, key):
        raise AssertionError

    def step(self, key, state, action):
        raise AssertionError


COIN, MANY, FLAGS, ARM = (
    spaces.Discrete(2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Box(-1.0, 1.0, (2,)),
)
BOTH = spaces.Dict({"a": COIN, "b": ARM})
gaussian = lambda x: jtrpo.DiagGaussian(x[:, :2], x[:, 2:])  # noqa: E731
tanh = lambda x: jtrpo.TanhGaussian(x[:, :2], x[:, 2:])  # noqa: E731
gsde = lambda x: jtrpo.StateDependentNoise(x[:, :2], x, jnp.zeros((4, 2)))  # noqa: E731
coin = lambda x: jtrpo.Categorical(x[:, :2])  # noqa: E731


class Biased:
    """A distribution of another library: a categorical one."""

    def __init__(self, logits):
        for name in ("sample", "log_prob", "entropy", "mode", "kl"):
            setattr(self, name, getattr(jtrpo.Categorical(logits), name))


def agent_with(distribution, space, kind):
    apply = lambda params, observation: distribution(observation * params[None])  # noqa: E731
    network = jtrpo.Network(lambda key, observation: jnp.ones(4), apply)
    jtrpo.make_agent(jtrpo.TrainConfig(Asked(space), policy_network=network, box_distribution=kind))


FIT = {
    "parts": (lambda x: jtrpo.Product((tanh(x), coin(x))), spaces.Tuple([ARM, COIN]), "tanh_gaussian"),
    "no box to squash": (coin, COIN, "tanh_gaussian"),
    "noise that depends on the state": (gaussian, ARM, "state_dependent_gaussian"),
    "held noise": (gsde, ARM, "gsde"),
    "flags as choices": (lambda x: jtrpo.MultiCategorical((x[:, :2],) * 3), FLAGS, "gaussian"),
    "another library's": (lambda x: Biased(x[:, :3]), COIN, "gaussian"),
}


@pytest.mark.parametrize("name", FIT)
def test_a_policy_that_fits_its_actions_passes(name):
    agent_with(*FIT[name])


UNFIT = {
    "logits": (
        lambda x: x[:, :2],
        COIN,
        "gaussian",
        r"a distribution, jtrpo.Categorical\(logits\) for .*got float32\[3, 2\]",
    ),
    "many logits": (
        lambda x: (x[:, :2], x[:, 1:]),
        MANY,
        "gaussian",
        r"jtrpo.MultiCategorical\(logits\) for .*; got tuple",
    ),
    "a mean": (
        lambda x: x[:, :2],
        ARM,
        "gsde",
        r"jtrpo.StateDependentNoise\(mean, features, log_scale\) for .*; got float32",
    ),
    "parts": (
        lambda x: {"a": coin(x), "b": gaussian(x)},
        BOTH,
        "gaussian",
        r"jtrpo.Product\({'a': jtrpo.Categorical\(logits\), 'b': jtrpo.DiagGaussian\(mean, log_std\)}\) for .*; got dict",
    ),
    "logits of a part": (
        lambda x: jtrpo.Product({"a": x[:, :2], "b": gaussian(x)}),
        BOTH,
        "gaussian",
        r"for the part \['a'\], returns float32\[3, 2\]; the action space Discrete\(2\) goes with jtrpo.Categorical\(logits\)",
    ),
    "other parts": (
        lambda x: jtrpo.Product({"a": coin(x)}),
        BOTH,
        "gaussian",
        r"returns distributions of \['a'\]; .*parts \['a', 'b'\]",
    ),
    "choices of a part": (
        lambda x: jtrpo.Product({"a": jtrpo.Categorical(x), "b": gaussian(x)}),
        BOTH,
        "gaussian",
        r"for the part \['a'\], returns a Categorical over 4 choices; the action space is Discrete\(2\)",
    ),
    "many choices": (
        lambda x: jtrpo.MultiCategorical((x[:, :2], x[:, :2])),
        MANY,
        "gaussian",
        r"2 x 2 choices; .*MultiDiscrete\(\[2 3\]\)",
    ),
    "flags": (lambda x: jtrpo.Bernoulli(x), FLAGS, "gaussian", r"Bernoulli over 4 choices; .* is MultiBinary\(3\)"),
    "held noise of no state": (
        gaussian,
        ARM,
        "gsde",
        r"a DiagGaussian; .* goes with jtrpo.StateDependentNoise\(.*\) where box_distribution is 'gsde'",
    ),
    "noise that is not held": (gsde, ARM, "gaussian", r"a StateDependentNoise; .*DiagGaussian.* is 'gaussian'"),
    "not squashed": (
        lambda x: jtrpo.Product({"a": coin(x), "b": gaussian(x)}),
        BOTH,
        "tanh_gaussian",
        r"for the part \['b'\], returns a DiagGaussian; .* goes with jtrpo.TanhGaussian",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_policy_that_does_not_fit_its_actions_is_told_what_does(name):
    *given, message = UNFIT[name]
    with pytest.raises((TypeError, ValueError), match=message):
        agent_with(*given)


class Privileged:
    """The critic may see more than the policy."""

    observation_space = spaces.Dict({"seen": spaces.Box(-1.0, 1.0, (2,)), "hidden": spaces.Box(-1.0, 1.0, (3,))})
    action_space = spaces.Discrete(2)

    def reset(self, key):
        return {"seen": jnp.zeros(2), "hidden": jax.random.uniform(key, (3,))}, jnp.int32(0)

    def step(self, key, state, action):
        observation, state = self.reset(key)
        return jtrpo.EnvStep(observation, state, jnp.float32(1.0), jnp.bool_(True), jnp.bool_(False), observation)


class SaysWhatIsSeen(Privileged):
    policy_observation = ("seen",)


@pytest.mark.parametrize(
    ("environment", "parts", "shared"),
    [
        (Privileged(), {"policy_observation": ("seen",), "critic_observation": ("seen", "hidden")}, False),
        (Privileged(), {"policy_observation": ("seen",)}, True),
        (SaysWhatIsSeen(), {}, False),
    ],
)
def test_policy_and_critic_see_their_parts(environment, parts, shared):
    settings = jtrpo.TrainConfig(environment, hidden_sizes=(8,), shared_torso=shared, **SIZES, **parts)
    agent = jtrpo.make_agent(settings)
    state = jax.jit(jtrpo.make_trainer(settings).init)(jax.random.key(0))
    noise = lambda x: x + 0.1 * jnp.arange(1.0, x.size + 1).reshape(x.shape)  # noqa: E731 # no layer is zero
    state = state._replace(
        **{name: jax.tree.map(noise, getattr(state, name)) for name in ("policy_params", "critic_params")}
    )
    moves = lambda function: jax.jit(jax.jacobian(function))(  # noqa: E731
        {"seen": jnp.full((1, 2), 0.1), "hidden": jnp.full((1, 3), 0.1)}
    )
    policy = moves(lambda observation: agent.policy(state, observation)[0].logits)
    critic = moves(lambda observation: agent.value(state, observation)[0])
    assert not policy["hidden"].any()
    assert policy["seen"].any()
    assert bool(critic["hidden"].any()) != shared


class Masked(Privileged):
    observation_space = spaces.Dict({**Privileged.observation_space.spaces, "action_mask": spaces.MultiBinary(2)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy_observation": ("sen",)}, r"at least one of \['hidden', 'seen'\], each once; got \('sen',\)"),
        ({"critic_observation": ("seen", "seen")}, r"critic_observation must name .*each once; got \('seen', 'seen'\)"),
        (
            {"policy_observation": ("seen", "action_mask")},
            r"policy_observation cannot name 'action_mask', .* leave it out",
        ),
        ({"critic_observation": ("hidden",), "shared_torso": True}, r"critic_observation=\('hidden',\) has no effect"),
    ],
)
def test_parts_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        jtrpo.TrainConfig(Masked(), **settings)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_cartpole_is_learned(kind):
    settings = jtrpo.TrainConfig("CartPole-v1", **networks(KINDS[kind]))
    result = jax.jit(jtrpo.make_train(settings, evaluate_every=7))(jax.random.key(0))
    assert float(result.best_return) >= 475
    assert (result.metrics.policy.kl <= result.metrics.hyperparams.max_kl).all()


def test_a_run_resumes_and_its_policy_loads_with_the_same_functions_given_again(remembering, tmp_path):
    settings, state, *_ = remembering
    with Checkpoints(tmp_path, settings) as checkpoints:
        checkpoints.save(state)
    restored = Checkpoints(tmp_path, config(**OWN)).restore().state
    for old, new in zip(jax.tree.leaves(state.policy_params), jax.tree.leaves(restored.policy_params), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match=r"policy_network is 'networks.<locals>.policy' there and None here"):
        Checkpoints(tmp_path, config()).restore()
    with pytest.raises(
        ValueError, match=r"networks of your own, policy_network='networks.<locals>.policy' and critic_"
    ):
        jtrpo.load_policy(tmp_path)
    policy = jtrpo.load_policy(tmp_path, **OWN)
    observation = np.ones(4, np.float32)
    distribution, memory = jtrpo.make_agent(settings).policy(state, observation[None])
    action, after = policy(observation)
    assert action == distribution.mode()[0]
    np.testing.assert_allclose(after.policy[1], memory.policy[1], rtol=1e-6)
