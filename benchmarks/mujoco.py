"""MuJoCo's robots: trained in EnvPool, scored in whole episodes of Gymnasium's own environments.

    pip install '.[envpool,mujoco]'
    python -m benchmarks.mujoco Hopper-v5 HalfCheetah-v5 --seeds 10 --out DIR

writes ``DIR/ENV/SEED.json`` for each seed, and, from all seeds that are there, ``DIR/ENV.json``, ``DIR/table.md`` and
``DIR/curves.png``. A seed whose file is there is not trained again, so a run goes on where it stopped, and several processes may
share a folder, each with seeds of its own (``--first``). Settings are those that ship for ``envpool:ENV``; ``--settings`` changes
some, as JSON. Each policy is scored on 32 episodes with the most probable actions and on 32 with sampled ones.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jtrpo
from benchmarks.learning import redraw
from jtrpo.tools.settings import describe, differences, listed, with_defaults

EPISODES = 32
POINTS = 100
"""Of a curve: each the mean over a hundredth of the run."""


Run = Callable[[str, int, jtrpo.TrainConfig, jtrpo.Hyperparams], dict[str, Any]]
"""``(task, seed, config, hyperparams) -> what its file holds``."""


def settings_of(
    task: str, changes: dict[str, Any], suite: str = "envpool:"
) -> tuple[jtrpo.TrainConfig, jtrpo.Hyperparams]:
    """Those that ship for a task of a suite, with some changed."""
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return jtrpo.tuned(f"{suite}{task}", **listed)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """The options that say what is trained and where it is kept."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--settings", type=json.loads, default={}, help="that differ from those that ship, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def run_once(file: Path, config: jtrpo.TrainConfig, hyperparams: jtrpo.Hyperparams, run: Callable[[], Any]) -> None:
    """Write what ``run`` returns, unless the file is there already."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        if differences(json.loads(file.read_text())["settings"], describe(config, hyperparams)):
            raise SystemExit(f"{file} was made with other settings; choose another --out")
        return
    found = run()
    whole = file.with_suffix(".part")  # so that a run that is stopped leaves no half of a file
    whole.write_text(json.dumps(found) + "\n")
    whole.rename(file)


def curve_of(values: np.ndarray) -> list[float | None]:
    """Means over hundredths of a run of what is finite; ``None`` where nothing is."""
    parts = [part[np.isfinite(part)] for part in np.array_split(values, POINTS)]
    return [round(float(part.mean()), 1) if part.size else None for part in parts]


def run(task: str, seed: int, config: jtrpo.TrainConfig, hyperparams: jtrpo.Hyperparams) -> dict[str, Any]:
    """Train and score one seed."""
    trainer = jtrpo.make_host_trainer(config)
    key, *evaluation_keys = jax.random.split(jax.random.key(seed), 3)
    trainer.compile()
    began = time.perf_counter()
    state = trainer.init(key, hyperparams)
    kept = []
    for update in range(config.num_updates):
        state, metrics = trainer.step(state)
        policy, bound = metrics.policy, metrics.hyperparams.max_kl
        kept.append(
            [metrics.episode.return_mean, policy.accepted, policy.kl / bound, policy.accepted & (policy.kl > bound)]
        )
        if update % 50 == 0:
            print(f"{task}, seed {seed}: {int(metrics.timesteps):,} steps, return {float(kept[-1][0]):.1f}", flush=True)
    seconds = time.perf_counter() - began
    trainer.close()
    returns, accepted, share, outside = np.array(jax.device_get(kept), float).T
    finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.policy_params))]
    judge = jtrpo.make_host_trainer(dataclasses.replace(config, env=f"gymnasium:{task}"))
    greedy, sampled = (
        np.asarray(judge.evaluate(state, key, EPISODES, deterministic=each))
        for key, each in zip(evaluation_keys, (True, False), strict=True)
    )
    judge.close()
    return {
        "greedy": greedy.tolist(),
        "sampled": sampled.tolist(),
        "accepted": float(accepted.mean()),
        "kl_share": float(share.mean()),
        "kl_violations": int(outside.sum()),
        "non_finite": not all(finite),
        "curve": curve_of(returns),
        "seconds": seconds,
        "timesteps": config.actual_timesteps,
        "settings": describe(config, hyperparams),
        "jax": jax.__version__,
    }


def seeds_in(folder: Path) -> list[dict[str, Any]]:
    """The seeds of one row, which must share their settings."""
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    seeds = [json.loads(file.read_text()) for file in files]
    for file, seed in zip(files, seeds, strict=True):
        if different := differences(seed["settings"], with_defaults(seeds[0]["settings"])):
            raise SystemExit(f"{file} and {files[0]} have other settings, so they are not one row: {listed(different)}")
    return seeds


def gather(folder: Path) -> None:
    """Put the seeds of each environment together, as :mod:`benchmarks.learning` has them, and draw them all."""
    for task in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not (seeds := seeds_in(task)):
            continue
        steps = seeds[0]["timesteps"]
        entry = {
            "env": task.name,
            "total_timesteps": steps,
            "seeds": len(seeds),
            "deterministic_return": [float(np.mean(each["greedy"])) for each in seeds],
            "stochastic_return": [float(np.mean(each["sampled"])) for each in seeds],
            "accepted_fraction": float(np.mean([each["accepted"] for each in seeds])),
            "kl_violations": sum(each["kl_violations"] for each in seeds),
            "kl_share": float(np.mean([each["kl_share"] for each in seeds])),
            "non_finite": sum(each["non_finite"] for each in seeds),
            "timesteps": ((np.arange(POINTS) + 0.5) / POINTS * steps).tolist(),
            "curve": [each["curve"] for each in seeds],
            "settings": seeds[0]["settings"],
        }
        (folder / f"{task.name}.json").write_text(json.dumps(entry) + "\n")
    redraw(folder)


def study(parser: argparse.ArgumentParser, run: Run, suite: str) -> None:
    """Train the seeds that are missing, and draw all that are there."""
    options = parser.parse_args()
    changes = {"total_timesteps": options.steps, **options.settings}
    try:  # all mistakes before the first run
        settings = {task: settings_of(task, changes, suite) for task in options.tasks}
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    for task, (config, hyperparams) in settings.items():
        for seed in range(options.first, options.first + options.seeds):
            file = options.out / task / f"{seed}.json"
            run_once(file, config, hyperparams, partial(run, task, seed, config, hyperparams))
    gather(options.out)


def main() -> None:
    """Read the options, and train."""
    study(parser_of(__doc__), run, "envpool:")


if __name__ == "__main__":
    main()
