"""One tiny run, and what the tests of its folder share."""

import dataclasses
import json
from pathlib import Path

import jax

import jtrpo
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.tools.checkpoint.folder import _digest

CONFIG = jtrpo.TrainConfig("CartPole-v1", total_timesteps=24, num_envs=2, num_steps=4, hidden_sizes=(4,))
PENDULUM = dataclasses.replace(CONFIG, env="Pendulum-v1")
"""In which no episode ends so soon."""
NUMBERS = jtrpo.Hyperparams()


def start(config=CONFIG, seed=0):
    return jtrpo.make_trainer(config).init(jax.random.key(seed))


def at(state, update):
    """The same state as if it were after another number of updates."""
    return state._replace(update=state.update * 0 + update)


def save(folder, states, config=CONFIG, **settings):
    with Checkpoints(folder, config, **settings) as checkpoints:
        for state in states:
            checkpoints.save(state)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder by its path, and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def longer(config, updates):
    return dataclasses.replace(config, total_timesteps=updates * config.batch_size)


def change(folder, number, **changes):
    """Rewrite what a checkpoint says about itself, digest and all, as a stranger would."""
    file = folder / str(number) / "jtrpo.json"
    run = json.loads(file.read_text())
    run["settings"] |= changes.pop("settings", {})
    run |= changes
    del run["digest"]
    run["digest"] = _digest(run)
    file.write_text(json.dumps(run))
