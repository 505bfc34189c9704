"""Steps per second of sb3-contrib's TRPO; runs where sb3-contrib is installed, for MuJoCo with ``gymnasium[mujoco]``.

    sb3/bin/python sb3_speed.py '{"env": "CartPole-v1", "n_envs": 64, "n_steps": 32, "steps": 20480, "settings": {}}'

prints one line of JSON. One collection and update warm up; torch uses the given number of threads. With ``"normalize": true``
observations and rewards go through VecNormalize.
"""

import json
import sys
import time


def main() -> None:
    """Train once and print the rate."""
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked.get("threads", 1))
    envs = make_vec_env(asked["env"], n_envs=asked["n_envs"], seed=0)
    if asked.get("normalize"):
        envs = VecNormalize(envs)
    model = TRPO("MlpPolicy", envs, n_steps=asked["n_steps"], seed=0, device="cpu", **asked["settings"])
    batch = asked["n_envs"] * asked["n_steps"]
    model.learn(batch)
    began = time.perf_counter()
    model.learn(asked["steps"], reset_num_timesteps=False)
    seconds = time.perf_counter() - began
    print(json.dumps({"steps_per_second": (model.num_timesteps - batch) / seconds}))


if __name__ == "__main__":
    main()
