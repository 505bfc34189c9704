"""Where the first number that is not finite came from."""

import jax
import jax.numpy as jnp
import numpy as np

from jtrpo.training.agent import make_agent
from jtrpo.training.config import TrainConfig
from jtrpo.training.state import TrainState
from jtrpo.training.trainer import make_collect, make_trainer


def first_non_finite(config: TrainConfig, state: TrainState) -> str | None:
    """Name the first step and array where the next update meets a number that is not finite; ``None`` where it meets none.

    Args:
        config: of the run.
        state: before that update.
    """
    trainer, agent = make_trainer(config), make_agent(config)
    trajectory = jax.jit(make_collect(config))(state)
    places = []
    for order, name in enumerate(("observation", "action", "log_prob", "reward", "final_observation")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(trajectory, name)):
            bad = ~np.isfinite(leaf)
            if bad.any():
                step, env = np.argwhere(bad)[0][:2]
                places.append((int(step), order, int(env), name + jax.tree_util.keystr(path)))
    first = int(state.update) * config.num_steps
    if places:
        step, _, env, name = min(places)
        return f"{name} of environment {env} at step {first + step} (update {int(state.update) + 1}, its step {step})"
    value, next_value, _ = jax.jit(agent.values)(state, trajectory)
    following, metrics = jax.jit(trainer.step)(state)
    numbers = {"critic's value": value, "critic's next_value": next_value, "policy update": metrics.policy}
    numbers |= {
        "critic's fit": (metrics.critic.loss, following.critic_params),
        "policy_params": following.policy_params,
    }
    for name, tree in numbers.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not jnp.isfinite(leaf).all():
                return f"{name}{jax.tree_util.keystr(path)} in update {int(state.update) + 1}"
    return None
