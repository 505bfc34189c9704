import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.training.learner import make_learner
from jtrpo.training.trainer import make_collect
from tests import probes

CONFIG = jtrpo.TrainConfig(env="CartPole-v1", total_timesteps=500, num_envs=8, num_steps=32, hidden_sizes=(16,))


@pytest.fixture(scope="module")
def trainer():
    return jtrpo.make_trainer(CONFIG)


@pytest.fixture(scope="module")
def train():
    return jax.jit(jtrpo.make_train(CONFIG))


def limited(max_kl):
    """Numbers of the same types whatever the limit: they are compiled for once."""
    return jtrpo.Hyperparams(max_kl=jnp.float32(max_kl))


@pytest.fixture(scope="module")
def whole(train):
    return train(jax.random.key(0), limited(jtrpo.Hyperparams().max_kl))


@pytest.fixture(scope="module")
def step(trainer):
    return jax.jit(trainer.step)


@pytest.fixture(scope="module")
def start(trainer):
    return jax.jit(trainer.init)(jax.random.key(0))


def assert_trees_equal(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_a_trainer_is_three_functions(trainer):
    init, step, evaluate = trainer  # as the contract promises
    assert (init, step, evaluate) == (trainer.init, trainer.step, trainer.evaluate)


def test_budget_is_rounded_up_to_whole_updates_and_reported(whole):
    assert (CONFIG.batch_size, CONFIG.num_updates, CONFIG.actual_timesteps) == (256, 2, 512)
    assert whole.metrics.timesteps.tolist() == [256, 512]
    assert int(whole.state.update) == 2


def test_a_config_can_be_a_static_argument():
    scheduled = dataclasses.replace(CONFIG, schedules={"max_kl": lambda update: 0.01})
    assert hash(CONFIG) == hash(dataclasses.replace(CONFIG))
    assert len({CONFIG, dataclasses.replace(CONFIG), scheduled}) == 2


def test_a_step_keeps_every_type_and_compiles_once(step, start):
    state, _ = step(start)
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)  # noqa: E731
    assert described(state) == described(start)
    step(state)
    assert step._cache_size() == 1


def test_whole_training_is_the_steps_one_by_one(step, start, whole):
    state = start
    for _ in range(CONFIG.num_updates):
        state, _ = step(state)
    for a, b in zip(jax.tree.leaves(state.policy_params), jax.tree.leaves(whole.state.policy_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_same_key_same_bits_other_key_other_parameters(trainer, step, start):
    once, again = step(start)[0], step(start)[0]
    assert_trees_equal(once, again)
    other = step(jax.jit(trainer.init)(jax.random.key(1)))[0]
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, once.policy_params, other.policy_params))


# Two seeds, and three limits of the KL for the second.
KEYS = jax.random.split(jax.random.key(3), 2)[jnp.array([0, 1, 1, 1])]
LIMITS = jtrpo.Hyperparams(max_kl=jnp.array([1e-2, 1e-4, 1e-2, 5e-2]))


@pytest.fixture(scope="module")
def mapped():
    """Trainings mapped over seeds and limits of the KL, evaluated as they go, which changes nothing in them."""
    axes = jtrpo.Hyperparams(*[None] * len(jtrpo.Hyperparams._fields))._replace(max_kl=0)
    train = jtrpo.make_train(CONFIG, evaluate_every=1, evaluation_episodes=4)
    return jax.jit(jax.vmap(train, in_axes=(0, axes)))(KEYS, LIMITS)


