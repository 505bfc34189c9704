"""Does the line search matter? TRPO, TNPG and NPG with everything else equal, many seeds in one vmapped jit.

    python -m benchmarks.line_search --seeds 100 --out line-search.json

Each environment has one set of settings, without annealing or sample reuse, at max_kl and at eight times max_kl. TRPO: ten
products of conjugate gradients and the line search. TNPG: the same without the search. NPG: fifty products, which come close to
solving the linear system, and no search. Per seed: returns over 128 episodes; per update: how far the real KL went.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jtrpo

GAUSS_NEWTON = {"critic": "gauss_newton", "critic_epochs": 2, "fisher_fraction": 1.0, "critic_fraction": 1.0}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "CartPole-v1": ({**GAUSS_NEWTON, "critic_epochs": 1}, {"max_kl": 0.004, "gae_lambda": 0.98}),
    "Acrobot-v1": ({**GAUSS_NEWTON, "num_steps": 8}, {"max_kl": 0.05, "gamma": 0.995, "cg_damping": 1.0}),
    "Pendulum-v1": (
        {**GAUSS_NEWTON, "num_steps": 8, "box_distribution": "gsde", "initial_log_std": -1.0},
        {"max_kl": 0.01, "gamma": 0.97},
    ),
}
METHODS: dict[str, dict[str, Any]] = {
    "TRPO": {},
    "TNPG": {"constraint": "none"},
    "NPG": {"constraint": "none", "cg_iterations": 50},
}
FACTORS = (1, 8)
FIRST_SEED = 20_000


def compare(env: str, method: str, seeds: int, **settings: Any) -> list[dict[str, Any]]:
    """One entry for each trust region: the returns of every seed, and what the steps did."""
    static, numbers = SETTINGS[env]
    config = jtrpo.TrainConfig(env, **{**static, **METHODS[method], **settings})
    hyperparams = jtrpo.Hyperparams(**numbers)
    train, trainer = jtrpo.make_train(config), jtrpo.make_trainer(config)

    def run(key: jax.Array, max_kl: jax.Array) -> dict[str, jax.Array]:
        state, metrics = train(key, hyperparams._replace(max_kl=max_kl))
        greedy_key, sampled_key = jax.random.split(jax.random.fold_in(key, 1))
        return {
            "deterministic_return": trainer.evaluate(state, greedy_key).mean(),
            "stochastic_return": trainer.evaluate(state, sampled_key, deterministic=False).mean(),
            "over": (metrics.policy.kl > max_kl).mean(),
            "largest_kl": metrics.policy.kl.max() / max_kl,
            "backtracked": (metrics.policy.backtracks > 0).mean(),
            "accepted": metrics.policy.accepted.mean(),
            "cg_residual": metrics.policy.cg_residual.mean(),
        }

    keys = jax.vmap(jax.random.key)(FIRST_SEED + jnp.arange(seeds))
    regions = jnp.array([hyperparams.max_kl * factor for factor in FACTORS])
    result = jax.device_get(jax.jit(jax.vmap(jax.vmap(run, (0, None)), (None, 0)))(keys, regions))
    entries = []
    for index, factor in enumerate(FACTORS):
        mine = {name: np.asarray(value[index]).tolist() for name, value in result.items()}
        summary = {name: float(np.mean(mine.pop(name))) for name in ("over", "backtracked", "accepted", "cg_residual")}
        entries.append(
            {"env": env, "method": method, "factor": factor, "max_kl": float(regions[index]), **mine, **summary}
        )
    return entries


def main() -> None:
    """Run every environment and method, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="ENV")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    entries = []
    for env in options.envs:
        for method in METHODS:
            began = time.perf_counter()
            entries += compare(env, method, options.seeds, total_timesteps=options.steps)
            for entry in entries[-len(FACTORS) :]:
                returns = np.array(entry["stochastic_return"])
                print(
                    f"{env} {method} max_kl {entry['max_kl']:.3g}: {returns.mean():.1f}, worst {returns.min():.1f}, "
                    f"{entry['over']:.1%} of the steps over max_kl, {entry['backtracked']:.1%} backtracked",
                    flush=True,
                )
            print(f"    {time.perf_counter() - began:.0f} s", flush=True)
            options.out.write_text(
                json.dumps({"seeds": options.seeds, "steps": options.steps, "entries": entries}) + "\n"
            )


if __name__ == "__main__":
    main()
