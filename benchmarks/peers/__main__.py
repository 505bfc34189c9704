"""jtrpo beside its peers, in turn, several times: ratios with their spread.

    python -m benchmarks.peers --sb3 sb3/bin/python --rejax rejax/bin/python --json peers.json

The two options name the interpreters of environments that hold sb3-contrib and Rejax (the files beside this one say how to make
them); a peer that is not named is left out. Compilation is timed apart. "The same work": the same environments, batch, network,
products of conjugate gradients, critic epochs and minibatches. Each repeat runs the peer and then jtrpo. All rows are CartPole's
but those of Hopper, which need EnvPool here and ``gymnasium[mujoco]`` beside sb3-contrib; without EnvPool they are left out. In
their repeats EnvPool also runs alone, with random actions, and the last column is the share of its rate that training has.
"""

import argparse
import json
import statistics
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jtrpo

HERE = Path(__file__).parent
BARE = {"normalize_observations": False, "scale_rewards": False}  # as sb3-contrib's defaults
ZOO = {
    "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "learning_rate": 1e-3, "n_critic_updates": 20,
}  # fmt: skip
SB3_64 = {
    "env": "CartPole-v1", "n_envs": 64, "n_steps": 32, "steps": 40_960,
    "settings": {"cg_max_steps": 15, "n_critic_updates": 10},
}  # fmt: skip
SB3_ZOO = {"env": "CartPole-v1", "n_envs": 2, "n_steps": 512, "steps": 20_480, "settings": {"cg_max_steps": 15, **ZOO}}
SB3_HOPPER = {
    "env": "Hopper-v5", "n_envs": 2, "n_steps": 1024, "steps": 20_480, "normalize": True,
    "settings": {"cg_max_steps": 25, "cg_damping": 0.1, "n_critic_updates": 20, "learning_rate": 1e-3, "batch_size": 128},
}  # fmt: skip
SAME_64 = {
    **BARE, "num_envs": 64, "num_steps": 32, "cg_iterations": 15, "fisher_fraction": 1.0, "critic": "adam", "critic_epochs": 10,
    "critic_minibatches": 16, "anneal": (),
}  # fmt: skip
SAME_ZOO = {**SAME_64, "num_envs": 2, "num_steps": 512, "critic_epochs": 20, "critic_minibatches": 2}
REJAX = {
    "num_envs": 64, "num_steps": 128, "steps": 500_000,
    "settings": {
        "num_epochs": 4, "num_minibatches": 4, "learning_rate": 7.5e-4, "max_grad_norm": 0.5,
        "agent_kwargs": {"activation": "tanh", "hidden_layer_sizes": [64, 64]},
    },
}  # fmt: skip
QUICK = {
    "critic": "gauss_newton", "critic_epochs": 1, "anneal": ("max_kl",), "fisher_fraction": 0.1, "critic_fraction": 0.5,
    "max_kl": 0.004, "gae_lambda": 0.98,
}  # fmt: skip
HOPPER = {"env": "envpool:Hopper-v5", "total_timesteps": 40_960}
HOPPER_64 = {**HOPPER, "num_envs": 64, "num_steps": 32, "fisher_fraction": 0.25, "critic_fraction": 0.25}
HOPPER_128 = {**HOPPER_64, "num_envs": 128}
HOPPER_QUICK = {**HOPPER_64, "num_steps": 128, "fisher_fraction": 0.1, "critic_epochs": 1}
HOPPER_LARGE = {**HOPPER_QUICK, "num_envs": 128, "total_timesteps": 49_152}
BESIDE_REJAX = {
    **QUICK, "num_envs": 64, "num_steps": 128, "fisher_fraction": 0.1, "critic_fraction": 0.1, "total_timesteps": 500_000,
    "max_kl": 0.01,
}  # fmt: skip

ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "the same work, 64 x 32": ("sb3", SB3_64, SAME_64, 1),
    "the same work, rl-zoo3's 2 x 512": ("sb3", SB3_ZOO, SAME_ZOO, 1),
    "quick settings against 64 x 32": ("sb3", SB3_64, QUICK, 1),
    "20 seeds of 100,000 steps against one": ("sb3", {**SB3_ZOO, "steps": 100_000}, QUICK, 20),
    "the defaults against 64 x 32": ("sb3", SB3_64, {}, 1),
    "Hopper-v5, rl-zoo3's settings against those that ship, 8 x 256": ("sb3", SB3_HOPPER, HOPPER, 1),
    "Hopper-v5, rl-zoo3's settings against 64 x 32, products on a quarter": ("sb3", SB3_HOPPER, HOPPER_64, 1),
    "Hopper-v5, rl-zoo3's settings against 128 x 32, products on a quarter": ("sb3", SB3_HOPPER, HOPPER_128, 1),
    "Hopper-v5, rl-zoo3's settings against 64 x 128, products on a tenth": ("sb3", SB3_HOPPER, HOPPER_QUICK, 1),
    "Hopper-v5, rl-zoo3's settings against 128 x 128, products on a tenth": ("sb3", SB3_HOPPER, HOPPER_LARGE, 1),
    "against PPO, 64 x 128": ("rejax", REJAX, BESIDE_REJAX, 1),
}
"""By name: the peer, what it is asked, settings of ours that differ from the defaults, and seeds under vmap."""


