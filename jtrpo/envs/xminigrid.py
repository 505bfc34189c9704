"""Adapter for XLand-MiniGrid (``pip install "jtrpo[xminigrid]"``)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jtrpo.core.check import check_callable
from jtrpo.envs.protocol import EnvStep
from jtrpo.envs.resetting import ResettingEnvironment, check_known, check_stays, missing

PREFIX = "xminigrid:"


class XMiniGridEnvironment(ResettingEnvironment):
    """An environment of XLand-MiniGrid behind the :class:`Environment` protocol.

    A cell's tile and colour are seen one-hot, ``[view, view, tiles + colours]``. An episode ends by itself at the goal, and is
    cut off after ``max_steps``.

    Args:
        env: made by ``xminigrid.make(id)``.
        params: made with it; ``None``: its default ones. A function ``key -> params`` draws new ones for each episode, a rule
            set, say: ``lambda key: params.replace(ruleset=benchmark.sample_ruleset(key))``.

    Raises:
        ValueError: observations that are no grid of cells, or an environment that resets itself.
    """

    metrics_by_name = True

    def __init__(self, env: Any, params: Any = None):
        from xminigrid.core import constants

        check_stays(env, "leave the wrapper out")
        self.env = env
        self.draw = params if callable(params) else None
        if self.draw is not None:
            check_callable("env: what draws the parameters", self.draw, "(key) -> parameters", takes=1)
            params = self.draw(jax.random.key(0))
        self.params = params = env.default_params() if params is None else params
        shape = env.observation_shape(params)
        self._kinds = (constants.NUM_TILES, constants.NUM_COLORS)
        if not isinstance(shape, tuple) or len(shape) != 3 or shape[2] != len(self._kinds):
            raise ValueError(f"env: {env} must show a grid of cells; got observations of shape {shape}: use no wrapper")
        self.max_episode_steps = int(params.max_steps)
        self.observation_space: spaces.Space = spaces.Box(0.0, 1.0, (*shape[:2], sum(self._kinds)), np.float32)
        self.action_space: spaces.Space = spaces.Discrete(env.num_actions(params))

    def __repr__(self) -> str:
        return f"XMiniGridEnvironment({type(self.env).__name__})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        params = self.params
        if self.draw is not None:
            draw_key, key = jax.random.split(key)
            params = self.draw(draw_key)
        state = self.env.reset(params, key)
        return self._seen(state), state

    def step_without_reset(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once, and stay where an episode ended."""
        # What differs between parameters that are drawn is in the state: the goal and the rules.
        following = self.env.step(self.params, state, action)
        observation, over = self._seen(following), following.discount == 0
        return EnvStep(observation, following, following.reward, over, following.last() & ~over, observation)

    def _seen(self, state: PyTree) -> Float[Array, "V V C"]:
        layers = zip(jnp.moveaxis(state.observation, -1, 0), self._kinds, strict=True)
        return jnp.concatenate([jax.nn.one_hot(layer, kinds) for layer, kinds in layers], axis=-1)


def make_xminigrid(env_id: str) -> XMiniGridEnvironment:
    """Make an environment by its id, such as ``xminigrid:MiniGrid-Empty-5x5``.

    Raises:
        ValueError: XLand-MiniGrid is not installed, or an unknown id.
    """
    try:
        import xminigrid
    except ImportError as error:
        raise missing(env_id, "XLand-MiniGrid", "xminigrid", error) from error
    name = env_id.removeprefix(PREFIX)
    check_known(env_id, name, xminigrid.registered_environments(), "XLand-MiniGrid")
    return XMiniGridEnvironment(*xminigrid.make(name))
