"""Environment steps per second of whole training, beside the floor: the same rollout without any learning.

    python -m benchmarks.throughput --envs CartPole-v1 --num-envs 64 1024 --seeds 1 20 --json throughput.json

Compilation is timed apart from running; a figure is the median of at least five runs that end in ``block_until_ready``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

import jtrpo
from jtrpo.training.rollout import collect


def measure(function: Callable, *arguments: Any, repeats: int) -> dict[str, float]:
    """Compile seconds, median, least and most run seconds, and peak memory of ``jit(function)``."""
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
    return {
        "compile_seconds": compile_seconds,
        "run_seconds": statistics.median(runs),
        "run_seconds_least": min(runs),
        "run_seconds_most": max(runs),
        "memory_bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes,
    }


def training_and_floor(config: jtrpo.TrainConfig, updates: int) -> tuple[Callable, Callable, Callable]:
    """``(init, train, rollout)``: ``updates`` updates of training, and their rollouts alone, from one key."""
    trainer, agent = jtrpo.make_trainer(config), jtrpo.make_agent(config)

    def train(state: jtrpo.TrainState) -> jtrpo.TrainState:
        return jax.lax.scan(lambda state, _: (trainer.step(state)[0], None), state, length=updates)[0]

    def rollout(state: jtrpo.TrainState) -> tuple:
        def step(carry: tuple, _: None) -> tuple:
            env_state, key = carry
            key, collect_key = jax.random.split(key)
            actor = partial(agent.policy, state)
            env_state, trajectory, _ = collect(config.environment, actor, env_state, collect_key, config.num_steps)
            return (env_state, key), trajectory.log_prob.sum()

        return jax.lax.scan(step, (state.env_state, state.key), length=updates)

    return trainer.init, train, rollout


def row(env: str, num_envs: int, num_steps: int, seeds: int, updates: int, repeats: int, **settings: Any) -> dict:
    """Measure one setting."""
    config = jtrpo.TrainConfig(env=env, num_envs=num_envs, num_steps=num_steps, **settings)
    functions = training_and_floor(config, updates)
    key = jax.random.key(0)
    if seeds > 1:
        functions, key = tuple(jax.vmap(f) for f in functions), jax.random.split(key, seeds)
    init, train, rollout = functions
    state = jax.jit(init)(key)
    steps = seeds * updates * config.batch_size
    training = measure(train, state, repeats=repeats)
    floor = measure(rollout, state, repeats=repeats)
    device = jax.devices()[0]
    return {
        "env": env,
        "num_envs": num_envs,
        "num_steps": num_steps,
        "seeds": seeds,
        "settings": settings,
        "device": f"{device.platform}: {device.device_kind}",
        "jax": jax.__version__,
        "steps_per_second": steps / training["run_seconds"],
        "floor_steps_per_second": steps / floor["run_seconds"],
        "share_of_floor": floor["run_seconds"] / training["run_seconds"],
        **training,
    }


def main() -> None:
    """Measure every combination and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["CartPole-v1"])
    parser.add_argument("--num-envs", nargs="+", type=int, default=[16, 64, 256, 1024])
    parser.add_argument("--num-steps", type=int, default=32)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--updates", type=int, default=10, help="updates in each timed run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", choices=["cpu", "gpu", "tpu"], help="default: the best that JAX finds")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error("--repeats must be at least 5: a median of fewer says little")
    if options.devices:
        jax.config.update("jax_platforms", "cuda" if options.devices == "gpu" else options.devices)

    rows = []
    print(
        f"{'env':24} {'envs':>6} {'seeds':>5} {'steps/s':>13} {'floor steps/s':>14} {'share':>6} {'compile s':>9} {'MiB':>8}"
    )
    for env in options.envs:
        for num_envs in options.num_envs:
            for seeds in options.seeds:
                r = row(env, num_envs, options.num_steps, seeds, options.updates, options.repeats)
                rows.append(r)
                print(
                    f"{env:24} {num_envs:6} {seeds:5} {r['steps_per_second']:13,.0f} {r['floor_steps_per_second']:14,.0f} "
                    f"{r['share_of_floor']:6.0%} {r['compile_seconds']:9.1f} {r['memory_bytes'] / 2**20:8.1f}",
                    flush=True,
                )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
    print(rows[0]["device"], "jax", rows[0]["jax"])


if __name__ == "__main__":
    main()
