"""How the public functions are called: whatever is given is taken for what it means, or refused by the argument's name."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo import UpdateStatus
from jtrpo.training.critic import explained_variance
from jtrpo.training.keys import keys_for
from jtrpo.training.normalization import init_statistics, normalize, update_statistics
from tests import probes

SMALL = {"num_envs": 4, "num_steps": 4, "hidden_sizes": (4,), "critic_epochs": 1, "critic_minibatches": 1}
CONFIG = jtrpo.TrainConfig(probes.TruncatedOnly(probes.DISCRETE), total_timesteps=32, **SMALL)
TRAINER = jtrpo.make_trainer(CONFIG)


@pytest.fixture(scope="module")
def state():
    return jax.jit(TRAINER.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def step():
    """The compiled step, which counts how often it was traced."""
    traced = []

    def counted(state):
        traced.append(None)
        return TRAINER.step(state)

    compiled = jax.jit(counted)
    return lambda state: (*compiled(state), len(traced))


def refused(error, words, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message.startswith(words[0]), message
    assert all(word in message for word in words), message
    assert "Traced<" not in message, message


# --- keys


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_key_of_any_implementation_trains(impl):
    key = jax.random.key(0, impl=impl)
    result = jax.eval_shape(jtrpo.make_train(CONFIG), key)
    assert result.state.key.dtype == key.dtype
    assert jax.eval_shape(lambda s, k: TRAINER.evaluate(s, k, 3), result.state, key).shape == (3,)


def test_the_numbers_of_a_raw_key_are_that_key():
    raw, typed = jax.random.PRNGKey(3), jax.random.key(3)
    for key in (raw, np.asarray(raw)):
        assert keys_for(key, "a")[0] == keys_for(typed, "a")[0]
    shapes = jax.eval_shape(TRAINER.init, typed)
    assert jax.eval_shape(TRAINER.init, raw) == shapes
    assert jax.eval_shape(TRAINER.evaluate, shapes, raw).shape == (128,)
    assert jax.eval_shape(jax.vmap(TRAINER.init), jax.random.split(raw)).update.shape == (2,)


WRONG_KEYS = [
    (0, TypeError, ["key must be a random key", "jax.random.key(0)", "0 of type int"]),
    (None, TypeError, ["key must be a random key", "None"]),
    (jnp.int32(0), TypeError, ["key must be a random key", "int32[]"]),
    (jax.random.split(jax.random.key(0), 3), ValueError, ["key must be one key", "(3,)", "vmap"]),
    (jax.random.split(jax.random.PRNGKey(0), 3), ValueError, ["key must be one key", "(3,)", "vmap"]),
    (jax.random.PRNGKey(0, impl="rbg"), ValueError, ["key of shape (4,)", "impl="]),
]


@pytest.mark.parametrize(("key", "error", "words"), WRONG_KEYS)
def test_what_is_not_one_key_is_refused_in_words(state, key, error, words):
    refused(error, words, TRAINER.init, key)
    refused(error, words, TRAINER.evaluate, state, key)
    refused(error, words, jtrpo.make_train(CONFIG), key)
    refused(error, words, jtrpo.make_agent(CONFIG).init_policy, key, jnp.zeros(1))
    if key is not None:
        refused(error, [words[0]], jax.jit(TRAINER.init), key)


# --- states, counts, configurations


def test_what_is_not_the_state_of_one_training_is_refused_in_words(state, step):
    shapes = jax.eval_shape(TRAINER.step, state)
    several = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    for call in (TRAINER.step, lambda s: TRAINER.evaluate(s, jax.random.key(0))):
        for wrong in (shapes[1], shapes, jtrpo.TrainResult(*shapes), None):
            refused(TypeError, ["state must be a jtrpo.TrainState", type(wrong).__name__], call, wrong)
        refused(ValueError, ["state must be of one training", "(2,)", "vmap"], call, several)
        donated = jax.tree.map(jnp.copy, state)
        jax.tree.leaves(donated.critic_params)[0].delete()
        refused(ValueError, ["state was donated", "what the step returned"], call, donated)
    assert jax.eval_shape(jax.vmap(TRAINER.step), several)[1].timesteps.shape == (2,)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"num_episodes": 0}, ValueError, ["num_episodes", "got 0"]),
        ({"num_episodes": -1}, ValueError, ["num_episodes", "got -1"]),
        ({"num_episodes": 2.0}, TypeError, ["num_episodes", "write 2"]),
        ({"num_episodes": True}, TypeError, ["num_episodes", "True"]),
        ({"deterministic": 1}, TypeError, ["deterministic", "True or False"]),
        ({"max_steps": 0}, ValueError, ["max_steps", "got 0"]),
    ],
)
def test_the_counts_of_an_evaluation_are_checked(state, settings, error, words):
    refused(error, words, TRAINER.evaluate, state, jax.random.key(0), **settings)


def test_what_must_be_static_says_so(state):
    evaluate = jax.jit(TRAINER.evaluate)
    refused(TypeError, ["num_episodes must be static", "static_argnames"], evaluate, state, jax.random.key(0), 10)
    refused(
        TypeError, ["deterministic must be static"], lambda: evaluate(state, jax.random.key(0), deterministic=False)
    )
    assert jax.eval_shape(lambda s, k: TRAINER.evaluate(s, k, np.int64(3)), state, jax.random.key(0)).shape == (3,)


@pytest.mark.parametrize("wrong", ["CartPole-v1", {"env": "CartPole-v1"}, None, (CONFIG, jtrpo.Hyperparams())])
def test_what_is_not_a_configuration_is_refused_in_words(wrong):
    for make in (jtrpo.make_train, jtrpo.make_trainer, jtrpo.make_host_trainer, jtrpo.make_agent):
        refused(TypeError, ["config must be a jtrpo.TrainConfig"], make, wrong)


@pytest.mark.parametrize("wrong", [{"max_kl": 0.1}, 0.1, None, CONFIG])
def test_what_is_no_hyper_parameters_is_refused_in_words(wrong):
    refused(TypeError, ["hyperparams must be jtrpo.Hyperparams"], TRAINER.init, jax.random.key(0), wrong)


def test_numpy_s_kin_of_settings_are_python_s():
    given = {
        "normalize_observations": np.bool_(True), "critic": np.str_("adam"), "num_envs": np.int64(4),
        "initial_log_std": np.float64(0.5), "fisher_fraction": np.float32(0.5), "hidden_sizes": np.array([8, 8]),
        "anneal": ["max_kl"], "memory": np.str_("gru"), "num_steps": jnp.int32(8), "env": np.str_("CartPole-v1"),
    }  # fmt: skip
    plain = {
        "normalize_observations": True, "critic": "adam", "num_envs": 4, "initial_log_std": 0.5, "fisher_fraction": 0.5,
        "hidden_sizes": (8, 8), "anneal": ("max_kl",), "memory": "gru", "num_steps": 8, "env": "CartPole-v1",
    }  # fmt: skip
    config = jtrpo.TrainConfig(**given)
    assert config == jtrpo.TrainConfig(**plain)
    assert hash(config)
    assert [type(getattr(config, name)) for name in given] == [type(value) for value in plain.values()]


# --- hyper-parameters


@pytest.mark.parametrize(
    "change",
    [
        lambda old: old._replace(max_kl=0.02),
        lambda old: old._replace(max_kl=np.float32(0.02), gamma=1),
        lambda old: old._replace(max_kl=jnp.asarray(0.02), gamma=jnp.int32(1)),
        lambda old: jtrpo.Hyperparams(gae_lambda=0, gamma=np.int64(1), max_kl=np.array(0.02)),
        lambda old: jax.tree.map(float, old),
    ],
)  # fmt: skip
def test_a_number_put_into_a_state_compiles_nothing_anew(state, step, change):
    changed = state._replace(hyperparams=change(state.hyperparams))
    (*_, before), (following, _, after) = step(state), step(changed)
    assert before == after
    np.testing.assert_allclose([*following.hyperparams], [*changed.hyperparams], rtol=1e-6)


def test_hyper_parameters_say_along_which_axes_to_map():
    nothing = jax.tree.map(lambda _: None, jtrpo.Hyperparams())
    others = len(nothing) - 1
    for axes in (
        nothing._replace(max_kl=0),
        jtrpo.Hyperparams(0, *[None] * others),
        jtrpo.Hyperparams(1, *[0] * others),
    ):
        assert all(axis is None or type(axis) is int for axis in axes)
    numbers = jtrpo.Hyperparams(max_kl=jnp.array([0.1, 0.2]))
    over = jax.vmap(TRAINER.init, in_axes=(None, nothing._replace(max_kl=0)))
    assert jax.eval_shape(over, jax.random.key(0), numbers).hyperparams.max_kl.shape == (2,)


def test_several_numbers_where_one_is_wanted_are_refused_in_words():
    for numbers in (jnp.ones(2), np.ones((2, 1)), [1.0, 2.0], [jnp.ones(())]):
        refused(
            ValueError,
            ["max_kl must be one number", "vmap"],
            TRAINER.init,
            jax.random.key(0),
            jtrpo.Hyperparams(max_kl=numbers),
        )
    refused(ValueError, ["max_kl", "got -1"], jtrpo.Hyperparams()._replace, max_kl=-1)


LEARNED = (
    "policy_params",
    "critic_params",
    "critic_optimizer",
    "observation_statistics",
    "return_statistics",
    "target_statistics",
)


@pytest.mark.parametrize(
    ("name", "value"), [("max_kl", -1.0), ("gamma", 1.5), ("gae_lambda", np.nan), ("critic_learning_rate", -1.0)]
)
def test_a_traced_number_out_of_range_refuses_the_whole_update(state, step, name, value):
    # As an array, as it would come from a state or a schedule: only numbers that a person types are checked at once.
    wrong = state._replace(hyperparams=state.hyperparams._replace(**{name: jnp.float32(value)}))
    following, metrics, _ = step(wrong)
    assert UpdateStatus(int(metrics.policy.status)) is UpdateStatus.OUT_OF_RANGE
    assert not metrics.policy.accepted
    assert not metrics.critic.accepted
    np.testing.assert_equal(float(getattr(metrics.hyperparams, name)), value)
    for part in LEARNED:
        assert jax.tree.all(jax.tree.map(np.array_equal, getattr(following, part), getattr(state, part))), part
    _, metrics, _ = step(following._replace(hyperparams=state.hyperparams))
    assert metrics.critic.accepted
    assert metrics.policy.status != UpdateStatus.OUT_OF_RANGE


# --- buffers


@pytest.mark.parametrize("how", ["eager", "jitted", "vmapped", "host"])
def test_every_array_of_a_new_state_is_its_own_and_may_be_donated(how):
    settings = {**SMALL, "memory": "lstm", "reuse": 2}
    env = "gymnasium:CartPole-v1" if how == "host" else CONFIG.env
    config = jtrpo.TrainConfig(env, **settings)
    init = jtrpo.make_host_trainer(config).init if how == "host" else jtrpo.make_trainer(config).init
    init = {"jitted": jax.jit(init), "vmapped": jax.jit(jax.vmap(init, in_axes=(0, None)))}.get(how, init)
    numbers, key = jax.tree.map(jnp.float32, jtrpo.Hyperparams()), jax.random.key(0)
    state = init(jax.random.split(key) if how == "vmapped" else key, numbers)
    state = state._replace(key=jax.random.key_data(state.key))
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((state, numbers)) if x.size]
    assert len(places) == len(set(places))
    jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + leaf, x), donate_argnums=0)(state)
    assert float(numbers.gamma) == np.float32(0.99)
    assert jax.random.key_data(key).size


# --- JAX itself


BACKEND = """
import jax, jtrpo, sys
from jax._src import xla_bridge
from tests import probes
for env in ("CartPole-v1", "Breakout-MinAtar", "gymnasium:Pendulum-v1", probes.ConstantReward(probes.DISCRETE)):
    config = jtrpo.TrainConfig(env, num_envs=4, num_steps=8, anneal=("max_kl",), memory="gru")
    assert config.num_updates and jtrpo.Hyperparams(gamma=0.9)._replace(max_kl=0.1)
    if not isinstance(env, str) or env.startswith("gymnasium:"):
        jtrpo.make_host_trainer(config) if isinstance(env, str) else jtrpo.make_train(config)
