"""Within a limit on costs: MuJoCo's robots that may not run too fast, by each method, beside omnisafe's published figures.

    pip install '.[envpool,mujoco]'
    python -m benchmarks.constrained Hopper HalfCheetah --methods cpo lagrangian --seeds 3 --out DIR

writes ``DIR/TASK/METHOD/SEED.json`` for each seed, and, from all seeds that are there, ``DIR/table.md`` and ``DIR/curves.png``. A
seed whose file is there is not trained again, so a run goes on where it stopped, and several processes may share a folder, each
with seeds of its own (``--first``). Settings are those that ship for ``envpool:SafetyTASKVelocity-v1``; ``--settings`` changes
some, as JSON. Each policy is scored on 32 whole episodes of Gymnasium's environment with sampled actions, which the limit is
about, and on 32 with the most probable ones.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

import jtrpo
from benchmarks import mujoco
from benchmarks.learning import interval
from jtrpo.tools.settings import describe
from jtrpo.training.constrained import METHODS

PUBLISHED = {
    ("Ant", "cpo"): (3099, 14),
    ("Ant", "pcpo"): (2257, 10),
    ("Ant", "lagrangian"): (3042, 20),
    ("HalfCheetah", "cpo"): (2786, 5),
    ("HalfCheetah", "lagrangian"): (2885, 9),
    ("Hopper", "cpo"): (1714, 13),
    ("Hopper", "lagrangian"): (1392, 11),
    ("Walker2d", "cpo"): (2075, 22),
    ("Walker2d", "lagrangian"): (3207, 15),
}
"""Return and cost of an episode after 10,000,000 steps, limit 25: omnisafe's docs/source/benchmark/on-policy.md, table 2."""


def settings_of(task: str, method: str, changes: dict[str, Any]) -> tuple[jtrpo.TrainConfig, jtrpo.Hyperparams]:
    """Those that ship for a task in EnvPool, with some changed; ``"none"`` keeps no limit."""
    limited = {} if method == "none" else {"constraint_method": method}
    return mujoco.settings_of(f"Safety{task}Velocity-v1", {**limited, **changes})


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
        outside = policy.accepted & (policy.kl > bound)
        kept.append([metrics.episode.return_mean, metrics.episode.cost_mean, policy.accepted, outside])
        if update % 50 == 0:
            print(f"{task}, {config.constraint_method}, seed {seed}: {int(metrics.timesteps):,} steps", flush=True)
    seconds = time.perf_counter() - began
    trainer.close()
    returns, costs, accepted, outside = np.array(jax.device_get(kept), float).T
    finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.policy_params))]
    judge = jtrpo.make_host_trainer(dataclasses.replace(config, env=f"gymnasium:Safety{task}Velocity-v1"))
    scores = {}
    for name, key in zip(("sampled", "greedy"), evaluation_keys, strict=True):
        found, episodes = judge.evaluate(state, key, mujoco.EPISODES, deterministic=name == "greedy", summary=True)
        scores[name] = [float(np.mean(found)), float(episodes.cost_mean)]
    judge.close()

    return {
        **scores,
        "accepted": float(accepted.mean()),
        "kl_violations": int(outside.sum()),
        "non_finite": not all(finite),
        "curves": [mujoco.curve_of(returns), mujoco.curve_of(costs)],
        "seconds": seconds,
        "timesteps": config.actual_timesteps,
        "settings": describe(config, hyperparams),
        "jax": jax.__version__,
    }


def table(folder: Path) -> str:
    """Return and cost of all seeds that are there, and what omnisafe has."""
    columns = "task, method, steps, seeds, return [95 %], cost [95 %], greedy, KL above max_kl, omnisafe at 10M steps"
    head = tuple(columns.split(", "))
    rows = [head, ("---",) * len(head)]
    for (task, method), seeds in gather(folder).items():
        returns, costs = np.array([each["sampled"] for each in seeds]).T
        greedy = np.mean([each["greedy"] for each in seeds], axis=0)
        band = lambda x, digits: "{:,.{d}f} [{:,.{d}f}, {:,.{d}f}]".format(x.mean(), *interval(list(x)), d=digits)  # noqa: E731
        published = PUBLISHED.get((task, method))
        rows.append(
            (
                task,
                method,
                f"{seeds[0]['timesteps']:,}",
                str(len(seeds)),
                band(returns, 0),
                band(costs, 1),
                "{:,.0f} at {:.1f}".format(*greedy),
                str(sum(each["kl_violations"] for each in seeds)),
                "" if published is None else "{:,} at {}".format(*published),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def gather(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All seeds that are there, by task and method."""
    methods = ("none", *METHODS)
    rows = sorted(
        (row for row in folder.glob("*/*") if row.is_dir()), key=lambda row: (row.parts[-2], methods.index(row.name))
    )
    return {(row.parts[-2], row.name): mujoco.seeds_in(row) for row in rows}


def draw(folder: Path) -> None:
    """Return and cost against steps, each task a column: the mean over seeds."""
    found = gather(folder)
    tasks = list(dict.fromkeys(task for task, _ in found))
    size = (3.6 * len(tasks), 6)
    figure, axes = plt.subplots(2, len(tasks), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for (task, method), seeds in found.items():
        steps = (np.arange(mujoco.POINTS) + 0.5) / mujoco.POINTS * seeds[0]["timesteps"]
        for axis, each in zip(axes[:, tasks.index(task)], zip(*(x["curves"] for x in seeds), strict=True), strict=True):
            values = np.array(each, float)
            known = ~np.isnan(values).all(axis=0)
            axis.plot(steps[known], np.nanmean(values[:, known], axis=0), label=method)
            axis.grid(alpha=0.3)
    for column, task in enumerate(tasks):
        axes[0, column].set_title(task)
        limit = next(each[0] for (name, _), each in found.items() if name == task)["settings"]["cost_limit"]
        axes[1, column].axhline(limit, color="black", linestyle=":", linewidth=1)
        axes[1, column].set_xlabel("environment steps")
        axes[1, column].set_ylim(0, 4 * limit or None)  # without a limit an episode may cost a thousand
    axes[0, 0].set_ylabel("return of an episode")
    axes[1, 0].set_ylabel("cost of an episode")
    axes[0, 0].legend()
    figure.savefig(folder / "curves.png", dpi=100)
    plt.close(figure)


def main() -> None:
    """Train the seeds that are missing, and draw all that are there."""
    parser = mujoco.parser_of(__doc__)
    parser.set_defaults(seeds=3)
    parser.add_argument("--methods", nargs="+", choices=("none", *METHODS), default=["cpo", "pcpo", "lagrangian"])
    options = parser.parse_args()
    changes = {"total_timesteps": options.steps, **options.settings}
    runs = [(task, method) for task in options.tasks for method in options.methods]
    try:  # all mistakes before the first run
        settings = {each: settings_of(*each, changes) for each in runs}
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    for seed in range(options.first, options.first + options.seeds):
        for (task, method), (config, hyperparams) in settings.items():
            file = options.out / task / method / f"{seed}.json"
            mujoco.run_once(file, config, hyperparams, partial(run, task, seed, config, hyperparams))
    if not gather(options.out):
        raise SystemExit(f"{options.out} holds no seed of this benchmark; name a task")
    (options.out / "table.md").write_text(table(options.out) + "\n")
    print(table(options.out))
    draw(options.out)


if __name__ == "__main__":
    main()
