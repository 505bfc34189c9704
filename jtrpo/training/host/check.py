"""Checks of the settings that environments on the host do not go with."""

from typing import Any

from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.envs.protocol import Environment
from jtrpo.training.host.share import share_of


def check_host(environment: Environment | HostEnvironment, num_envs: int, mesh: Any, sampling: str) -> None:
    """Raise where an environment is on the host and a setting asks for what only one in JAX can do.

    Raises:
        ValueError: another number of environments than the vectors of all processes have, a mesh that does not give each
            process one block of them, or vine sampling.
    """
    if not isinstance(environment, HostEnvironment):
        return
    processes, own = share_of(mesh).count, environment.num_envs
    if own is not None and own * processes != num_envs:
        shares = "" if processes == 1 else f" in each of {processes} processes, {own * processes} in all"
        raise ValueError(f"num_envs must be that of the vector environment, {own}{shares}; got {num_envs}")
    if sampling == "vine":
        raise ValueError(
            f"sampling='vine' goes back to states, which {environment} cannot be set to; use an environment in JAX"
        )