class Ours:
    """A compiled training of jtrpo, its compilation timed apart."""

    def __init__(self, seeds: int, settings: dict[str, Any]) -> None:
        config, hyperparams = jtrpo.tuned(**{"env": "CartPole-v1", **settings})
        train, trainer = jtrpo.make_train(config), jtrpo.make_trainer(config)

        def run(key: jax.Array) -> tuple[jtrpo.TrainState, jtrpo.Metrics]:
            return train(key, hyperparams)

        self.keys = jax.random.split(jax.random.key(0), seeds) if seeds > 1 else jax.random.key(0)
        together = jax.vmap(run) if seeds > 1 else run
        score = lambda state: trainer.evaluate(state, jax.random.key(1)).mean()  # noqa: E731
        self.score = jax.jit(jax.vmap(score) if seeds > 1 else score)
        self.steps = config.actual_timesteps
        began = time.perf_counter()
        self.compiled = jax.jit(together).lower(self.keys).compile()
        self.compile_seconds = time.perf_counter() - began
        self.state, _ = jax.block_until_ready(self.compiled(self.keys))

    def seconds(self) -> float:
        """Run time of one whole training."""
        began = time.perf_counter()
        jax.block_until_ready(self.compiled(self.keys))
        return time.perf_counter() - began


class OursOnHost:
    """The same of a training in environments on the host, for one seed."""

    def __init__(self, _: int, settings: dict[str, Any]) -> None:
        config, hyperparams = jtrpo.tuned(**settings)
        self.config, self.trainer = config, jtrpo.make_host_trainer(config)
        self.steps, self.updates = config.actual_timesteps, config.num_updates
        began = time.perf_counter()
        self.trainer.compile()
        self.compile_seconds = time.perf_counter() - began
        self.state = self.trainer.init(jax.random.key(0), hyperparams)
        self.seconds()
        self.score = lambda state: np.asarray(self.trainer.evaluate(state, jax.random.key(1), 32))

    def seconds(self) -> float:
        """Run time of as many updates as one training has, from where the one before ended."""
        began = time.perf_counter()
        for _ in range(self.updates):
            self.state, _ = self.trainer.step(self.state)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began

    def seconds_of_environments(self) -> float:
        """Run time of as many steps of the same environments alone, with random actions."""
        vector = self.config.environment.make(self.config.num_envs, 0)
        vector.reset()
        space, every = self.config.environment.action_space, range(self.config.num_envs)
        actions = [np.stack([space.sample() for _ in every]) for _ in range(self.config.num_steps)]
        began = time.perf_counter()
        for _ in range(self.updates):
            for action in actions:
                vector.step(action)
        seconds = time.perf_counter() - began
        vector.close()
        return seconds


def ask(python: str, peer: str, question: dict[str, Any]) -> dict[str, float]:
    """What a peer's own process answers."""
    command = [python, str(HERE / f"{peer}_speed.py"), json.dumps(question)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def compare(python: str, name: str, repeats: int) -> dict[str, Any]:
    """One row: rates of both, and the ratio of every pair of runs."""
    peer, question, settings, seeds = ROWS[name]
    on_host = settings.get("env", "").startswith("envpool:")
    ours = (OursOnHost if on_host else Ours)(seeds, settings)
    alone = ours.seconds_of_environments if isinstance(ours, OursOnHost) else lambda: float("nan")
    runs = [(ask(python, peer, question), ours.seconds(), alone()) for _ in range(repeats)]
    # For many seeds against one run, the ratio is that of wall times, and otherwise of steps per second.
    rates = [ours.steps / seconds for _, seconds, _ in runs]
    ratios = sorted(rate / answer["steps_per_second"] for rate, (answer, *_) in zip(rates, runs, strict=True))
    return {
        "row": name,
        "peer": peer,
        "peer_steps_per_second": statistics.median(answer["steps_per_second"] for answer, *_ in runs),
        "steps_per_second": statistics.median(rates) * seeds,
        "ratio": statistics.median(ratios),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
        "share_of_environments": statistics.median(alone / seconds for _, seconds, alone in runs),
        "compile_seconds": ours.compile_seconds,
        "return": float(ours.score(ours.state).mean()),
        "peer_return": statistics.fmean(answer.get("return", float("nan")) for answer, *_ in runs),
    }


def main() -> None:
    """Run the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3", metavar="PYTHON", help="interpreter with sb3-contrib")
    parser.add_argument("--rejax", metavar="PYTHON", help="interpreter with Rejax")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    pythons = {name: python for name in ("sb3", "rejax") if (python := getattr(options, name))}
    if not pythons:
        parser.error("name at least one peer's interpreter: --sb3 PYTHON or --rejax PYTHON")
    if options.repeats < 5:
        parser.error("--repeats must be at least 5: a median of fewer says little")
    rows = []
    print(
        "| row | peer, steps/s | jtrpo, steps/s | time ratio (least to most) | compiled in | return, peer's | share |\n"
        + "|---" * 7
        + "|"
    )
    asked = {name: row for name, row in ROWS.items() if options.only in name}
    here = {name: peer for name, (peer, _, ours, _) in asked.items() if "env" not in ours or find_spec("envpool")}
    for name, peer in here.items():
        if peer in pythons:
            row = compare(pythons[peer], name, options.repeats)
            rows.append(row)
            print(
                f"| {name} | {peer} {row['peer_steps_per_second']:,.0f} | {row['steps_per_second']:,.0f} "
                f"| {row['ratio']:.1f} ({row['ratio_least']:.1f} to {row['ratio_most']:.1f}) | {row['compile_seconds']:.0f} s "
                f"| {row['return']:.0f}, {row['peer_return']:.0f} | {row['share_of_environments']:.2f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
