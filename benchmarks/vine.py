"""Single path against vine, at equal simulated steps and in equal time, many seeds in one vmapped jit.

    python -m benchmarks.vine --seeds 20 --out vine.json
    python -m benchmarks.vine --table vine.json

For each environment vine meets up to three kinds of single path: with the settings below ("base"),
without sample reuse, which vine has not either, and with quick settings, which besides take their products on a tenth of the
batch. Each has as many simulated steps as vine, the branches' included, and then the budget that takes as long as vine did. Time
is processor time of the compiled training, which other programs on the machine disturb less than the clock on the wall. Per
seed: returns over 128 episodes, with the most probable and with sampled actions.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import jtrpo

GAUSS_NEWTON = {
    "critic": "gauss_newton", "critic_epochs": 1, "anneal": ("max_kl",), "fisher_fraction": 1.0, "critic_fraction": 1.0,
}  # fmt: skip
MINATAR = {
    **GAUSS_NEWTON,
    "num_envs": 32,
    "flatten_images": False,
    "entropy_coefficient": 0.0,
    "hidden_sizes": (64,),
    "activation": "relu",
    "fisher_fraction": 0.25,
    "critic_fraction": 0.25,
    "total_timesteps": 50_000,
}
SINGLE: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        **GAUSS_NEWTON, "total_timesteps": 50_000, "fisher_fraction": 0.1, "critic_fraction": 0.5, "max_kl": 0.004,
        "gae_lambda": 0.98,
    },
    "Acrobot-v1": {"total_timesteps": 50_000},
    "Pendulum-v1": {
        **GAUSS_NEWTON, "total_timesteps": 50_000, "num_steps": 8, "reuse": 3, "box_distribution": "gsde",
        "initial_log_std": -1.0, "critic_epochs": 2, "max_kl": 0.01, "gamma": 0.97,
    },
    "Breakout-MinAtar": {**MINATAR, "num_steps": 32, "max_kl": 0.02},
    "SpaceInvaders-MinAtar": {**MINATAR, "num_steps": 32, "max_kl": 0.02},
}  # fmt: skip
"""Settings of single path, beside those that ship."""

RIVALS: dict[str, dict[str, Any]] = {
    "base": {},
    "no reuse": {"reuse": 1},
    "quick": {"reuse": 1, "fisher_fraction": 0.1, "critic_fraction": 0.1},
}

_MINATAR_VINE = {"num_steps": 16, "vine_states": 64, "vine_length": 4, "fisher_fraction": 1.0}
VINE: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"num_steps": 16, "vine_states": 64, "vine_length": 8, "fisher_fraction": 1.0},
    "Acrobot-v1": {"reuse": 1, "cg_iterations": 10, "num_steps": 8, "vine_states": 64, "vine_length": 2},
    "Pendulum-v1": {"reuse": 1, "num_envs": 32, "vine_states": 128, "vine_branches": 2, "vine_length": 1},
    "Breakout-MinAtar": _MINATAR_VINE,
    "SpaceInvaders-MinAtar": _MINATAR_VINE,
}
"""What differs from single path; found by trial on other seeds."""

FIRST_SEED = 70_000
EPISODES = 128
SCORES = {"deterministic_return": "greedy", "stochastic_return": "sampled"}

PAPER = {
    "Beam Rider": (1425.2, 859.5),
    "Breakout": (10.8, 34.2),
    "Enduro": (534.6, 430.8),
    "Pong": (20.9, 20.9),
    "Q*bert": (1973.5, 7732.5),
    "Seaquest": (1908.6, 788.4),
    "Space Invaders": (568.4, 450.2),
}
"""Single path and vine in table 1 of Schulman et al. 2015: Atari, equal numbers of simulated steps."""


def learn(env: str, seeds: int, **settings: Any) -> dict[str, Any]:
    """Train and score ``seeds`` seeds: their returns, and the time that the training took."""
    config, hyperparams = jtrpo.tuned(env, **settings)
    train, trainer = jtrpo.make_train(config), jtrpo.make_trainer(config)

    def score(state: Any, key: jax.Array) -> list[jax.Array]:
        keys = jax.random.split(jax.random.fold_in(key, 1))
        greedy = trainer.evaluate(state, keys[0], EPISODES, max_steps=1000).mean()
        return [greedy, trainer.evaluate(state, keys[1], EPISODES, deterministic=False, max_steps=1000).mean()]

    keys = jax.vmap(jax.random.key)(FIRST_SEED + jnp.arange(seeds))
    compiled = jax.jit(jax.vmap(train, in_axes=(0, None))).lower(keys, hyperparams).compile()
    wall, processor = time.perf_counter(), time.process_time()
    state, metrics = jax.block_until_ready(compiled(keys, hyperparams))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    returns = jax.device_get(jax.jit(jax.vmap(score))(state, keys))
    return {
        "steps": config.actual_timesteps,
        "updates": config.num_updates,
        "steps_per_update": config.batch_size,
        "processor_seconds": processor,
        "wall_seconds": wall,
        "accepted": float(metrics.policy.accepted.mean()),
        "kl_violations": int((metrics.policy.kl > metrics.hyperparams.max_kl).sum()),
        **{name: value.tolist() for name, value in zip(SCORES, returns, strict=True)},
    }


def compare(env: str, seeds: int, steps: int | None = None) -> dict[str, Any]:
    """Vine, and each rival at as many steps and in as much time."""
    single = SINGLE[env] | ({} if steps is None else {"total_timesteps": steps})
    vine = {**single, **VINE[env], "sampling": "vine"}
    entry: dict[str, Any] = {"env": env, "seeds": seeds, "settings": {"single": single, "vine": vine}, "rivals": {}}
    entry["vine"] = mine = learn(env, seeds, **vine)
    for name, settings in RIVALS.items():
        if name == "no reuse" and jtrpo.tuned(env, **single)[0].reuse == 1:
            continue
        same_steps = learn(env, seeds, **{**single, **settings})
        faster = (same_steps["processor_seconds"] / same_steps["steps"]) / (mine["processor_seconds"] / mine["steps"])
        budget = max(1, round(mine["steps"] / faster))
        same_time = learn(env, seeds, **{**single, **settings, "total_timesteps": budget})
        entry["rivals"][name] = {"same_steps": same_steps, "same_time": same_time}
    return entry


def difference(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Mean of the first less that of the second, and a 95 % bootstrap interval over seeds."""
    samples = (np.asarray(first), np.asarray(second))
    value = samples[0].mean() - samples[1].mean()
    if np.ptp(samples[0]) == 0 and np.ptp(samples[1]) == 0:
        return value, value, value
    result = stats.bootstrap(
        samples,
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return value, result.confidence_interval.low, result.confidence_interval.high


def table(study: dict[str, Any]) -> str:
    """Markdown of a study: the means, and what vine gains at equal steps and in equal time."""
    rows = [
        "| environment | actions | steps | vine | single path's settings | single path | vine less single path [95 %] "
        "| its steps in vine's time | its return then | vine less single path [95 %] |",
        "|---" * 10 + "|",
    ]
    for entry in study["entries"]:
        for score, actions in SCORES.items():
            mine = entry["vine"][score]
            for rival, runs in entry["rivals"].items():
                cells = [entry["env"], actions, f"{entry['vine']['steps']:,}", f"{np.mean(mine):.1f}", rival]
                for kind, run in runs.items():
                    cells += [f"{run['steps']:,}"] if kind == "same_time" else []
                    cells += [
                        f"{np.mean(run[score]):.1f}",
                        "{:+.1f} [{:+.1f}, {:+.1f}]".format(*difference(mine, run[score])),
                    ]
                rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n\n" + paper_table()


def paper_table() -> str:
    """Markdown of the paper's own comparison."""
    names = " | ".join(PAPER)
    rows = [f"| Schulman et al. 2015, table 1 | {names} |", "|---" * (len(PAPER) + 1) + "|"]
    for index, method in enumerate(("single path", "vine")):
        rows.append(f"| {method} | " + " | ".join(str(scores[index]) for scores in PAPER.values()) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run every environment and write the file after each, or make a table of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=SINGLE, default=list(SINGLE), metavar="ENV")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, help="instead of each environment's own budget")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the table of a file that --out wrote")
    options = parser.parse_args()
    if options.table is not None:
        print(table(json.loads(options.table.read_text())), end="")
        return
    if options.out is None:
        parser.error("give --out FILE, or --table FILE")
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}"
    study: dict[str, Any] = {"device": device, "jax": jax.__version__, "entries": []}
    for env in options.envs:
        study["entries"].append(compare(env, options.seeds, options.steps))
        options.out.write_text(json.dumps(study) + "\n")
        print(table({**study, "entries": study["entries"][-1:]}), flush=True)


if __name__ == "__main__":
    main()
