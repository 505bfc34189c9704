"""Rejax's PPO with the settings that Rejax ships; runs where Rejax is installed, and needs nothing of jtrpo.

    python3 -m venv rejax && rejax/bin/pip install rejax==0.1.3 gymnax==0.0.9
    rejax/bin/python benchmarks/peers/rejax_ppo.py CartPole-v1 --seeds 100 --out DIR

writes ``DIR/ENV.json``: the mean return of every seed over 128 episodes of Rejax's last evaluation, with sampled actions; all
seeds in one vmapped jit. Budgets are those of the learning benchmark, not Rejax's own.

Settings: https://github.com/keraJLi/rejax, configs/gymnax, where MountainCar-v0 is marked as not fitted.
"""

import argparse
import json
import time
from pathlib import Path

COMMON = {
    "gae_lambda": 0.95, "clip_eps": 0.2, "vf_coef": 0.5, "ent_coef": 0.0, "gamma": 0.99,
    "num_envs": 5, "num_steps": 100, "num_epochs": 10, "num_minibatches": 10, "max_grad_norm": 10,
}  # fmt: skip
SLOWER = {"num_epochs": 5, "num_minibatches": 5, "max_grad_norm": 0.5}
SETTINGS = {
    "CartPole-v1": {**SLOWER, "activation": "tanh", "learning_rate": 7.5e-4, "ent_coef": 0.01},
    "Acrobot-v1": {
        **SLOWER, "activation": "tanh", "learning_rate": 7.5e-4, "ent_coef": 0.01, "normalize_observations": True,
    },
    "MountainCar-v0": {
        **SLOWER, "activation": "tanh", "learning_rate": 2.5e-4, "gae_lambda": 0.98, "num_envs": 10, "num_steps": 20,
    },
    "MountainCarContinuous-v0": {"activation": "relu", "learning_rate": 3e-4, "gamma": 0.9},
    "Pendulum-v1": {
        "activation": "swish", "learning_rate": 1e-3, "gamma": 0.995, "num_envs": 100, "normalize_observations": True,
    },
}  # fmt: skip
BUDGET = {"MountainCarContinuous-v0": 50_000}


def main() -> None:
    """Train every environment asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="+", choices=sorted(SETTINGS), metavar="ENV")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--steps", type=int, help="instead of the learning benchmark's budget")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from importlib.metadata import version

    import jax
    import numpy as np
    import rejax

    options.out.mkdir(parents=True, exist_ok=True)
    for env in options.envs:
        settings = {**COMMON, **SETTINGS[env]}
        activation = settings.pop("activation")
        total = options.steps or BUDGET.get(env, 100_000)
        algorithm = rejax.PPO.create(
            env=env, total_timesteps=total, eval_freq=total, agent_kwargs={"activation": activation}, **settings
        )
        keys = jax.random.split(jax.random.key(0), options.seeds)
        began = time.perf_counter()
        _, (_, returns) = jax.block_until_ready(jax.jit(jax.vmap(algorithm.train))(keys))
        mean = np.asarray(returns)[:, -1].mean(axis=-1)
        print(f"{env}: {mean.mean():.1f}, worst {mean.min():.1f}, {time.perf_counter() - began:.0f} s", flush=True)
        entry = {
            "env": env,
            "library": f"rejax {version('rejax')}, gymnax {version('gymnax')}",
            "settings": {**settings, "activation": activation},
            "total_timesteps": total,
            "seeds": options.seeds,
            "stochastic_return": mean.tolist(),
        }
        (options.out / f"{env}.json").write_text(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
