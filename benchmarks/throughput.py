"""Environment steps per second of whole training, beside the floor: the same rollout without any learning.

    python -m benchmarks.throughput --envs CartPole-v1 --num-envs 64 1024 --seeds 1 20 --json throughput.json

Compilation is timed apart from running; a figure is the median of at least five runs that end in ``block_until_ready``. The
memory is what XLA plans for the program: arguments, results and temporary arrays at their peak. The table goes to the
terminal and, with the rows, beside FILE as FILE.md and FILE.png; ``--redraw FILE`` makes both again from the JSON.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jtrpo
from jtrpo.training.rollout import collect


def measure(function: Callable, *arguments: Any, repeats: int) -> tuple[dict[str, float], Callable]:
    """Compile seconds, median, least and most run seconds and memory of ``jit(function)``; and the compiled program."""
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    jax.block_until_ready(compiled(*arguments))  # warm up
    runs = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        runs.append(time.perf_counter() - began)
    memory = compiled.memory_analysis()
    figures = {
        "compile_seconds": compile_seconds,
        "run_seconds": statistics.median(runs),
        "run_seconds_least": min(runs),
        "run_seconds_most": max(runs),
        "memory_bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes,
    }
    return figures, compiled


def training_and_floor(config: jtrpo.TrainConfig, updates: int) -> tuple[Callable, Callable, Callable]:
    """``(init, train, rollout)``: ``updates`` updates of training, and their rollouts alone, from one state."""
    trainer, agent = jtrpo.make_trainer(config), jtrpo.make_agent(config)

    def train(state: jtrpo.TrainState) -> tuple[jtrpo.TrainState, jax.Array]:
        def step(state: jtrpo.TrainState, _: None) -> tuple[jtrpo.TrainState, jax.Array]:
            state, metrics = trainer.step(state)
            return state, metrics.episode.return_mean

        return jax.lax.scan(step, state, length=updates)

    def rollout(state: jtrpo.TrainState) -> tuple:
        def step(carry: tuple, _: None) -> tuple:
            env_state, key = carry
            key, collect_key = jax.random.split(key)
            actor = partial(agent.policy, state)
            env_state, trajectory, _ = collect(config.environment, actor, env_state, collect_key, config.num_steps)
            return (env_state, key), trajectory.log_prob.sum()

        return jax.lax.scan(step, (state.env_state, state.key), length=updates)

    return trainer.init, train, rollout


def row(
    config: jtrpo.TrainConfig,
    seeds: int,
    updates: int,
    repeats: int,
    hyperparams: jtrpo.Hyperparams = jtrpo.Hyperparams(),
    solved_at: float | None = None,
    most_updates: int = 0,
) -> dict[str, Any]:
    """Measure one setting: one row of the table.

    Args:
        config: what to train.
        seeds: independent runs under vmap.
        updates: in each timed run.
        repeats: timed runs.
        hyperparams: numbers of the algorithm.
        solved_at: go on until the mean return of the episodes that finish in one collection, over all seeds, reaches this.
        most_updates: give that up after so many updates.
    """
    init, train, rollout = training_and_floor(config, updates)
    key = jax.random.key(0)
    if seeds > 1:
        key = jax.random.split(key, seeds)
        init, train, rollout = jax.vmap(init, (0, None)), jax.vmap(train), jax.vmap(rollout)
    state = jax.jit(init)(key, hyperparams)
    steps = seeds * updates * config.batch_size
    training, compiled = measure(train, state, repeats=repeats)
    floor, _ = measure(rollout, state, repeats=repeats)
    device = jax.devices()[0]
    return {
        "env": config.env if isinstance(config.env, str) else repr(config.environment),
        "num_envs": config.num_envs,
        "num_steps": config.num_steps,
        "hidden_sizes": list(config.hidden_sizes),
        "seeds": seeds,
        "updates": updates,
        "device": f"{device.platform}: {device.device_kind}",
        "jax": jax.__version__,
        "steps_per_second": steps / training["run_seconds"],
        "floor_steps_per_second": steps / floor["run_seconds"],
        "share_of_floor": floor["run_seconds"] / training["run_seconds"],
        "seconds_to_solve": None
        if solved_at is None
        else seconds_to_solve(compiled, state, solved_at, most_updates, training["run_seconds"] / updates),
        **training,
    }


def seconds_to_solve(
    train: Callable, state: jtrpo.TrainState, solved_at: float, most_updates: int, seconds_per_update: float
) -> float | None:
    """Run time, compilation apart, to the first update that reaches ``solved_at``; or None."""
    done = 0
    while done < most_updates:
        state, returns = train(state)
        returns = np.asarray(returns).reshape(-1, np.shape(returns)[-1])
        mean = np.array([np.mean(seen) if (seen := r[~np.isnan(r)]).size else -np.inf for r in returns.T])
        if (mean >= solved_at).any():
            return float((done + np.argmax(mean >= solved_at) + 1) * seconds_per_update)
        done += len(mean)
    return None


HEAD = (
    "| environment | environments x steps | network | seeds | steps/s | rollout alone, steps/s | share | to solve | compiled in "
    "| memory |\n" + "|---" * 10 + "|"
)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    solved, network = row["seconds_to_solve"], " x ".join(map(str, row["hidden_sizes"]))
    return (
        f"| {row['env']} | {row['num_envs']:,} x {row['num_steps']} | {network} | {row['seeds']:,} "
        f"| {row['steps_per_second']:,.0f} | {row['floor_steps_per_second']:,.0f} | {row['share_of_floor']:.0%} "
        f"| {'-' if solved is None else f'{solved:.2f} s'} | {row['compile_seconds']:.1f} s "
        f"| {row['memory_bytes'] / 2**20:,.1f} MiB |"
    )


def draw(file: Path) -> None:
    """Write the table and the picture of a JSON file beside it."""
    rows = json.loads(file.read_text())
    device = f"{rows[0]['device']}, jax {rows[0]['jax']}"
    file.with_suffix(".md").write_text("\n".join([f"# {device}", "", HEAD, *map(line, rows)]) + "\n")
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, x, label in zip(
        panels, ("num_envs", "seeds"), ("environments, one seed", "seeds under vmap"), strict=True
    ):
        curves: dict[tuple, list] = {}
        for each in rows:
            if x == "seeds" or each["seeds"] == 1:
                fixed = tuple(str(each[name]) for name in ("env", "num_steps", "hidden_sizes", "num_envs") if name != x)
                curves.setdefault(fixed, []).append(each)
        for fixed, points in curves.items():
            if len(points) > 1:
                axis = [each[x] for each in points]
                (curve,) = panel.plot(axis, [each["steps_per_second"] for each in points], "o-", label=", ".join(fixed))
                floor = [each["floor_steps_per_second"] for each in points]
                panel.plot(axis, floor, "--", color=curve.get_color(), alpha=0.6)
        panel.set(xlabel=label, ylabel="environment steps per second", xscale="log", yscale="log")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="small")
    figure.suptitle(f"{device}: training, and dashed its rollouts alone")
    figure.savefig(file.with_suffix(".png"), dpi=100)


def report(rows: Iterable[dict[str, Any]], file: Path | None) -> None:
    """Print every row as it is measured; with a file, write rows, table and picture."""
    print(HEAD)
    measured = []
    for each in rows:
        measured.append(each)
        print(line(each), flush=True)
        if file is not None:  # after every row, so that a long run that is cut short leaves what it has
            file.write_text(json.dumps(measured, indent=1) + "\n")
    if file is not None:
        draw(file)
    print(measured[0]["device"], "jax", measured[0]["jax"])


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the options that every table of speeds has, and those that the parser has already."""
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of which the median is taken")
    parser.add_argument("--devices", choices=["cpu", "gpu", "tpu"], help="default: the best that JAX finds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows, table and picture to FILE, .md and .png")
    parser.add_argument("--redraw", type=Path, metavar="FILE", help="only make table and picture of FILE again")
    options = parser.parse_args()
    if options.redraw is not None:
        draw(options.redraw)
        parser.exit()
    if options.repeats < 5:
        parser.error("--repeats must be at least 5: a median of fewer says little")
    if options.devices:
        jax.config.update("jax_platforms", "cuda" if options.devices == "gpu" else options.devices)
    return options


def main() -> None:
    """Measure every combination and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["CartPole-v1"])
    parser.add_argument("--num-envs", nargs="+", type=int, default=[16, 64, 256, 1024])
    parser.add_argument("--num-steps", nargs="+", type=int, default=[32])
    parser.add_argument("--widths", nargs="+", type=int, default=[64], help="of the two hidden layers")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--updates", type=int, default=10, help="updates in each timed run")
    options = parse(parser)
    grid = itertools.product(options.envs, options.widths, options.num_steps, options.seeds, options.num_envs)
    report(
        (
            row(
                jtrpo.TrainConfig(env, num_envs=num_envs, num_steps=num_steps, hidden_sizes=(width, width)),
                seeds,
                options.updates,
                options.repeats,
            )
            for env, width, num_steps, seeds, num_envs in grid
        ),
        options.json,
    )


if __name__ == "__main__":
    main()
