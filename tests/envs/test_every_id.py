import jax
import jax.numpy as jnp
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.gymnax import environment_ids
from jtrpo.training.rollout import Trajectory, collect, reset

NEEDS_A_DOWNLOAD = "MNISTBandit-bsuite"
SMALL = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 1, "critic_minibatches": 1}


EVERY_ID = sorted(set(environment_ids()) - {NEEDS_A_DOWNLOAD})


def resetting_and_stepping(env_id):
    """A start, the state eight steps later, and what was collected."""
    environment = jtrpo.TrainConfig(env_id, **SMALL).environment

    def policy(observation, memory):
        if isinstance(environment.action_space, spaces.Box):
            shape = environment.action_space.shape
            return jtrpo.DiagGaussian(jnp.zeros((2, *shape)), jnp.zeros(shape)), memory
        return jtrpo.Categorical(jnp.zeros((2, int(environment.action_space.n)))), memory

    def run(key):
        start = reset(environment, key, 2)
        return start, *collect(environment, policy, start, key, 8)[:2]

    return run


@pytest.mark.parametrize("env_id", EVERY_ID)
def test_every_environment_keeps_its_types(env_id):
    with jax.numpy_rank_promotion("allow"):  # gymnax's Swimmer promotes ranks itself
        start, end, trajectory = jax.eval_shape(resetting_and_stepping(env_id), jax.random.key(0))
    assert isinstance(trajectory, Trajectory)
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    assert described(start) == described(end)  # or the next update would be compiled anew
    assert trajectory.reward.shape == (8, 2)


@pytest.mark.long
@pytest.mark.parametrize("env_id", EVERY_ID)
def test_every_environment_is_reset_and_stepped(env_id):
    with jax.numpy_rank_promotion("allow"):
        start, end, trajectory = jax.jit(resetting_and_stepping(env_id))(jax.random.key(0))
    for leaf in jax.tree.leaves((trajectory, start.observation, end.observation)):
        assert jnp.isfinite(leaf).all()


# One of each kind of observations; vectors and either kind of action are trained throughout these tests.
@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["Breakout-MinAtar", "Catch-bsuite", "FrozenLake-misc"])
def test_two_updates_on_every_kind_of_observation(env_id):
    result = jax.jit(jtrpo.make_train(jtrpo.TrainConfig(env_id, total_timesteps=32, **SMALL)))(jax.random.key(0))
    assert result.metrics.timesteps.tolist() == [16, 32]
    assert jnp.all(result.metrics.policy.kl <= 0.01)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(result.state.policy_params))


def test_an_environment_that_must_download_says_so(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlretrieve", no_network)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(ValueError, match=f"{NEEDS_A_DOWNLOAD}.*loads data from outside"):
        jtrpo.TrainConfig(env=NEEDS_A_DOWNLOAD)