def test_vmap_over_seeds_and_hyperparameters_equals_one_by_one(train, mapped):
    for index in (0, 1, 3):
        alone = train(KEYS[index], limited(LIMITS.max_kl[index]))
        mine = jax.tree.map(lambda x, index=index: x[index], mapped)
        np.testing.assert_array_equal(alone.metrics.timesteps, mine.metrics.timesteps)
        np.testing.assert_allclose(alone.metrics.policy.kl, mine.metrics.policy.kl, rtol=1e-3)
        for a, b in zip(
            jax.tree.leaves(alone.state.policy_params), jax.tree.leaves(mine.state.policy_params), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_vmap_over_hyperparameters_bounds_each_kl_by_its_own_limit(mapped):
    kl = mapped.metrics.policy.kl
    assert jnp.all(kl <= LIMITS.max_kl[:, None])
    assert jnp.all(jnp.diff(kl[1:].mean(axis=1)) > 0)


def test_statistics_move_before_the_step_and_the_ratio_is_that_to_the_policy_that_acted(trainer, step, start):
    assert abs(float(step(start)[1].policy.objective_before)) < 1e-5  # the first policy sees nothing: its ratio is one
    state, _ = step(start)
    following, metrics = step(state)
    before, after = state.observation_statistics, following.observation_statistics
    assert 0 < float(after.samples - before.samples) <= CONFIG.batch_size
    assert not jnp.array_equal(before.mean, after.mean)
    # Mean of ratio * normalised advantage, with a ratio that the drift keeps near one.
    assert abs(float(metrics.policy.objective_before)) < (2 * 0.2 * metrics.hyperparams.max_kl) ** 0.5


def test_evaluate_counts_whole_undiscounted_episodes(trainer, start):
    returns = jax.jit(trainer.evaluate, static_argnums=2)(start, jax.random.key(5), 32)
    assert returns.shape == (32,)
    assert jnp.all((returns >= 8) & (returns <= 500))
    assert jnp.all(returns == jnp.round(returns))


def test_evaluate_stops_at_max_steps():
    class Endless(probes.Probe):
        def observe(self, key, state):
            return jnp.zeros((1,))

        def outcome(self, key, state, action):
            return jnp.float32(2.0), jnp.bool_(False), jnp.bool_(False)

    endless = jtrpo.TrainConfig(env=Endless(probes.DISCRETE), num_envs=4, num_steps=8, hidden_sizes=(4,))
    trainer = jtrpo.make_trainer(endless)
    returns = trainer.evaluate(jax.jit(trainer.init)(jax.random.key(0)), jax.random.key(1), 3, max_steps=7)
    assert returns.tolist() == [14.0, 14.0, 14.0]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"num_envs": 0}, ValueError, ["num_envs", "at least 1", "0"]),
        ({"num_steps": 1.5}, TypeError, ["num_steps", "1.5"]),
        ({"total_timesteps": "many"}, TypeError, ["total_timesteps", "many"]),
        ({"fisher_fraction": 0.0}, ValueError, ["fisher_fraction", "above 0"]),
        ({"critic_fraction": 1.5}, ValueError, ["critic_fraction", "at most 1"]),
        ({"activation": "step"}, ValueError, ["activation", "tanh", "step"]),
        ({"hidden_sizes": (64, 0)}, ValueError, ["hidden_sizes", "0"]),
        ({"hidden_sizes": 64}, TypeError, ["hidden_sizes", "(64, 64)"]),
        ({"critic_minibatches": 7}, ValueError, ["critic_minibatches", "256", "7"]),
        ({"normalize_observations": 1}, TypeError, ["normalize_observations", "1"]),
        ({"env": "CartPol-v1"}, ValueError, ["CartPol-v1", "CartPole-v1"]),
        ({"env": 3}, TypeError, ["env", "3"]),
    ],
)
def test_bad_settings_are_refused_with_name_value_and_remedy(settings, error, words):
    with pytest.raises(error) as caught:
        dataclasses.replace(CONFIG, **settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ({"max_kl": -0.01}, ValueError),
        ({"gamma": 1.5}, ValueError),
        ({"gae_lambda": float("nan")}, ValueError),
        ({"backtrack_factor": 1.0}, ValueError),
        ({"cg_damping": "big"}, TypeError),
        ({"critic_learning_rate": float("inf")}, ValueError),
        ({"entropy_coefficient": True}, TypeError),
    ],
)
def test_bad_hyperparams_are_refused_when_built(numbers, error):
    (name,) = numbers
    with pytest.raises(error, match=name):
        jtrpo.Hyperparams(**numbers)


def test_bad_array_of_hyperparams_is_refused_before_training(trainer):
    with pytest.raises(ValueError, match="max_kl"):
        trainer.init(jax.random.key(0), jtrpo.Hyperparams(max_kl=jnp.array(0.0)))


def in_default_precision(state):
    """With flax's float32 parameters in float64 where that is switched on."""
    return jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, state)


