"""Adapter for gymnax environments (gymnax >= 1.0.1)."""

import dataclasses
import difflib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.core.check import check_callable
from jtrpo.envs.metrics import scalars_of
from jtrpo.envs.protocol import EnvStep, time_limit


class DrawnState(NamedTuple):
    """Where an environment stands whose parameters are drawn for each episode.

    Attributes:
        state: gymnax's.
        params: of the episode under way.
    """

    state: PyTree
    params: PyTree


class GymnaxEnvironment:
    """A gymnax environment with its parameters, behind the :class:`Environment` protocol.

    A number ``"cost"`` in its ``info`` is the cost of a step.

    Args:
        env: gymnax environment (or wrapper) with the six-value ``step``.
        params: its parameters; ``None``: its default ones. They may be traced, but for those that its spaces are made of. A
            function ``key -> params`` draws new ones at every reset, which are then part of the state, a :class:`DrawnState`;
            spaces and time limit are those of its draw with key 0.

    Raises:
        ValueError: parameters of another environment, with an axis that the default ones lack, or traced ones in a space.
    """

    metrics_by_name = True

    def __init__(self, env: Any, params: Any = None):
        self.env = env
        self.draw = params if callable(params) else None
        self.params = env.default_params if params is None else params
        if self.draw is not None:
            check_callable("env: what draws the parameters", self.draw, "(key) -> parameters", takes=1)
            with jax.ensure_compile_time_eval():
                self.params = self.draw(jax.random.key(0))
        _check_parameters(env, self.params)
        self.max_episode_steps = time_limit(getattr(self.params, "max_steps_in_episode", None))
        longest = np.iinfo(jax.dtypes.canonicalize_dtype(int)).max  # gymnax compares with it
        if self.draw is None and self.max_episode_steps is not None and self.max_episode_steps > longest:
            self.params = self.params.replace(max_steps_in_episode=longest)
        try:
            with jax.ensure_compile_time_eval():
                self.observation_space = gymnasium_space(env.observation_space(self.params))
                self.action_space = gymnasium_space(env.action_space(self.params))
        except jax.errors.JAXTypeError as error:
            raise ValueError(
                f"env: the spaces of {env.name} depend on parameters that are traced; trace others"
            ) from error

    def __repr__(self) -> str:
        return f"GymnaxEnvironment({self.env.name})"

    @property
    def may_cost(self) -> bool:
        """Whether its ``info`` may hold a cost: gymnax's own environments have none."""
        return not type(self.env).__module__.startswith("gymnax.")

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Begin an episode: ``(observation, state)``."""
        if self.draw is None:
            return self.env.reset(key, self.params)
        draw_key, reset_key = jax.random.split(key)
        params = jax.tree.map(jnp.asarray, self.draw(draw_key))
        observation, state = self.env.reset(reset_key, params)
        return observation, DrawnState(state, params)

    def step(self, key: PRNGKeyArray, state: PyTree, action: Any) -> EnvStep:
        """Act once; gymnax resets by itself and hands the final observation over in ``info``."""
        if self.draw is None:
            return self._step(key, state, action, self.params)
        step_key, reset_key = jax.random.split(key)
        result = self._step(step_key, state.state, action, state.params)
        going_on = (result.observation, DrawnState(result.state, state.params))
        done = result.terminated | result.truncated
        following = jax.tree.map(lambda new, old: jnp.where(done, new, old), self.reset(reset_key), going_on)
        return result._replace(observation=following[0], state=following[1])

    def _step(self, key: PRNGKeyArray, state: PyTree, action: Any, params: Any) -> EnvStep:
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action, params)
        final_observation, metrics = info["final_observation"], scalars_of(info)
        cost = info.get("cost")  # safenax's, say
        return EnvStep(observation, state, reward, terminated, truncated, final_observation, metrics, cost)


def _check_parameters(env: Any, params: Any) -> None:
    defaults = env.default_params
    names = [field.name for field in dataclasses.fields(defaults)] if dataclasses.is_dataclass(defaults) else []
    missing = [name for name in names if not hasattr(params, name)]
    if missing:
        raise ValueError(
            f"env: the parameters of {env.name} must have {', '.join(missing)}, as its default ones do; got "
            f"{type(params).__name__}: give env.default_params.replace(...)"
        )
    paths = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, list))
    usual = jax.tree.leaves(defaults, is_leaf=lambda x: isinstance(x, list))
    for (path, given), default in zip(paths, usual, strict=False):
        name = jax.tree_util.keystr(path)[1:]
        if isinstance(given, str) and not isinstance(default, str):
            raise ValueError(f"env: the parameter {name} of {env.name} must be a number; got {given!r}")
        if len(paths) == len(usual) and np.shape(given) != np.shape(default):
            raise ValueError(
                f"env: the parameter {name} of {env.name} must have shape {np.shape(default)}; got "
                f"{np.shape(given)}: give one set of parameters for all environments, and jax.vmap a function that makes and "
                "trains them over others"
            )


def environment_ids() -> list[str]:
    """All ids that gymnax knows, those registered by the user included."""
    import gymnax

    return list(gymnax.registered_envs)


def make_gymnax(env_id: str) -> GymnaxEnvironment:
    """Make an environment by its id.

    Raises:
        ValueError: an unknown id (the nearest right ones are named), or one that cannot be made.
    """
    with jax.ensure_compile_time_eval():  # gymnax computes where it is imported, and that may be within a trace
        return _make(env_id)


def _make(env_id: str) -> GymnaxEnvironment:
    import gymnax

    if env_id not in gymnax.registered_envs:
        folded = {known.lower(): known for known in gymnax.registered_envs}
        near = [folded[name] for name in difflib.get_close_matches(env_id.lower(), folded, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "`jtrpo envs` lists all ids."
        raise ValueError(f"env={env_id!r} is not an environment id; {hint}")
    try:
        return GymnaxEnvironment(*gymnax.make(env_id))
    except OSError as error:  # an environment that downloads its data
        raise ValueError(
            f"env={env_id!r} cannot be made: it loads data from outside, which failed ({error})"
        ) from error


def gymnasium_space(space: Any) -> spaces.Space:
    """Turn a gymnax space into the gymnasium space of the same meaning.

    Raises:
        TypeError: a space of an unknown kind.
    """
    kind = type(space).__name__
    if isinstance(space, spaces.Space):
        return space
    if kind == "Discrete":
        return spaces.Discrete(int(space.n))
    if kind == "Box":
        dtype = np.dtype(space.dtype)
        low, high = (
            np.broadcast_to(np.asarray(jax.device_get(x), dtype), space.shape) for x in (space.low, space.high)
        )
        return spaces.Box(low, high, tuple(space.shape), dtype)
    if kind == "Dict":
        return spaces.Dict({name: gymnasium_space(child) for name, child in space.spaces.items()})
    if kind == "Tuple":
        return spaces.Tuple([gymnasium_space(child) for child in space.spaces])
    raise TypeError(f"space {space!r} of type {kind} is not supported; give Box, Discrete, Dict or Tuple")
