"""A trained policy, ready to act."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.actions import environment_action
from jtrpo.envs.gymnasium import batch_example
from jtrpo.tools.checkpoint import load
from jtrpo.training.agent import make_agent


def load_policy(directory: str | Path, env: Any = None) -> Callable[..., tuple[Any, PyTree]]:
    """Load the policy of a run: its best checkpoint by evaluation, or its newest where none was evaluated.

        policy = jtrpo.load_policy("runs/cartpole")
        action, memory = policy(observation)                    # the most likely action
        action, memory = policy(observation, memory, key=key)   # goes on with a memory; samples

    Args:
        directory: what was given as ``checkpoint_dir``.
        env: environment, where the run's was an object and not an id.

    Returns:
        A pure, jitted function ``(observation, memory=None, *, key=None) -> (action, memory)``. Observations are raw, as the
        environment gives them: one, or a batch ``[N, ...]``; actions lie within the environment's bounds. The memory is that
        of a recurrent policy; ``None`` begins an episode.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none is whole, or the environment is not known.
    """
    config, restored = load(directory, env)
    agent, space = make_agent(config), config.environment.action_space
    example = jax.tree.leaves(batch_example(config.environment.observation_space))[0]

    @jax.jit
    def act(observation: PyTree, memory: PyTree, key: PRNGKeyArray | None) -> tuple[Any, PyTree]:
        distribution, memory = agent.policy(restored.state, observation, memory)
        action = distribution.mode() if key is None else distribution.sample(key)
        return environment_action(space, action, config.squash), memory

    def policy(observation: PyTree, memory: PyTree = None, *, key: PRNGKeyArray | None = None) -> tuple[Any, PyTree]:
        one = jax.numpy.ndim(jax.tree.leaves(observation)[0]) == example.ndim
        observation = jax.tree.map(lambda x: jax.numpy.asarray(x)[None] if one else jax.numpy.asarray(x), observation)
        action, memory = act(observation, memory, key)
        return jax.tree.map(lambda x: x[0], action) if one else action, memory

    return policy
