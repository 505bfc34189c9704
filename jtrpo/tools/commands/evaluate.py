"""``jtrpo evaluate``: the returns of a saved policy."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jtrpo.core.check import check_count, check_seed
from jtrpo.tools.checkpoint import load
from jtrpo.training.host.trainer import HostTrainer, trainer_for


@dataclass(frozen=True)
class Evaluate:
    """Score the best checkpoint of a run by evaluation, or its newest where none was evaluated."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder that was given as --checkpoint-dir."""
    env: str | None = None
    """Environment id, where the folder's is one that imports a module, or to try the policy in another of the same spaces."""
    episodes: int = 128
    """Episodes to play, with the most likely actions and again with sampled ones."""
    seed: int = 0
    """Seed of the random key, below 2**32."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with the result as one line of JSON."""

    def run(self) -> None:
        """Play the episodes and print their mean return."""
        check_count("episodes", self.episodes, at_least=1)
        check_seed("seed", self.seed)
        config, restored = load(self.directory, self.env)
        trainer = trainer_for(config)
        evaluate = trainer.evaluate
        if not isinstance(trainer, HostTrainer):
            evaluate = jax.jit(evaluate, static_argnums=2, static_argnames=("deterministic", "summary"))
        result: dict[str, Any] = {"env": config.env, "update": restored.update, "episodes": self.episodes}
        own: dict[str, float] = {}
        for name, deterministic in (("deterministic", True), ("stochastic", False)):
            key = jax.random.key(self.seed)
            returns, played = evaluate(restored.state, key, self.episodes, deterministic=deterministic, summary=True)
            result |= {f"{name}_return": float(returns.mean()), f"{name}_std": float(returns.std())}
            numbers = {"cost_mean": played.cost_mean, "metrics": played.metrics}
            for path, value in jax.tree_util.tree_leaves_with_path(numbers):
                own[f"{name}_{jax.tree_util.keystr(path, simple=True, separator='.')}"] = float(value)
        if self.json:
            print(json.dumps(result | own))
            return
        print(
            f"{config.env}, after {restored.update} updates, {self.episodes} episodes: return "
            f"{result['deterministic_return']:.1f} +- {result['deterministic_std']:.1f} with the most likely actions, "
            f"{result['stochastic_return']:.1f} +- {result['stochastic_std']:.1f} with sampled ones"
        )
        for name, value in own.items():
            print(f"{name}: {value:.4g}")
