"""MinAtar's games for ten million steps, as gymnax publishes PPO's returns.

    python -m benchmarks.minatar Breakout-MinAtar Freeway-MinAtar --seeds 3 --out DIR

writes ``DIR/GAME/SEED.json`` for each seed, and, from all seeds that are there, ``DIR/GAME.json``, ``DIR/table.md`` and
``DIR/curves.png``; it goes on where it stopped, as :mod:`benchmarks.mujoco` does. Settings are those that ship. Each policy is
scored on 64 episodes with the most probable actions and on 64 with sampled ones.
"""

import time
from typing import Any

import jax
import numpy as np

import jtrpo
from benchmarks.mujoco import curve_of, parser_of, study
from jtrpo.tools.settings import describe

EPISODES = 64


def run(game: str, seed: int, config: jtrpo.TrainConfig, hyperparams: jtrpo.Hyperparams) -> dict[str, Any]:
    """Train and score one seed."""
    trainer = jtrpo.make_trainer(config)
    key, *evaluation_keys = jax.random.split(jax.random.key(seed), 3)
    train = jax.jit(jtrpo.make_train(config)).lower(key, hyperparams).compile()
    began = time.perf_counter()
    state, metrics = jax.block_until_ready(train(key, hyperparams))[:2]
    seconds = time.perf_counter() - began
    evaluate = jax.jit(trainer.evaluate, static_argnames=("num_episodes", "deterministic"))
    greedy, sampled = (
        np.asarray(evaluate(state, key, num_episodes=EPISODES, deterministic=each))
        for key, each in zip(evaluation_keys, (True, False), strict=True)
    )
    policy, bound = metrics.policy, metrics.hyperparams.max_kl
    finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.policy_params))]
    print(f"{game}, seed {seed}: greedy {greedy.mean():.1f}, sampled {sampled.mean():.1f}, {seconds:.0f} s", flush=True)
    return {
        "greedy": greedy.tolist(),
        "sampled": sampled.tolist(),
        "accepted": float(policy.accepted.mean()),
        "kl_share": float((policy.kl / bound).mean()),
        "kl_violations": int((policy.accepted & (policy.kl > bound)).sum()),
        "non_finite": not all(finite),
        "curve": curve_of(np.asarray(metrics.episode.return_mean)),
        "seconds": seconds,
        "timesteps": config.actual_timesteps,
        "settings": describe(config, hyperparams),
        "jax": jax.__version__,
    }


def main() -> None:
    """Read the options, and train."""
    parser = parser_of(__doc__)
    parser.set_defaults(seeds=3, steps=10_000_000)
    study(parser, run, suite="")


if __name__ == "__main__":
    main()
