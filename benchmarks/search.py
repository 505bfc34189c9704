"""Random search for settings of an environment: what ``jtrpo.tuned`` ships was found by this, on seeds of its own.

    python -m benchmarks.search Pendulum-v1 --steps 100000 --groups 6 --settings 12 --seeds 4 --out pendulum.jsonl

A group is one draw of the static settings, compiled once; its numbers are drawn ``--settings`` times and run side by side.
The score is the mean over seeds of the greedy return over 64 episodes, less half its standard deviation over seeds: a
setting that fails on some seeds is not a good one. Seeds come from keys that ``benchmarks/learning.py`` never uses.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

import jtrpo

FIRST_SEED = 10_000


def draw_config(rng: np.random.Generator, box: bool) -> dict[str, Any]:
    """Static settings: batch, critic and, over a Box, the distribution."""
    batch = int(rng.choice([512, 1024, 2048, 4096]))
    num_envs = int(rng.choice([8, 16, 32, 64]))
    settings: dict[str, Any] = {"num_envs": num_envs, "num_steps": batch // num_envs}
    if rng.random() < 0.75:
        settings |= {"critic": "gauss_newton", "critic_epochs": int(rng.choice([1, 2, 4]))}
    else:
        settings |= {"critic_epochs": int(rng.choice([5, 10, 20])), "critic_minibatches": max(1, batch // 256)}
    if box:
        settings |= {
            "box_distribution": str(rng.choice(["gaussian", "gsde"])),
            "initial_log_std": float(rng.choice([-1.0, -0.5, 0.0])),
        }
    return settings


def draw_numbers(rng: np.random.Generator) -> dict[str, float]:
    """Numbers of the algorithm, on the scales on which they matter."""
    log_uniform = lambda low, high: float(np.exp(rng.uniform(np.log(low), np.log(high))))  # noqa: E731
    return {
        "max_kl": log_uniform(0.003, 0.06),
        "gamma": 1.0 - log_uniform(0.002, 0.1),
        "gae_lambda": 1.0 - log_uniform(0.01, 0.3),
        "cg_damping": log_uniform(0.001, 0.3),
        "entropy_coefficient": float(rng.choice([0.0, 0.0, 0.003, 0.01])),
        "critic_learning_rate": log_uniform(3e-4, 1e-2),
        "critic_max_change": log_uniform(0.03, 1.0),
    }


def run_group(config: jtrpo.TrainConfig, numbers: list[dict[str, float]], seeds: int) -> np.ndarray:
    """Mean greedy return of every setting and seed, ``[settings, seeds]``."""
    train, trainer = jtrpo.make_train(config), jtrpo.make_trainer(config)

    def run(key: jax.Array, hyperparams: jtrpo.Hyperparams) -> jax.Array:
        return trainer.evaluate(train(key, hyperparams).state, key, 64).mean()

    stacked = jax.tree.map(lambda *x: jnp.array(x, float), *[jtrpo.Hyperparams(**each) for each in numbers])
    keys = jax.vmap(jax.random.key)(FIRST_SEED + jnp.arange(seeds))
    over_seeds = jax.vmap(run, in_axes=(0, None))
    return np.asarray(jax.jit(jax.vmap(over_seeds, in_axes=(None, 0)))(keys, stacked))


def main() -> None:
    """Search, write every setting tried as one line of JSON, and print the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--settings", type=int, default=12, help="draws of the numbers in each group")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--out", required=True, help="JSON lines; appended to")
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    box = isinstance(jtrpo.TrainConfig(options.env).environment.action_space, spaces.Box)
    tried = []
    for _ in range(options.groups):
        began = time.perf_counter()
        config = draw_config(rng, box)
        numbers = [draw_numbers(rng) for _ in range(options.settings)]
        returns = run_group(
            jtrpo.TrainConfig(options.env, total_timesteps=options.steps, **config), numbers, options.seeds
        )
        for each, row in zip(numbers, returns, strict=True):
            score = float(row.mean() - 0.5 * row.std())
            tried.append({"score": score, "returns": row.tolist(), "config": config, "numbers": each})
        with Path(options.out).open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in tried[-len(numbers) :])
        best = max(tried, key=lambda entry: entry["score"])
        print(f"{time.perf_counter() - began:.0f} s; best so far {best['score']:.1f}: {best}", flush=True)


if __name__ == "__main__":
    main()
