"""How well the shipped settings learn: many seeds in one vmapped jit, with intervals, curves and everything that went wrong.

    python -m benchmarks.learning CartPole-v1 Pendulum-v1 --seeds 20 --out DIR
    python -m benchmarks.learning CartPole-v1 Pendulum-v1 --seeds 20 --defaults --out DIR
    python -m benchmarks.learning --redraw DIR

writes ``DIR/ENV.json`` for each environment, ``DIR/table.md`` and ``DIR/curves.png``; the last command draws the last two again
from the JSON. ``--defaults`` trains for the shipped number of steps with none of the shipped settings. Every policy is scored on
128 episodes with the most probable action and on 128 with sampled ones.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import jtrpo
from jtrpo.tools.settings import describe

EPISODES = 128


def settings_of(env: str, defaults: bool, steps: int | None) -> tuple[jtrpo.TrainConfig, jtrpo.Hyperparams]:
    """The shipped settings, or the defaults for as many steps."""
    config, hyperparams = jtrpo.tuned(env, **({} if steps is None else {"total_timesteps": steps}))
    if defaults:
        return jtrpo.TrainConfig(env, total_timesteps=config.total_timesteps), jtrpo.Hyperparams()
    return config, hyperparams


def learn(config: jtrpo.TrainConfig, hyperparams: jtrpo.Hyperparams, seeds: int) -> dict[str, Any]:
    """Train and score ``seeds`` seeds."""
    env = config.env
    train, trainer = jtrpo.make_train(config), jtrpo.make_trainer(config)

    def run(key: jax.Array) -> dict[str, jax.Array]:
        state, metrics = train(key, hyperparams)
        greedy_key, sampled_key = jax.random.split(jax.random.fold_in(key, 1))
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state.policy_params, state.critic_params))]
        finite += [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics.policy)]
        return {
            "deterministic_return": trainer.evaluate(state, greedy_key, EPISODES).mean(),
            "stochastic_return": trainer.evaluate(state, sampled_key, EPISODES, deterministic=False).mean(),
            "accepted": metrics.policy.accepted.mean(),
            "kl_violations": jnp.sum(metrics.policy.accepted & (metrics.policy.kl > metrics.hyperparams.max_kl)),
            "kl_share": (metrics.policy.kl / metrics.hyperparams.max_kl).mean(),
            "broken": ~jnp.stack(finite).all(),
            "curve": metrics.episode.return_mean,
            "timesteps": metrics.timesteps,
        }

    began = time.perf_counter()
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    compiled = jax.jit(jax.vmap(run)).lower(keys).compile()
    started = time.perf_counter()
    result = jax.device_get(compiled(keys))
    ended = time.perf_counter()
    numbers = {name: float(value) for name, value in hyperparams._asdict().items()}
    apart = ("env", "total_timesteps")
    static = {name: value for name, value in describe(config).items() if name not in apart and "." not in name}
    return {
        "env": env,
        "total_timesteps": config.actual_timesteps,
        "seeds": seeds,
        "deterministic_return": result["deterministic_return"].tolist(),
        "stochastic_return": result["stochastic_return"].tolist(),
        "accepted_fraction": float(result["accepted"].mean()),
        "kl_violations": int(result["kl_violations"].sum()),
        "kl_share": float(result["kl_share"].mean()),
        "non_finite": int(result["broken"].sum()),
        "config": static,
        "hyperparams": numbers,
        "timesteps": result["timesteps"][0].tolist(),
        "curve": [[None if np.isnan(x) else round(float(x), 2) for x in row] for row in result["curve"]],
        "compile_seconds": started - began,
        "run_seconds": ended - started,
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "jax": jax.__version__,
        "jtrpo": jtrpo.__version__,
    }


def interquartile_mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264)."""
    return stats.trim_mean(x, 0.25, axis=axis)


def interval(values: list[float], statistic: Any = np.mean) -> tuple[float, float]:
    """95 % bootstrap interval over seeds; a point where all seeds agree."""
    if len(values) < 2 or np.ptp(values) == 0:
        return values[0], values[-1]
    settings = {"n_resamples": 10_000, "method": "percentile", "rng": np.random.default_rng(0)}
    bootstrap = stats.bootstrap((np.asarray(values),), statistic, **settings)
    return bootstrap.confidence_interval.low, bootstrap.confidence_interval.high


HEAD = (
    "| environment | steps | seeds | greedy: mean [95 %] | interquartile mean [95 %] | worst seed | sampled: mean [95 %] "
    "| accepted | KL above max_kl | share of max_kl used | runs with a NaN |\n" + "|---" * 11 + "|"
)


def line(entry: dict[str, Any]) -> str:
    """One row of the table."""
    greedy, sampled = entry["deterministic_return"], entry["stochastic_return"]
    band = lambda values, statistic=np.mean: "{:.1f} [{:.1f}, {:.1f}]".format(  # noqa: E731
        float(statistic(np.asarray(values))), *interval(values, statistic)
    )
    return (
        f"| {entry['env']} | {entry['total_timesteps']:,} | {entry['seeds']} | {band(greedy)} "
        f"| {band(greedy, interquartile_mean)} "
        f"| {min(greedy):.1f} | {band(sampled)} | {entry['accepted_fraction']:.1%} | {entry['kl_violations']} "
        f"| {entry['kl_share']:.0%} | {entry['non_finite']} |"
    )


def redraw(folder: Path) -> None:
    """Draw table and curves of every JSON file in a folder."""
    entries = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    if not entries:
        raise SystemExit(f"{folder} holds no .json file of this benchmark; run it with --out {folder} first")
    table = "\n".join([HEAD, *map(line, entries)])
    print(table)
    (folder / "table.md").write_text(table + "\n")
    columns = min(3, len(entries))
    rows = -(-len(entries) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(entries) :]:
        axis.remove()
    for axis, entry in zip(axes.flat, entries, strict=False):
        curve, steps = np.array(entry["curve"], float), np.array(entry["timesteps"])
        known = ~np.isnan(curve).all(axis=0)
        quantiles = np.nanquantile(curve[:, known], [0.25, 0.5, 0.75], axis=0)
        axis.fill_between(steps[known], quantiles[0], quantiles[2], alpha=0.3)
        axis.plot(steps[known], quantiles[1])
        axis.set(title=f"{entry['env']}, {entry['seeds']} seeds", xlabel="environment steps", ylabel="episode return")
        axis.grid(alpha=0.3)
    figure.suptitle("Sampled actions: median and quartiles over seeds")
    figure.savefig(folder / "curves.png", dpi=100)
    plt.close(figure)


def main() -> None:
    """Train, score, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", nargs="*", metavar="ENV")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, help="instead of the shipped total_timesteps")
    parser.add_argument("--defaults", action="store_true", help="with none of the shipped settings but total_timesteps")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--redraw", type=Path, metavar="DIR", help="only draw table and curves of DIR again")
    options = parser.parse_args()
    if options.redraw is not None:
        redraw(options.redraw)
        return
    if not options.envs or options.out is None:
        parser.error("give at least one environment and --out DIR, or --redraw DIR")
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1; got {options.seeds}")
    try:  # all mistakes before the first run
        settings = {env: settings_of(env, options.defaults, options.steps) for env in options.envs}
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    for env in options.envs:
        entry = learn(*settings[env], options.seeds)
        (options.out / f"{env.replace(':', '-')}.json").write_text(json.dumps(entry) + "\n")
    redraw(options.out)


if __name__ == "__main__":
    main()
