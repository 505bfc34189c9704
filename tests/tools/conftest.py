import jax
import pytest

import jtrpo
from jtrpo.tools import run as module
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.tools.run import run_training

CONFIG = jtrpo.TrainConfig(
    "CartPole-v1", total_timesteps=640, num_envs=4, num_steps=16, hidden_sizes=(4,), env_metrics=("discount",)
)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of three saved runs: two seeds with max_kl 0.01, one with 0.05."""
    root, folders = tmp_path_factory.mktemp("runs"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EVALUATION_EPISODES", 2)
        for max_kl, seed in ((0.01, 0), (0.01, 1), (0.05, 0)):
            numbers = jtrpo.Hyperparams(max_kl=max_kl)
            folders.append(root / f"{max_kl}-{seed}")
            with Checkpoints(folders[-1], CONFIG, numbers, seed) as checkpoints:
                run_training(CONFIG, seed, numbers, checkpoints=checkpoints)
    return folders


@pytest.fixture(scope="session")
def history():
    """What the updates of a short run report."""
    trainer = jtrpo.make_trainer(CONFIG)
    step, state = jax.jit(trainer.step), trainer.init(jax.random.key(0))
    history = []
    for _ in range(3):
        state, metrics = step(state)
        history.append(jax.device_get(metrics))
    return history
