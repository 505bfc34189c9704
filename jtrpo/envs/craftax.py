"""Adapter for Craftax (``pip install "jtrpo[craftax]"``)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.gymnax import gymnasium_space
from jtrpo.envs.metrics import scalars_of
from jtrpo.envs.protocol import EnvStep
from jtrpo.envs.resetting import ResettingEnvironment, check_known, check_stays, missing

PREFIX = "craftax:"
IDS = ("Craftax-Symbolic-v1", "Craftax-Classic-Symbolic-v1", "Craftax-Pixels-v1", "Craftax-Classic-Pixels-v1")


class CraftaxEnvironment(ResettingEnvironment):
    """An environment of Craftax behind the :class:`Environment` protocol.

    Death and victory end an episode, ``params.max_timesteps`` cuts it off. The world is made anew at every reset, which takes
    longer than a step: see ``TrainConfig(reset_pool=...)``. Achievements are metrics, ``Achievements/collect_wood`` and so on:
    100 at the end of an episode that has them.

    Args:
        env: made by ``make_craftax_env_from_name(name, auto_reset=False)``.
        params: its parameters; ``None``: its default ones.

    Raises:
        ValueError: an environment that resets itself.
    """

    metrics_by_name = True

    def __init__(self, env: Any, params: Any = None):
        check_stays(env, "make it with auto_reset=False")
        self.env, self.params = env, env.default_params if params is None else params
        self.max_episode_steps = int(self.params.max_timesteps)
        self.observation_space = gymnasium_space(env.observation_space(self.params))
        self.action_space = gymnasium_space(env.action_space(self.params))

    def __repr__(self) -> str:
        return f"CraftaxEnvironment({self.env.name})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        return self.env.reset(key, self.params)

    def step_without_reset(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once, and stay where an episode ended."""
        result = self.env.step(key, state, action, self.params)
        observation, following, reward, done, info = result
        unlimited = self.params.replace(max_timesteps=jnp.iinfo(jnp.int32).max)
        over = self.env.is_terminal(following, unlimited)
        return EnvStep(observation, following, reward, over, done & ~over, observation, scalars_of(info))


def make_craftax(env_id: str) -> CraftaxEnvironment:
    """Make an environment by its id, such as ``craftax:Craftax-Symbolic-v1``.

    Raises:
        ValueError: Craftax is not installed, or an unknown id.
    """
    name = env_id.removeprefix(PREFIX)
    check_known(env_id, name, IDS, "Craftax")
    try:
        from craftax.craftax_env import make_craftax_env_from_name
    except ImportError as error:
        raise missing(env_id, "Craftax", "craftax", error) from error
    return CraftaxEnvironment(make_craftax_env_from_name(name, auto_reset=False))
