"""Metrics by name, for tools that log numbers."""

import jax
import numpy as np

from jtrpo.training.state import Metrics

# The names of stable-baselines3 where the values mean the same. Its kl_divergence_loss is KL(new || old), its value_loss is taken
# over all passes and not halved: those are train/kl and train/critic_loss here.
_NAMES = {
    "timesteps": "time/total_timesteps",
    "episode.return_mean": "rollout/ep_rew_mean",
    "episode.length_mean": "rollout/ep_len_mean",
    "episode.metrics.is_success.last": "rollout/success_rate",
    "policy.objective_after": "train/policy_objective",
    "policy.accepted": "train/is_line_search_success",
    "critic.explained_variance": "train/explained_variance",
    "critic.loss": "train/critic_loss",
    "critic.accepted": "train/is_critic_fit_success",
}
_PREFIXES = {
    "episode": "rollout",
    "policy": "train",
    "samples": "samples",
    "hyperparams": "hyperparams",
    "cost": "cost",
}


def scalars(update: int, metrics: Metrics) -> dict[str, float]:
    """What an update reports, by the names that users of stable-baselines3 know; the mean over leading axes of seeds.

    What is not finite is left out: the return of an update in which no episode finished, say.

    Args:
        update: its number, from 1.
        metrics: of that update.
    """
    named = {"time/iterations": float(update), "train/n_updates": float(update)}
    for path, value in jax.tree_util.tree_leaves_with_path(metrics):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        part, _, rest = name.partition(".")
        finite = np.asarray(value, float)[np.isfinite(value)]
        if finite.size:
            named[_NAMES.get(name) or f"{_PREFIXES[part]}/{rest}"] = float(finite.mean())
    return named