@functools.cache
def learning(critic):
    """A first state, and the program of an update whose rewards are times a factor, or others instead."""
    config = dataclasses.replace(CONFIG, critic=critic, num_envs=4, num_steps=16, critic_minibatches=1, critic_epochs=2)
    no_episode = jtrpo.training.rollout.EpisodeSummary(*[jnp.full((), jnp.nan)] * 5)  # does no harm

    @jax.jit
    def learn(state, factor, other):
        trajectory = make_collect(config)(state)
        reward = jnp.where(jnp.isnan(other), factor * trajectory.reward, other)
        return make_learner(config).learn(state, trajectory._replace(reward=reward), no_episode)

    return in_default_precision(jax.jit(jtrpo.make_trainer(config).init)(jax.random.key(0))), learn


def learn_ten_times(factor, rewards=lambda update: jnp.full((16, 4), jnp.nan), critic="adam"):
    """Ten updates from the collections of ten updates, their rewards times ``factor`` or replaced."""
    (state, learn), history = learning(critic), []
    for update in range(10):
        state, metrics = learn(state, jnp.asarray(factor, float), jnp.array(rewards(update), float))
        history.append(metrics)
    return state, history


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("critic", "factors"),
    # Of a power of two every bit stays. Other rounding may end conjugate gradients an iteration earlier.
    [
        ("adam", (1e-8, 1e-3, 1e3)),
        pytest.param("gauss_newton", (2.0**-27, 2.0**-10, 2.0**10), marks=pytest.mark.long),
    ],
)
def test_the_unit_of_the_rewards_does_not_matter(critic, factors):
    one = learn_ten_times(1.0, critic=critic)[0]
    for factor in factors:
        other = learn_ten_times(factor, critic=critic)[0]
        for name in ("policy_params", "critic_params"):
            close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)  # noqa: E731
            jax.tree.map(close, getattr(other, name), getattr(one, name))
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), one.policy_params, learn_ten_times(0.0)[0].policy_params
    )
    assert max(jax.tree.leaves(moved)) > 0.01


def test_a_late_first_reward_harms_nothing(x64):
    def late(update):
        return jnp.zeros((16, 4)).at[3, 1].set(float(update >= 6)).at[9, 2].set(float(update >= 6))

    history = learn_ten_times(1.0, late)[1]
    assert all(metrics.critic.loss < 10 for metrics in history)
    assert all(metrics.policy.accepted for metrics in history[6:])
    assert history[-1].critic.explained_variance > -1


def test_the_best_state_of_each_seed_comes_back(mapped):
    assert mapped.returns.shape == (4, CONFIG.num_updates)
    np.testing.assert_array_equal(mapped.best_return, mapped.returns.max(axis=1))
    np.testing.assert_allclose(mapped.episodes.return_mean, mapped.returns, rtol=1e-6)
    np.testing.assert_array_equal(mapped.episodes.length_mean, mapped.returns)  # CartPole's reward is one a step
    np.testing.assert_array_equal(mapped.best_state.update, mapped.returns.argmax(axis=1) + 1)
    assert len(set(mapped.best_state.update.tolist())) > 1


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"critic": "gauss_newton", "critic_epochs": 1, "shared_torso": True}, marks=pytest.mark.slow),
        pytest.param({"memory": "gru", "critic_minibatches": 2}, marks=pytest.mark.long),
    ],
    ids=["shared torso", "gru"],
)
def test_chunks_change_the_memory_and_nothing_else(settings, x64):
    found = []
    for chunk_size in (None, 12):  # of 32 samples, or of sequences of four
        config = jtrpo.TrainConfig(
            "CartPole-v1", num_envs=8, num_steps=4, hidden_sizes=(8,), chunk_size=chunk_size, **settings
        )
        trainer = jtrpo.make_trainer(config)
        double = lambda x: x.astype(float) if x.dtype == jnp.float32 else x  # noqa: E731
        state = jax.jit(trainer.init)(jax.random.key(0), jtrpo.Hyperparams(cg_tolerance=1e-3))
        state = jax.tree.map(double, state)
        found.append(jax.jit(trainer.step)(state))
    assert found[0][1].policy.accepted
    for name in ("policy_params", "critic_params"):
        pair = (getattr(state, name) for state, _ in found)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), *pair)  # environments are in float32
