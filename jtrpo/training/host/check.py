"""Checks of the settings that environments on the host do not go with."""

from typing import Any

from jtrpo.envs.gymnasium import HostEnvironment
from jtrpo.envs.host_vector import renews_some
from jtrpo.envs.protocol import Environment
from jtrpo.training.host.share import share_of


def check_host(
    environment: Environment | HostEnvironment,
    num_envs: int,
    mesh: Any,
    sampling: str,
    max_episode_steps: int | None = None,
) -> None:
    """Raise where an environment is on the host and a setting asks for what only one in JAX can do.

    Raises:
        ValueError: another number of environments than the vectors of all processes have, a mesh that does not give each
            process one block of them, vine sampling, or shorter episodes in a vector that begins them only all at once.
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
    if max_episode_steps is not None and environment.lent[0] and not renews_some(environment.make(own or 0, 0)):
        raise ValueError(
            f"max_episode_steps={max_episode_steps:,} needs a vector that can begin some of its episodes anew, by "
            f"reset(options={{'reset_mask': ...}}), and {environment} begins them all at once; give its environments the limit"
        )
