"""sb3-contrib's TRPO with rl-zoo3's tuned settings; runs where sb3-contrib is installed, and needs nothing of jtrpo.

    python3 -m venv sb3 && sb3/bin/pip install sb3-contrib 'gymnasium[mujoco]'
    sb3/bin/python benchmarks/peers/sb3.py CartPole-v1 --seeds 10 --out DIR

writes ``DIR/ENV.json``: the mean greedy return of every seed over 128 episodes (MuJoCo's robots: 32), at half the budget and at
all of it. Constant learning rates make the run to half the budget the first half of the whole one. Seeds that are there already
are not trained again.

Settings: https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/trpo.yml.
"""

import argparse
import json
import time
from pathlib import Path

ROBOT = {
    "n_steps": 1024, "batch_size": 128, "cg_max_steps": 25, "cg_damping": 0.1, "n_critic_updates": 20, "learning_rate": 1e-3,
}  # fmt: skip
ROBOTS = {"HalfCheetah-v5": {**ROBOT, "target_kl": 0.04}, "Hopper-v5": ROBOT, "Walker2d-v5": ROBOT}
BUDGET = {"MountainCarContinuous-v0": 50_000, **dict.fromkeys(ROBOTS, 1_000_000)}
NORMALIZED = {"Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", *ROBOTS}
SETTINGS = {
    "CartPole-v1": {
        "n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "learning_rate": 1e-3, "n_critic_updates": 20,
    },
    "Pendulum-v1": {"n_steps": 1024, "gamma": 0.9, "n_critic_updates": 15, "use_sde": True, "sde_sample_freq": 4},
    "Acrobot-v1": {"n_steps": 1024},
    "MountainCar-v0": {"n_steps": 1024, "n_critic_updates": 20},
    "MountainCarContinuous-v0": {"n_steps": 2048, "use_sde": True, "sde_sample_freq": 4},
    **ROBOTS,
}  # fmt: skip
EPISODES = {env: 32 if env in ROBOTS else 128 for env in SETTINGS}


def train(env: str, seed: int, total: int) -> dict:
    """One seed: greedy returns at half the budget and at all of it."""
    import numpy as np
    from sb3_contrib import TRPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    def score() -> float:
        games = make_vec_env(env, n_envs=16, seed=seed + 1000)
        if env in NORMALIZED:
            games = VecNormalize(games, training=False, norm_reward=False)
            games.obs_rms = envs.obs_rms
        return float(np.mean(evaluate_policy(model, games, EPISODES[env], deterministic=True)[0]))

    settings = {"gamma": 0.99, **SETTINGS[env]}
    envs = make_vec_env(env, n_envs=2, seed=seed)
    if env in NORMALIZED:
        envs = VecNormalize(envs, gamma=settings["gamma"])
    model = TRPO("MlpPolicy", envs, seed=seed, device="cpu", **settings)
    began = time.perf_counter()
    model.learn(total // 2)
    half, half_steps = score(), model.num_timesteps
    model.learn(total - half_steps, reset_num_timesteps=False)
    return {
        "seed": seed,
        "half": half,
        "half_timesteps": half_steps,
        "return": score(),
        "timesteps": model.num_timesteps,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Train every environment and seed asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="+", choices=sorted(SETTINGS), metavar="ENV")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import sb3_contrib
    import torch

    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for env in options.envs:
        file = options.out / f"{env}.json"
        runs = json.loads(file.read_text())["runs"] if file.exists() else []
        for seed in range(len(runs), options.seeds):
            runs.append(train(env, seed, BUDGET.get(env, 100_000)))
            print(env, runs[-1], flush=True)
            entry = {
                "env": env,
                "library": f"sb3-contrib {sb3_contrib.__version__}",
                "settings": SETTINGS[env],
                "runs": runs,
            }
            file.write_text(json.dumps(entry, indent=1) + "\n")


if __name__ == "__main__":
    main()
