"""Adapter for Brax and MJX environments (``pip install "jtrpo[brax]"``)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.envs.metrics import scalars_of
from jtrpo.envs.protocol import EnvStep
from jtrpo.envs.resetting import ResettingEnvironment, check_known, missing

PREFIX = "brax:"
BACKEND = "spring"
"""Of environments made by id: the fastest of Brax's pipelines."""
OTHER_BACKENDS = {"swimmer": "generalized"}
"""Of those that do not run on it."""


class BraxEnvironment(ResettingEnvironment):
    """A Brax or MJX environment behind the :class:`Environment` protocol.

    Every episode begins in a fresh state (Brax's own ``AutoResetWrapper`` returns to the first one), and the observation that
    really followed the last action is kept for the bootstrap. Of observations with a ``privileged_state``, which a robot does not
    have, the policy sees ``state``, and the critic both. A number ``"cost"`` in the state's ``info`` is the cost of a step.

    Args:
        env: made by ``brax.envs.get_environment(name)``, or by ``brax.envs.create(name, auto_reset=False)``.
        max_episode_steps: time limit in steps of the simulator, where ``env`` has none of its own (``info["truncation"]``).
        action_repeat: steps of the simulator for which an action is held; likewise.

    Raises:
        ValueError: an environment that resets itself, or one that is several.
    """

    metrics_by_name = True

    def __init__(self, env: Any, max_episode_steps: int = 1000, action_repeat: int = 1):
        from brax.envs.wrappers.training import EpisodeWrapper

        start = jax.eval_shape(env.reset, jax.random.key(0))
        if any(name.endswith("first_obs") for name in start.info):
            raise ValueError("a Brax environment must not reset itself: make it with auto_reset=False")
        if start.reward.shape:
            raise ValueError(
                "a Brax environment must be one: make it without batch_size; num_envs says how many are trained in"
            )
        if "truncation" not in start.info:
            env = EpisodeWrapper(env, max_episode_steps, action_repeat)
        self.env = env
        self.may_cost = "cost" in start.info
        self.max_episode_steps = math.ceil(env.episode_length / env.action_repeat)
        self.observation_space = _boxes(start.obs)
        privileged = isinstance(start.obs, dict) and {"state", "privileged_state"} <= start.obs.keys()
        self.policy_observation = ("state",) if privileged else None
        self.action_space: spaces.Space = spaces.Box(-1.0, 1.0, (env.action_size,), np.float32)

    def __repr__(self) -> str:
        return f"BraxEnvironment({type(self.env.unwrapped).__name__})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        state = _strong(self.env.reset(key))
        return state.obs, state

    def step_without_reset(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once, and stay where an episode ended."""
        # The state is copied first, because Brax's wrappers write into its dictionaries.
        following = _strong(self.env.step(jax.tree.map(lambda x: x, state), action))
        done, truncated = following.done > 0, following.info["truncation"] > 0
        ends, metrics = (done & ~truncated, truncated), scalars_of(following.metrics)
        cost = following.info.get("cost")  # safenax's, say
        return EnvStep(following.obs, following, following.reward, *ends, following.obs, metrics, cost)


def make_brax(env_id: str) -> BraxEnvironment:
    """Make an environment by its id, such as ``brax:hopper``.

    Raises:
        ValueError: Brax is not installed, or an unknown id.
    """
    try:
        from brax import envs
    except ImportError as error:
        raise missing(env_id, "Brax", "brax", error) from error
    name = env_id.removeprefix(PREFIX)
    check_known(env_id, name, envs._envs, "Brax")
    return BraxEnvironment(envs.get_environment(name, backend=OTHER_BACKENDS.get(name, BACKEND)))


def _boxes(shapes: PyTree) -> spaces.Space:
    if isinstance(shapes, dict):
        return spaces.Dict({name: _boxes(child) for name, child in shapes.items()})
    return spaces.Box(-np.inf, np.inf, shapes.shape, np.float32)


def _strong(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)
