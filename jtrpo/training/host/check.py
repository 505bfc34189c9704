"""Checks of the settings that environments on the host do not go with."""

from typing import Any

from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.envs.protocol import Environment


def check_host(environment: Environment | HostEnvironment, num_envs: int, mesh: Any, sampling: str) -> None:
    """Raise where an environment is on the host and a setting asks for what only one in JAX can do.

    Raises:
        ValueError: another number of environments than a vector has, a mesh, or vine sampling.
    """
    if not isinstance(environment, HostEnvironment):
        return
    if environment.num_envs not in (None, num_envs):
        raise ValueError(f"num_envs must be that of the vector environment, {environment.num_envs}; got {num_envs}")
    if mesh is not None:
        raise ValueError(f"{environment} is stepped in Python, which no mesh can share; use an environment in JAX")
    if sampling == "vine":
        raise ValueError(
            f"sampling='vine' goes back to states, which {environment} cannot be set to; use an environment in JAX"
        )
