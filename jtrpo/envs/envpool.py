"""Adapter for EnvPool, which steps Gymnasium's and other environments on threads of C++ (``pip install "jtrpo[envpool]"``)."""

import contextlib
import difflib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from jtrpo.envs.velocity import velocity_task

PREFIX = "envpool:"


def is_envpool(env: VectorEnv) -> bool:
    """Whether a vector environment is one of EnvPool."""
    module = sys.modules.get("envpool.python.envpool")
    return module is not None and isinstance(env, module.EnvPoolMixin)


def with_spaces(env: Any) -> VectorEnv:
    """The same vector; if it is of EnvPool its spaces, which are made when they are asked for, are there."""
    if is_envpool(env.unwrapped):
        with _quiet_bounds():
            env.unwrapped.observation_space, env.unwrapped.action_space  # noqa: B018
    return env


def look_up(env_id: str) -> dict[str, Any]:
    """What an id of EnvPool, such as ``envpool:Hopper-v5``, stands for: the fields of a ``HostEnvironment``.

    A vector uses a thread for each environment, or as many as there are cores where those are fewer.

    Raises:
        ValueError: EnvPool is not installed, or an id that is unknown, cannot be made, or has several players.
    """
    name, cost = velocity_task(env_id.removeprefix(PREFIX)) or (env_id.removeprefix(PREFIX), None)
    try:
        import envpool
    except ImportError as error:
        raise ValueError(f'env={env_id!r} needs EnvPool: pip install "jtrpo[envpool]" ({error})') from error
    known = envpool.list_all_envs()
    if name not in known:
        folded = {one.lower(): one for one in known}
        near = [folded[one] for one in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "`envpool.list_all_envs()` lists them."
        raise ValueError(f"env={env_id!r} is not an environment of EnvPool; {hint}")
    with _quiet_bounds():
        try:
            spec = envpool.make_spec(name)
            found = (spec.gymnasium_observation_space, _in_single_precision(spec.gymnasium_action_space))
        except Exception as error:
            raise ValueError(f"env={env_id!r} cannot be made: {error}") from error
    if spec.config.max_num_players > 1:
        raise ValueError(
            f"env={env_id!r} has {spec.config.max_num_players} players, and one policy cannot be all of them"
        )

    def make(num_envs: int, seed: int) -> VectorEnv:
        return with_spaces(envpool.make(name, env_type="gymnasium", num_envs=num_envs, seed=seed))

    limit = spec.config.max_episode_steps
    return {
        "name": env_id,
        "observation_space": found[0],
        "action_space": found[1],
        "make": make,
        "make_evaluation": make,
        "mode": AutoresetMode.NEXT_STEP,
        "cost": cost,
        "max_episode_steps": limit if limit < np.iinfo(np.int32).max else None,
    }


def again(env: Any) -> Callable[[int, int], VectorEnv]:
    """How to make a vector like one of EnvPool that is there already: ``(num_envs, seed) -> VectorEnv``."""
    spec, kind = type(env.spec), type(env)

    def make(num_envs: int, seed: int) -> VectorEnv:
        own = {"num_envs": num_envs, "batch_size": num_envs, "seed": seed, "env_seed": []}
        return with_spaces(kind(spec(env.spec.config._replace(**own))))

    return make


@contextlib.contextmanager
def _quiet_bounds() -> Iterator[None]:
    """Without Gymnasium's warnings of bounds that lose digits, which nobody here can mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precision lowered")
        yield


def _in_single_precision(space: spaces.Space) -> spaces.Space:
    """EnvPool's doubles as Gymnasium has them, so that a policy can act in the same environment of either."""
    if not isinstance(space, spaces.Box) or space.dtype != np.float64:
        return space
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), space.shape, np.float32)