assert not xla_bridge.backends_are_initialized(), "JAX was started"
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 1, 0)
assert jtrpo.make_agent(jtrpo.TrainConfig("CartPole-v1"))  # and now it may be
try:
    jtrpo.TrainConfig("CartPoel-v1")
except ValueError as error:
    print(error)
"""


def test_settings_do_not_start_jax_so_that_processes_can_meet_after_them():
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", BACKEND, str(port)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "did you mean CartPole-v1" in done.stdout


def test_settings_made_within_a_trace_leak_nothing_of_it():
    def shape(key):
        return jtrpo.make_trainer(jtrpo.TrainConfig("FrozenLake-misc", **SMALL)).init(key).update

    assert jax.eval_shape(shape, jax.random.key(0)).shape == ()


def test_a_healthy_run_passes_where_jax_stops_at_nan():
    with jax.debug_nans(True):
        trainer = jtrpo.make_trainer(CONFIG)  # nothing ends within four steps: no return, and values that are constant
        state, metrics = jax.jit(trainer.step)(jax.jit(trainer.init)(jax.random.key(0)))
    assert metrics.episode.finished == 0
    assert jnp.isinf(metrics.episode.return_mean)


def test_a_run_in_which_no_episode_ended_reports_nan(state, step):
    _, metrics, _ = step(state)
    assert metrics.episode.finished == 0
    assert jnp.isnan(metrics.episode.return_mean)


# --- the core

POLICY = lambda params, observation: jtrpo.Categorical(observation @ params["w"])  # noqa: E731
PARAMS = {"w": jnp.zeros((1, 2))}
BATCH = jtrpo.Batch(jnp.ones((4, 1)), jnp.array([0, 1, 0, 1]), jnp.array([1.0, -1.0, 2.0, -1.0]))
OLD = POLICY(PARAMS, BATCH.observation)


def update(params=PARAMS, batch=BATCH, policy=POLICY, **settings):
    return jtrpo.trpo_update(policy, params, batch, **settings)


@pytest.mark.parametrize(
    ("leaf", "shown"),
    [
        (jnp.int32(3), "int32[]"), (jnp.array([True]), "bool[1]"), (jax.random.key(0), "key<fry>[]"), (abs, "abs"), (1, "1 of"),
        (jax.random.PRNGKey(0), "uint32[2]"), ("a", "'a'"), (jnp.complex64(1), "complex64[]"),
    ],
)  # fmt: skip
def test_a_leaf_that_is_no_parameter_is_named_by_its_path(leaf, shown):
    params = {**PARAMS, "x": [{"y": leaf}]}
    words = ["params['x'][0]['y'] must be", "floating-point", shown]
    refused(TypeError, words, update, params)
    refused(TypeError, words, jtrpo.fisher_vector_product, POLICY, params, BATCH.observation, params)


def test_no_parameters_at_all_are_refused_in_words():
    for nothing in ({}, None, ()):
        refused(ValueError, ["params must hold at least one"], update, nothing, policy=lambda _, seen: OLD)


def test_python_s_and_numpy_s_floats_are_parameters():
    policy = lambda params, seen: jtrpo.Categorical(seen @ params["w"] + params["b"] * jnp.array([[1.0, 0.0]]))  # noqa: E731
    wanted, info = update({"w": jnp.zeros((1, 2)), "b": jnp.float32(0.5)}, policy=policy)
    params, _ = update({"w": np.zeros((1, 2)), "b": 0.5}, policy=policy)
    assert info.accepted
    assert params["b"].dtype == jnp.float32
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": [1, -1, 2, -1]},
        {"advantage": np.array([1, -1, 2, -1], np.float16)},
        {"weight": [True] * 4, "observation": np.ones((4, 1), np.uint8)},
        {"weight": jnp.ones(4, jnp.bfloat16), "action": np.array([False, True, False, True])},
        {"log_prob": [float(np.log(0.5))] * 4},
    ],
)
def test_numbers_of_any_kind_make_the_same_update(changes):
    (wanted, _), (params, info) = update(), update(batch=BATCH._replace(**changes))
    assert info.accepted
    np.testing.assert_allclose(params["w"], wanted["w"], rtol=1e-4)


SETTINGS = {"max_kl": 0.01, "cg_iterations": 5, "cg_damping": 0.1, "cg_tolerance": 1e-5, "backtrack_factor": 0.8}
SETTINGS |= {"max_backtracks": 5, "entropy_coefficient": 0.0}


def test_traced_settings_out_of_range_are_a_status_of_their_own():
    wrong = [
        ("max_kl", -1.0), ("max_kl", np.nan), ("cg_iterations", 0), ("cg_damping", -0.1), ("cg_tolerance", -1.0),
        ("backtrack_factor", 1.0), ("max_backtracks", 0), ("entropy_coefficient", np.inf),
    ]  # fmt: skip
    rows = [SETTINGS, *({**SETTINGS, name: value} for name, value in wrong)]
    settings = {name: np.array([row[name] for row in rows]) for name in SETTINGS}
    params, info = jax.jit(jax.vmap(lambda settings: update(**settings)))(settings)
    assert [UpdateStatus(int(s)).name for s in info.status] == ["ACCEPTED", *["OUT_OF_RANGE"] * len(wrong)]
    assert (params["w"][1:] == 0).all()
    assert (params["w"][0] != 0).all()


A = jnp.diag(jnp.array([2.0, 4.0]))
KEYS = jax.random.split(jax.random.key(0), 4)
STEP = {"gamma": 0.9, "gae_lambda": 0.9}
ZEROS, NEVER = jnp.zeros(3), jnp.zeros(3, bool)
LOCAL = jtrpo.linearize(POLICY, PARAMS, BATCH)


def search(params=0.0, step=1.0, measure=lambda x: jtrpo.Evaluation(x, x**2, x**2, 0.0), max_kl=0.5, **settings):
    start = jtrpo.Evaluation(0.0, 0.0, 0.0, 0.0)
    return jtrpo.line_search(measure, params, step, start, **{"accept": jtrpo.improves_within(max_kl), **settings})


CALLS = {
    "policy": (update, (PARAMS, BATCH, 3), {}, TypeError, ["policy must be a function"]),
    "no distribution": (update, (PARAMS, BATCH, lambda p, o: o), {}, TypeError, ["policy(params, observation) must return"]),
    "objective": (update, (), {"objective": 3}, TypeError, ["objective must be a function"]),
    "acting": (update, (), {"acting": 3}, TypeError, ["acting must be a distribution"]),
    "acting's size": (update, (), {"acting": jtrpo.Categorical(jnp.zeros((3, 2)))}, ValueError, ["acting", "[4]", "(3,)"]),
    "tuple": (update, (PARAMS, tuple(BATCH)), {}, TypeError, ["batch must be a jtrpo.Batch", "tuple"]),
    "keys": (update, (PARAMS, BATCH._replace(advantage=KEYS)), {}, TypeError, ["batch.advantage", "key<fry>[4]"]),
    "list": (update, (PARAMS, BATCH._replace(action=[0, 1, 0, 1])), {}, ValueError, ["batch.action[0]", "must be an array"]),
    "traced count": (jax.jit(lambda n: update(cg_iterations=n)), (2.5,), {}, TypeError, ["cg_iterations", "float32"]),
    "traced flag": (jax.jit(lambda n: update(max_kl=n)), (True,), {}, TypeError, ["max_kl", "bool"]),
    "surrogate": (jtrpo.surrogate, (OLD, BATCH._replace(log_prob=jnp.zeros(3))), {}, ValueError, ["batch.log_prob", "(3,)"]),
    "surrogate's size": (
        jtrpo.surrogate, (jtrpo.Categorical(jnp.zeros((3, 2))), BATCH._replace(log_prob=jnp.zeros(4))), {}, ValueError,
        ["batch.advantage", "[3]", "(4,)"],
    ),
    "empty": (jtrpo.mean_kl, (jtrpo.Categorical(jnp.zeros((0, 2))),) * 2, {}, ValueError, ["a distribution", "(0,)"]),
    "kinds": (
        jtrpo.mean_kl, (OLD, jtrpo.DiagGaussian(jnp.zeros((4, 2)), jnp.zeros(2))), {}, ValueError, ["new must be", "DiagGaussian"]
    ),
    "weight": (jtrpo.mean_kl, (OLD, OLD), {"weight": jnp.ones((4, 1))}, ValueError, ["weight must have shape [4]", "(4, 1)"]),
    "fisher": (
        jtrpo.fisher_vector_product, (POLICY, PARAMS, jnp.ones((0, 1)), PARAMS), {}, ValueError, ["a distribution over a batch"]
    ),
    "fisher's weight": (
        jtrpo.fisher_vector_product, (POLICY, PARAMS, BATCH.observation, PARAMS), {"weight": [1, 0]}, ValueError, ["weight", "(2"]
    ),
    "matrix": (jtrpo.conjugate_gradient, (A, jnp.ones(2)), {}, TypeError, ["matvec must be a function", "A @ v"]),
    "nothing": (jtrpo.conjugate_gradient, (lambda v: v, {}), {}, ValueError, ["b must hold at least one"]),
    "integers": (jtrpo.conjugate_gradient, (lambda v: v, jnp.ones(2, int)), {}, TypeError, ["b must be", "int32[2]"]),
    "shape": (jtrpo.conjugate_gradient, (lambda v: v[:1], jnp.ones(2)), {}, ValueError, ["matvec(v)", "(1,)"]),
    "tolerance": (jtrpo.conjugate_gradient, (lambda v: v, jnp.ones(2)), {"tolerance": -1}, ValueError, ["tolerance", "got -1"]),
    "max_kl": (search, (), {"max_kl": -1.0}, ValueError, ["max_kl", "got -1.0"]),
    "accept": (search, (), {"accept": "kl"}, TypeError, ["accept must be a function", "'kl'"]),
    "full_step": (search, (0.0, jnp.ones(2)), {}, ValueError, ["full_step must be", "params"]),
    "accepts one": (search, (), {"accept": lambda new: True}, TypeError, ["accept must be", "(new, old)", "got one of (new)"]),
    "reports one": (
        jtrpo.make_train, (None,), {"on_update": lambda metrics: None}, TypeError, ["on_update must be", "got one of (metrics)"]
    ),
    "measure": (search, (0.0, 1.0, lambda x: x), {}, TypeError, ["measure must return an Evaluation"]),
    "measures more": (
        search, (), {"measure": lambda x: jtrpo.Evaluation(x, x, x, x, {"cost": x})}, ValueError, ["measure(params)", "start"]
    ),
    "measured": (
        jtrpo.line_search, (lambda x: x, 0.0, 1.0, (0.0, 0.0)), {"accept": max}, TypeError, ["start must be", "tuple"]
    ),
    "accepts truly": (search, (), {"accept": lambda new, old: new.kl > 0}, TypeError, ["accept must return", "bool[]"]),
    "accepts nothing": (search, (), {"accept": lambda new, old: None}, TypeError, ["accept must return", "None"]),
    "accepts several": (search, (), {"accept": lambda new, old: jnp.zeros(2, int)}, TypeError, ["accept", "int32[2]"]),
    "status in text": (search, (), {"initial_status": "kl"}, TypeError, ["initial_status must be", "'kl'"]),
    "status is a truth value": (search, (), {"initial_status": False}, TypeError, ["initial_status must be", "False"]),
    "one number": (update, (), {"objective": lambda d, b: jnp.mean(b.advantage)}, ValueError, ["objective must", "float32[]"]),
    "whole numbers": (update, (), {"objective": lambda d, b: b.action}, ValueError, ["objective must", "got int32[4]"]),
    "no values": (update, (), {"objective": lambda d, b: None}, ValueError, ["objective must", "got NoneType"]),
    "of one argument": (update, (), {"objective": lambda d: 0.0}, TypeError, ["objective must be", "got one of (d)"]),
    "column": (update, (), {"objective": lambda d, b: b.advantage[:, None]}, ValueError, ["objective must return", "[4, 1]"]),
    "class": (update, (PARAMS, BATCH, lambda p, o: jtrpo.Categorical), {}, TypeError, ["policy(params, observation) must"]),
    "acting's kind": (
        update, (), {"acting": jtrpo.DiagGaussian(jnp.zeros((4, 2)), jnp.zeros((4, 2)))}, ValueError, ["acting", "DiagGaussian"]
    ),
    "acting's choices": (update, (), {"acting": jtrpo.Categorical(jnp.zeros((4, 3)))}, ValueError, ["acting must be", "(4, 3)"]),
    "preconditioner": (update, (), {"preconditioner": lambda v: 3.0}, ValueError, ["preconditioner(r) must be"]),
    "words to see": (
        update, (PARAMS, BATCH._replace(observation=np.array(list("abcd")))), {}, TypeError, ["batch.observation must be"]
    ),
    "axis": (update, (), {"axis_name": 3}, TypeError, ["axis_name must be", "3"]),
    "unknown axis": (update, (), {"axis_name": ("a",)}, ValueError, ["axis_name", "'a'", "vmap"]),
    "normalize": (jtrpo.linearize, (POLICY, PARAMS, BATCH), {"normalize": True}, TypeError, ["normalize must be a function"]),
    "normalizes": (
        jtrpo.linearize, (POLICY, PARAMS, BATCH), {"normalize": lambda a, w, n: a.sum()}, ValueError, ["normalize must", "[4]"]
    ),
    "gradient of": (LOCAL.gradient, ("kl",), {}, TypeError, ["objective must be a function"]),
    "elsewhere": (
        LOCAL.measure, ({"w": jnp.zeros((2, 2))}, jtrpo.likelihood_ratio), {}, ValueError, ["params must be a pytree shaped like"]
    ),
    "nobody": (LOCAL.subset, (0,), {}, ValueError, ["fraction must be", "got 0"]),
    "everybody twice": (LOCAL.subset, (2.0,), {}, ValueError, ["fraction must be", "got 2.0"]),
    "gradient": (jtrpo.natural_gradient, (LOCAL, jnp.ones((1, 2))), {}, ValueError, ["gradient must be", "params"]),
    "damping": (jtrpo.natural_gradient, (LOCAL, PARAMS), {"damping": -1.0}, ValueError, ["damping must be", "got -1.0"]),
    "step": (jtrpo.full_step, (PARAMS, 1.0, -0.1), {}, ValueError, ["max_kl must be", "got -0.1"]),
    "reward": (jtrpo.gae, (1.0, 0.0, 0.0, False, False), STEP, ValueError, ["reward must have a leading axis"]),
    "value": (jtrpo.gae, (ZEROS, None, ZEROS, NEVER, NEVER), STEP, TypeError, ["value must be an array of real numbers", "None"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_a_wrong_argument_is_named(case):
    call, args, settings, error, words = CALLS[case]
    refused(error, words, call, *args, **settings)


def test_what_means_the_same_is_taken():
    advantage, _ = jtrpo.gae([1, 2, 3], [0.0] * 3, np.zeros(3, np.float16), [0, 0, 1], [False] * 3, **STEP)
    wanted, _ = jtrpo.gae(jnp.array([1.0, 2, 3]), ZEROS, ZEROS, NEVER.at[2].set(True), NEVER, **STEP)
    np.testing.assert_allclose(advantage, wanted, rtol=1e-6)
    assert jtrpo.gae(ZEROS[:0], ZEROS[:0], ZEROS[:0], NEVER[:0], NEVER[:0], **STEP)[0].shape == (0,)
    assert jnp.isnan(
        jax.jit(lambda g: jtrpo.gae(ZEROS, ZEROS, ZEROS, NEVER, NEVER, gamma=g, gae_lambda=0.9))(1.5)[0]
    ).all()
    assert jtrpo.conjugate_gradient(lambda v: 2 * v, 3.0)[0] == 1.5
    x, info = search()
    np.testing.assert_allclose([x, info.backtracks], [0.64, 2], rtol=1e-6)
    vector = jtrpo.fisher_vector_product(
        POLICY, PARAMS, BATCH.observation, {"w": [[1, -1]]} | {"w": np.array([[1, -1]])}
    )
    np.testing.assert_allclose(vector["w"], [[0.5, -0.5]], rtol=1e-5)
    assert update(normalize_advantage=np.bool_(True), constraint=np.str_("kl"), cg_iterations=np.int64(3))[1].accepted


# --- large numbers


@pytest.mark.parametrize("unit", [1e-25, 1.0, 1e19, 1e30])
def test_no_square_of_a_large_number_overflows(unit):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 0.5, (3, 1000, 1))
    statistics = init_statistics(jnp.zeros(1))
    for part in x:
        statistics = update_statistics(statistics, jnp.asarray(unit * part, jnp.float32))
    scaled = normalize(statistics, jnp.asarray(unit * x.reshape(-1, 1), jnp.float32))
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-4)
    target = rng.normal(size=1000)
    value = 0.8 * target + 0.1 * rng.normal(size=1000)
    wanted = 1 - np.var(target - value) / np.var(target)
    got = explained_variance(jnp.asarray(unit * value, jnp.float32), jnp.asarray(unit * target, jnp.float32))
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


class Huge(probes.MatchObservation):
    """Rewards whose squares are beyond float32."""

    def outcome(self, key, state, action):
        reward, terminated, truncated = super().outcome(key, state, action)
        return reward * 1e30, terminated, truncated


def test_rewards_beyond_the_root_of_float32_s_largest_number_are_learned_from():
    config = jtrpo.TrainConfig(Huge(probes.DISCRETE), **{**SMALL, "num_envs": 32})
    trainer = jtrpo.make_trainer(config)
    state, metrics = jax.jit(trainer.step)(jax.jit(trainer.init)(jax.random.key(0)))
    assert metrics.policy.accepted
    assert metrics.critic.accepted
    assert metrics.critic.loss < 10
