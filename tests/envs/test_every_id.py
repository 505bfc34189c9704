import jax
import jax.numpy as jnp
import pytest

import jtrpo
from jtrpo.envs.gymnax import environment_ids

NEEDS_A_DOWNLOAD = "MNISTBandit-bsuite"


@pytest.mark.slow
@pytest.mark.parametrize("env_id", sorted(set(environment_ids()) - {NEEDS_A_DOWNLOAD}))
def test_two_updates_of_every_environment(env_id):
    config = jtrpo.TrainConfig(
        env=env_id,
        total_timesteps=32,
        num_envs=2,
        num_steps=8,
        hidden_sizes=(8,),
        critic_epochs=1,
        critic_minibatches=1,
    )
    with jax.numpy_rank_promotion("allow"):  # gymnax's Swimmer promotes ranks itself
        result = jax.jit(jtrpo.make_train(config))(jax.random.key(0))
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
