"""The table for users of accelerators: how training scales with environments and with seeds on this machine's device.

    python -m benchmarks.accelerator --json accelerator.json

CartPole, Pendulum, Breakout-MinAtar and a Brax environment (where Brax is installed), at 256 to 65,536 environments, and at 1
to 1,024 seeds of 64 environments each under ``vmap``. Options make it small enough for a CPU. A size that does not fit the
device's memory is left out and named.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import jax

import jtrpo
from benchmarks.throughput import parse, report, row

SOLVED_AT = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0, "Breakout-MinAtar": 8.0, "brax:inverted_pendulum": 900.0}
"""Mean return of the episodes that finish in a collection, actions sampled, from which on it counts as solved."""

NUM_STEPS = 32
ENVIRONMENTS_OF_A_SEED = 64


def rows(
    envs: list[str], num_envs: list[int], seeds: list[int], updates: int, repeats: int, solve_updates: int
) -> Iterator[dict[str, Any]]:
    """Measure every size: many environments of one seed, then many seeds."""
    for env in envs:
        sizes = [(n, 1) for n in num_envs] + [(ENVIRONMENTS_OF_A_SEED, n) for n in seeds]
        for environments, number in sizes:
            config = jtrpo.TrainConfig(
                env,
                num_envs=environments,
                num_steps=NUM_STEPS,
                critic="gauss_newton",
                critic_epochs=1,
                fisher_fraction=0.1,
                critic_fraction=0.5,
            )
            goal = SOLVED_AT.get(env) if number == 1 else None
            try:
                yield row(config, number, updates, repeats, jtrpo.Hyperparams(max_kl=0.01), goal, solve_updates)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                print(
                    f"{env}: {environments} environments x {number} seeds do not fit the device's memory",
                    file=sys.stderr,
                )


def main() -> None:
    """Measure every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = [env for env in SOLVED_AT if not env.startswith("brax:") or importlib.util.find_spec("brax")]
    parser.add_argument("--envs", nargs="+", default=here)
    parser.add_argument("--num-envs", nargs="+", type=int, default=[256, 1024, 4096, 16_384, 65_536])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 16, 128, 1024])
    parser.add_argument("--updates", type=int, default=10, help="updates in each timed run")
    parser.add_argument("--solve-updates", type=int, default=500, help="updates after which solving is given up")
    options = parse(parser)
    report(
        rows(options.envs, options.num_envs, options.seeds, options.updates, options.repeats, options.solve_updates),
        options.json,
    )


if __name__ == "__main__":
    main()
