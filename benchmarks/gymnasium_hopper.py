"""Training on a Gymnasium environment on the host, with rl-zoo3's settings for MuJoCo's robots: curves and scores over seeds.

    pip install '.[mujoco]'
    python -m benchmarks.gymnasium_hopper --seeds 0 1 2 --out benchmarks/results/gymnasium-hopper

Each seed adds itself to ``OUT.json``; ``OUT.png`` and ``OUT.md`` are drawn from all that are there.

Source of the settings: https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/hyperparams/trpo.yml.
"""

import argparse
import json
import platform
from pathlib import Path

import gymnasium
import jax
import matplotlib
import numpy as np

import jtrpo

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SETTINGS = {"num_envs": 2, "num_steps": 1024, "cg_iterations": 25, "critic_epochs": 20, "critic_minibatches": 16}
NUMBERS = {"max_kl": 0.01, "gamma": 0.99, "gae_lambda": 0.95, "critic_learning_rate": 1e-3}
EPISODES = 32
POINTS = 50
"""Of a curve that is kept: each the mean over a fiftieth of the run."""


def run(env: str, timesteps: int, seed: int) -> dict:
    """Train one seed: its curve, and the returns of whole episodes with the most likely actions."""
    config = jtrpo.TrainConfig(env, total_timesteps=timesteps, **SETTINGS)
    trainer = jtrpo.make_host_trainer(config)
    key, evaluation_key = jax.random.split(jax.random.key(seed))
    state = trainer.init(key, jtrpo.Hyperparams(**NUMBERS))
    trainer.compile()
    returns, kl = [], []
    for update in range(config.num_updates):
        state, metrics = trainer.step(state)
        returns.append(float(metrics.episode.return_mean))
        kl.append(float(metrics.policy.kl))
        if update % 50 == 0:
            print(f"seed {seed}: {int(metrics.timesteps):,} steps, return {returns[-1]:.1f}", flush=True)
    scores = trainer.evaluate(state, evaluation_key, EPISODES)
    parts = np.array_split(np.array(returns), min(POINTS, len(returns)))
    return {
        "timesteps": config.actual_timesteps,
        "curve": [None if np.isnan(part).all() else round(float(np.nanmean(part)), 1) for part in parts],
        "evaluation_mean": round(float(scores.mean()), 1),
        "evaluation_std": round(float(scores.std()), 1),
        "largest_kl": round(max(kl), 5),
    }


def draw(found: dict, out: Path) -> None:
    """Write the curves and the table of all seeds."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for seed, result in found["seeds"].items():
        curve = np.array(result["curve"], float)
        steps = (np.arange(len(curve)) + 0.5) / len(curve) * result["timesteps"]
        axes.plot(steps, curve, label=f"seed {seed}")
    axes.set(xlabel="environment steps", ylabel="return of sampled actions", title=found["env"])
    axes.legend()
    figure.savefig(out.with_suffix(".png"), dpi=100)
    means = [result["evaluation_mean"] for result in found["seeds"].values()]
    settings = ", ".join(f"{name} {value:g}" for name, value in {**found["settings"], **found["numbers"]}.items())
    rows = []
    for seed, result in found["seeds"].items():
        score = f"{result['evaluation_mean']:,.0f} +- {result['evaluation_std']:,.0f}"
        last = result["curve"][-1] or float("nan")
        rows.append(f"| {seed} | {score} | {last:,.0f} | {result['largest_kl']:.5f} |")
    text = [
        f"# {found['env']} on the host",
        "",
        f"`python -m benchmarks.gymnasium_hopper`, {found['versions']}, {result['timesteps']:,} steps of each seed. Settings as "
        f"rl-zoo3 has them: {settings}; the rest are the defaults. Returns of {EPISODES} whole episodes with the most likely "
        "actions (mean and standard deviation), of sampled ones in the last fiftieth of the run, and the largest KL.",
        "",
        "| seed | return | return, sampled | largest KL |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Mean over seeds {np.mean(means):,.0f}, worst {min(means):,.0f}, best {max(means):,.0f}.",
        "",
        f"![curves]({out.with_suffix('.png').name})",
    ]
    out.with_suffix(".md").write_text("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="gymnasium:Hopper-v5")
    parser.add_argument("--timesteps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True, help="OUT.json, OUT.png and OUT.md are written")
    chosen = parser.parse_args()
    file = chosen.out.with_suffix(".json")
    for seed in chosen.seeds:
        result = run(chosen.env, chosen.timesteps, seed)
        versions = f"Python {platform.python_version()}, jax {jax.__version__}, gymnasium {gymnasium.__version__}"
        found = {"env": chosen.env, "settings": SETTINGS, "numbers": NUMBERS, "versions": versions, "seeds": {}}
        if file.exists():  # another process may have added a seed meanwhile
            there = json.loads(file.read_text())
            if any(there[name] != found[name] for name in ("env", "settings", "numbers", "versions")):
                raise ValueError(f"{file} holds another environment, settings or versions; choose another --out")
            found["seeds"] = there["seeds"]
        found["seeds"] = dict(sorted({**found["seeds"], str(seed): result}.items(), key=lambda item: int(item[0])))
        file.write_text(json.dumps(found, indent=1) + "\n")
        draw(found, chosen.out)


if __name__ == "__main__":
    main()
