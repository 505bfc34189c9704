"""Adapter for Gymnasium environments, which are stepped in Python on the host (``jtrpo.make_host_trainer``)."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator

import gymnasium
import jax
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from jaxtyping import PyTree

from jtrpo.envs import envpool
from jtrpo.envs.host_vector import autoreset_mode
from jtrpo.envs.velocity import SpeedCost, velocity_task

PREFIX = "gymnasium:"
_MODE = AutoresetMode.SAME_STEP


@dataclasses.dataclass(frozen=True, eq=False)
class HostEnvironment:
    """Where Gymnasium's environments come from, and what they look like.

    Attributes:
        name: for people.
        observation_space: of one environment.
        action_space: of one environment.
        make: ``(num_envs, seed) -> VectorEnv`` to train on; the seed is for those that take it when they are made.
        make_evaluation: the same for evaluation; ``None`` where there is none.
        mode: how the training's environments begin their next episodes.
        num_envs: environments of a vector that is there already; ``None`` for an id.
        lent: whether the environments to train on, and those to evaluate on, are the user's to close.
        max_episode_steps: the time limit of an id. With it, first episodes are cut at spread times (see ``staggered_resets``).
        cost: of a step, where the environment has one that is made from ``info``.
    """

    name: str
    observation_space: spaces.Space
    action_space: spaces.Space
    make: Callable[[int, int], VectorEnv]
    make_evaluation: Callable[[int, int], VectorEnv] | None
    mode: AutoresetMode
    num_envs: int | None = None
    lent: tuple[bool, bool] = (False, False)
    max_episode_steps: int | None = None
    cost: SpeedCost | None = None

    def __repr__(self) -> str:
        return self.name


def from_id(env_id: str) -> HostEnvironment:
    """Environments by an id of Gymnasium, such as ``gymnasium:Hopper-v5``, one after the other in this process.

    Raises:
        ValueError: an unknown id, or one that needs a package which is not installed.
    """
    name, cost = velocity_task(env_id.removeprefix(PREFIX)) or (env_id.removeprefix(PREFIX), None)

    @contextlib.contextmanager
    def quiet() -> Iterator[None]:
        with warnings.catch_warnings():
            if cost is not None:  # the task is of that version
                warnings.filterwarnings("ignore", ".*is out of date")
            yield

    try:
        with quiet():
            one = gymnasium.make(name)
    except gymnasium.error.DependencyNotInstalled as error:
        if "mujoco" in str(error).lower():
            raise ValueError(f"env={env_id!r} needs MuJoCo: pip install 'jtrpo[mujoco]'") from error
        raise ValueError(f"env={env_id!r} needs a package that is not installed: {error}") from error
    except (gymnasium.error.Error, ImportError) as error:  # the former names the nearest ids
        raise ValueError(f"env={env_id!r} is not an environment of Gymnasium: {error}") from error
    one.close()

    @quiet()
    def make(num_envs: int, seed: int) -> VectorEnv:
        return gymnasium.make_vec(name, num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": _MODE})

    limit = None if one.spec is None else one.spec.max_episode_steps
    spaces_of_one = (one.observation_space, one.action_space)
    return HostEnvironment(env_id, *spaces_of_one, make, make, _MODE, max_episode_steps=limit, cost=cost)


def from_vector(env: VectorEnv, evaluation: VectorEnv | None = None) -> HostEnvironment:
    """A vector environment of the user's own.

    Args:
        env: to train on, in any autoreset mode.
        evaluation: to evaluate on. Without it, one is made as ``env`` was, where ``env`` is of EnvPool or came from
            ``gymnasium.make_vec`` or from a list of functions, and has no wrapper around it.

    Raises:
        ValueError: an autoreset mode that is not told, or ``evaluation`` that is ``env`` itself or has other spaces.
    """
    envpool.with_spaces(env)
    if evaluation is env:
        raise ValueError(f"env: evaluation would disturb the training in {env}; give another vector environment for it")
    if evaluation is not None:
        autoreset_mode(envpool.with_spaces(evaluation))
        there = (evaluation.single_observation_space, evaluation.single_action_space)
        if there != (env.single_observation_space, env.single_action_space):
            raise ValueError(f"env: the evaluation's spaces must be those of {env}; got {there}")
    return HostEnvironment(
        repr(env),
        env.single_observation_space,
        env.single_action_space,
        lambda num_envs, seed: env,
        _again(env) if evaluation is None else lambda num_envs, seed: evaluation,
        autoreset_mode(env),
        env.num_envs,
        (True, evaluation is not None),
    )


def _again(env: VectorEnv) -> Callable[[int, int], VectorEnv] | None:
    if env.unwrapped is not env:  # wrappers may change what is observed
        return None
    if envpool.is_envpool(env):
        return envpool.again(env)
    if isinstance(env, SyncVectorEnv | AsyncVectorEnv) and isinstance(getattr(env, "env_fns", None), list | tuple):
        # In this process, always: one that JAX already runs in should not be forked.
        functions = env.env_fns
        return lambda num_envs, seed: SyncVectorEnv(functions, autoreset_mode=_MODE)
    if isinstance(env.spec, gymnasium.envs.registration.EnvSpec):
        spec = env.spec
        return lambda num_envs, seed: gymnasium.make_vec(spec)
    return None


def batch_example(space: spaces.Space, *batch: int) -> PyTree:
    """Zeros shaped like a batch of elements of a space, with JAX's types."""
    if isinstance(space, spaces.Dict):
        return {name: batch_example(child, *batch) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(batch_example(child, *batch) for child in space.spaces)
    return np.zeros((*batch, *(space.shape or ())), jax.dtypes.canonicalize_dtype(space.dtype))
