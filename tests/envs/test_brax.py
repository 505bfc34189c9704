"""Needs ``pip install '.[brax]'``; skipped without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.envs.brax import BraxEnvironment
from jtrpo.envs.resolve import resolve
from jtrpo.training.trainer import make_collect

pytest.importorskip("brax")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Brax's own deprecations are not ours to mend


@pytest.fixture(scope="module")
def environment():
    from brax import envs

    return BraxEnvironment(envs.get_environment("inverted_pendulum", backend="spring"), max_episode_steps=12)


def test_time_limits_truncate_falls_terminate_and_what_followed_is_kept(environment):
    with jax.numpy_rank_promotion("allow"):
        step = jax.jit(environment.step)
        observation, state = jax.jit(environment.reset)(jax.random.key(0))
        for action, kinds in ((0.0, (False, True)), (1.0, (True, False))):
            for i in range(40):
                result = step(jax.random.key(i), state, jnp.array([action]))
                same = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), result.state)
                assert same == jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
                state = result.state
                if result.terminated | result.truncated:
                    break
                np.testing.assert_array_equal(result.observation, result.final_observation)
            assert (bool(result.terminated), bool(result.truncated)) == kinds
            assert float(jnp.abs(result.observation).max()) <= 0.011  # a fresh start, near rest
            assert float(jnp.abs(result.final_observation - result.observation).max()) > 1e-3
            assert float(state.info["steps"]) == 0.0
        assert step._cache_size() == 1


def test_with_a_pool_episodes_begin_at_its_starts_and_learning_goes_on(environment):
    settings = {"num_envs": 8, "num_steps": 16, "hidden_sizes": (8,), "total_timesteps": 256}
    config = jtrpo.TrainConfig(environment, reset_pool=4, env_metrics=("reward",), **settings)
    with jax.numpy_rank_promotion("allow"):
        with pytest.raises(ValueError, match=r"'reward'.*BraxEnvironment.*gives none"):
            jtrpo.make_train(config)
        config = jtrpo.TrainConfig(environment, reset_pool=4, **settings)
        trainer = jtrpo.make_trainer(config)
        state = jax.jit(trainer.init)(jax.random.key(0))
        trajectory = jax.jit(make_collect(config))(state)
        begun = np.asarray(trajectory.observation)[1:][np.asarray(trajectory.done)[:-1]]
        assert len(begun) >= 8
        assert len(np.unique(begun, axis=0)) <= 4
        assert jax.jit(trainer.step)(state)[1].policy.accepted


def test_what_is_privileged_is_the_critics_alone(environment):
    from brax.envs.base import Wrapper

    class Robot(Wrapper):
        """Two numbers of the observation can be measured on the robot."""

        def reset(self, rng):
            return self.seen(self.env.reset(rng))

        def step(self, state, action):
            return self.seen(self.env.step(state.replace(obs=state.obs["privileged_state"]), action))

        def seen(self, state):
            return state.replace(obs={"state": state.obs[:2], "privileged_state": state.obs})

    config = jtrpo.TrainConfig(BraxEnvironment(Robot(environment.env.env)), num_envs=4, num_steps=8, hidden_sizes=(8,))
    trainer = jtrpo.make_trainer(config)
    state = jax.eval_shape(trainer.init, jax.random.key(0))
    widths = [
        [x.shape[0] for x in jax.tree.leaves(params) if x.ndim == 2]
        for params in (state.policy_params, state.critic_params)
    ]
    assert widths == [[2, 8], [6, 8]]


def test_a_cost_in_info_is_that_of_the_step(environment):
    from brax.envs.base import Wrapper

    class Costly(Wrapper):
        def reset(self, rng):
            state = self.env.reset(rng)
            return state.replace(info={**state.info, "cost": jnp.float32(0)})

        def step(self, state, action):
            return self.env.step(state, action).replace(info={**state.info, "cost": jnp.abs(action[0])})

    with jax.numpy_rank_promotion("allow"):
        costly = BraxEnvironment(Costly(environment.env.env))
        key = jax.random.key(0)
        step = jax.jit(costly.step)(key, costly.reset(key)[1], jnp.array([-0.5]))
        assert step.cost == 0.5
        jtrpo.make_trainer(jtrpo.TrainConfig(costly, constraint_method="cpo"))
        with pytest.raises(ValueError, match="needs a cost"):
            jtrpo.make_trainer(jtrpo.TrainConfig(environment, constraint_method="cpo"))


def test_inverted_pendulum_learns():
    config = jtrpo.TrainConfig("brax:inverted_pendulum", total_timesteps=100_000)
    with jax.numpy_rank_promotion("allow"):
        metrics = jax.jit(jtrpo.make_train(config))(jax.random.key(0)).metrics
    assert float(metrics.episode.return_mean[0]) < 30
    assert float(jnp.nanmean(metrics.episode.return_mean[-5:])) > 150
    assert jnp.all(metrics.policy.kl <= 0.005)


def test_an_unknown_name_and_an_environment_that_resets_itself_are_refused():
    from brax import envs

    with pytest.raises(ValueError, match=r"brax:hoper.*hopper"):
        jtrpo.TrainConfig("brax:hoper")
    with pytest.raises(ValueError, match="auto_reset=False"):
        BraxEnvironment(envs.create("inverted_pendulum", backend="spring"))
    with pytest.raises(ValueError, match="must be one: make it without batch_size"):
        BraxEnvironment(envs.create("inverted_pendulum", backend="spring", auto_reset=False, batch_size=4))


def test_environments_by_id_and_given(environment):
    from brax import envs

    assert resolve("brax:swimmer").action_space.shape == (2,)  # the spring backend has none
    given = resolve(environment.env.env)
    assert (type(given), given.max_episode_steps) == (BraxEnvironment, 1000)
    repeated = envs.create("inverted_pendulum", backend="spring", auto_reset=False, action_repeat=4, episode_length=42)
    assert resolve(repeated).max_episode_steps == 11
    with pytest.raises(TypeError, match="an environment of brax has no parameters"):
        resolve((repeated, 500))
