"""Every gymnax environment with the network that its spaces ask for: random return, ours, and gymnax's reference.

    python -m benchmarks.every_environment --steps 200000 --seeds 3 --json benchmarks/results/every-environment.json

Returns are undiscounted means over 64 episodes of each seed; the reference is what gymnax's README (version 1.0.1) reports
for PPO or evolution strategies, without a budget.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, PRNGKeyArray, PyTree

import jtrpo
from jtrpo.envs.gymnax import environment_ids
from jtrpo.training.evaluation import play_episodes

EPISODES = 64
NEEDS_A_DOWNLOAD = "MNISTBandit-bsuite"
REFERENCE = {
    "Acrobot-v1": -80, "Pendulum-v1": -130, "CartPole-v1": 500, "MountainCar-v0": -118, "MountainCarContinuous-v0": 92,
    "Asterix-MinAtar": 15, "Breakout-MinAtar": 28, "Freeway-MinAtar": 58, "SpaceInvaders-MinAtar": 131,
    "Catch-bsuite": 1, "DeepSea-bsuite": 0, "MemoryChain-bsuite": 0.1, "UmbrellaChain-bsuite": 1, "DiscountingChain-bsuite": 1.1,
    "FourRooms-misc": 1, "MetaMaze-misc": 32, "PointRobot-misc": 10, "BernoulliBandit-misc": 90, "GaussianBandit-misc": 0,
}  # fmt: skip
REMEMBERED = ("MemoryChain-bsuite", "BernoulliBandit-misc", "GaussianBandit-misc", "MetaMaze-misc")
"""Where something seen earlier in the episode tells what to do; everything else takes the defaults."""


def uniform_action(space: spaces.Space, key: PRNGKeyArray) -> PyTree:
    """One uniform action as a policy would hand it over; an unbounded Box counts as [-1, 1]."""
    if isinstance(space, spaces.Box):
        return jax.random.uniform(key, (int(np.prod(space.shape)),), minval=-1.0, maxval=1.0)
    return jax.random.randint(key, (), 0, int(space.n))


def random_returns(config: jtrpo.TrainConfig, key: PRNGKeyArray) -> Array:
    """Returns of actions drawn uniformly."""
    space = config.environment.action_space
    draw = lambda observation, memory, key: (  # noqa: E731
        jax.vmap(lambda key: uniform_action(space, key))(jax.random.split(key, EPISODES)),
        memory,
    )
    return play_episodes(config.environment, draw, key, EPISODES, 10_000).return_sum


def row(env: str, steps: int, seeds: int) -> dict:
    """Train one environment and compare."""
    settings = {"memory": "gru"} if env in REMEMBERED else {}
    config = jtrpo.TrainConfig(env, total_timesteps=steps, **settings)
    trainer, train = jtrpo.make_trainer(config), jtrpo.make_train(config)

    def run(key: PRNGKeyArray) -> dict:
        result = train(key)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.policy_params)]
        return {
            "greedy": trainer.evaluate(result.state, key, EPISODES).mean(),
            "stochastic": trainer.evaluate(result.state, key, EPISODES, deterministic=False).mean(),
            "kl_violations": jnp.sum(result.metrics.policy.kl > result.metrics.hyperparams.max_kl),
            "finite": jnp.stack(finite).all(),
        }

    # One seed after the other: convolutions under vmap become grouped ones, which are slow on a CPU.
    began = time.perf_counter()
    compiled = jax.jit(run)
    runs = [jax.device_get(compiled(key)) for key in jax.random.split(jax.random.key(1), seeds)]
    return {
        "env": env,
        "settings": settings,
        "total_timesteps": config.actual_timesteps,
        "random": float(jax.jit(random_returns, static_argnums=0)(config, jax.random.key(0)).mean()),
        "greedy": [float(r["greedy"]) for r in runs],
        "stochastic": [float(r["stochastic"]) for r in runs],
        "reference": REFERENCE.get(env),
        "kl_violations": int(sum(r["kl_violations"] for r in runs)),
        "non_finite": int(sum(not r["finite"] for r in runs)),
        "seconds": time.perf_counter() - began,
    }


def line(entry: dict) -> str:
    """One row of the table."""
    better = max(np.mean(entry["greedy"]), np.mean(entry["stochastic"]))
    reference = "-" if entry["reference"] is None else f"{entry['reference']:g}"
    memory = entry["settings"].get("memory", "-")
    return (
        f"| {entry['env']} | {entry['total_timesteps']:,} | {memory} | {entry['random']:.2f} | {np.mean(entry['greedy']):.2f} "
        f"| {np.mean(entry['stochastic']):.2f} | {reference} | {'yes' if better > entry['random'] else 'no'} |"
    )


HEAD = (
    "| id | steps | memory | random | ours, greedy | ours, stochastic | gymnax's README | above random |\n"
    + "|---" * 8
    + "|"
)


def main() -> None:
    """Train every environment asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=sorted(set(environment_ids()) - {NEEDS_A_DOWNLOAD}))
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", help="write the rows to this file, and the table beside it as .md")
    options = parser.parse_args()

    print(HEAD)
    rows = []
    for env in options.envs:
        rows.append(row(env, options.steps, options.seeds))
        print(line(rows[-1]), flush=True)
        if options.json:
            file = Path(options.json)
            file.write_text(json.dumps(rows, indent=1) + "\n")
            file.with_suffix(".md").write_text("\n".join([HEAD, *map(line, rows)]) + "\n")


if __name__ == "__main__":
    main()
