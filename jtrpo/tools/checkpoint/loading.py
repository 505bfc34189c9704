"""A saved run for people: its configuration and its best checkpoint."""

import warnings
from pathlib import Path
from typing import Any

from jtrpo.networks.network import Network
from jtrpo.tools.checkpoint.checkpoints import Restored, best_first, restored_from
from jtrpo.tools.checkpoint.folder import Damaged, read, read_metadata, updates_in
from jtrpo.tools.checkpoint.state import key_implementation_of, template
from jtrpo.tools.files import absolute
from jtrpo.tools.settings import config_of
from jtrpo.training.config import TrainConfig


def load(
    directory: str | Path, env: Any = None, policy_network: Network | None = None, critic_network: Network | None = None
) -> tuple[TrainConfig, Restored]:
    """Read the best checkpoint by evaluation, or the newest where none was evaluated, and the settings it was made with.

    Args:
        directory: of the checkpoints; not written to.
        env: environment, where the run's was an object, or an id that imports a module (``gymnasium:module:Id-v0``): what a file
            says imports nothing.
        policy_network: the run's, where it had one of the user's own.
        critic_network: likewise.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none is whole, or the environment is not known, or has other spaces, or a network is missing.
    """
    path = absolute(directory, "directory")
    saved, damage = {}, []
    for update in updates_in(path) if path.is_dir() else ():
        try:
            saved[update] = read_metadata(path, update)
        except Damaged as error:
            damage.append(f"checkpoint {update} in {str(directory)!r} is damaged: {error}")
    if not saved and not damage:
        raise FileNotFoundError(
            f"{str(directory)!r} holds no checkpoint; name the folder that was given as checkpoint_dir"
        )
    for update in best_first({update: metadata["score"] for update, metadata in saved.items()}):
        try:
            metadata, arrays = read(path, update)
            break
        except Damaged as error:
            damage.append(f"checkpoint {update} in {str(directory)!r} is damaged: {error}")
    else:
        raise ValueError("; ".join(damage))
    for text in damage:
        warnings.warn(f"{text}; left aside", stacklevel=2)
    networks = {"policy_network": policy_network, "critic_network": critic_network}
    config = config_of(metadata["settings"], env, networks)
    return config, restored_from(metadata, arrays, template(config, key_implementation_of(metadata)))
