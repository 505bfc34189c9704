"""Animated pictures of the policy while it learns."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jaxtyping import PRNGKeyArray

from jtrpo.core.check import check_count
from jtrpo.tools.files import make_folder
from jtrpo.tools.watch import check_drawable, player, save_animation
from jtrpo.training.agent import Learned
from jtrpo.training.config import TrainConfig

Show = Callable[[int, Path], None]
"""``(environment steps, picture)``: what a logger does with an animated picture."""


class Film:
    """Writes an episode as an animated picture every so many updates: ``FOLDER/update-000050.gif``.

        run_training(config, on_state=Film(config, 50, "runs/cartpole/film"))

    Args:
        config: of the training.
        every: updates between two pictures.
        folder: for the pictures, made where it does not exist.
        key: of the episodes, which all begin alike.
        shown: also called with each picture.

    Raises:
        ImportError: classic control, and its drawing package is missing.
        ValueError: ``every`` is below 1, the environment cannot be drawn, or the folder not be written to.
    """

    def __init__(
        self,
        config: TrainConfig,
        every: int,
        folder: str | Path,
        key: PRNGKeyArray | None = None,
        shown: Sequence[Show] = (),
    ):
        check_count("every", every, at_least=1)
        check_drawable(config)
        self._folder = make_folder(folder, "folder")
        self._config, self._every, self._shown = config, every, shown
        self._key = jax.random.key(0) if key is None else key
        self._play = player(config)

    def __call__(self, update: int, state: Learned) -> None:
        """Play and draw an episode, if it is time."""
        if update % self._every:
            return
        file = self._folder / f"update-{update:06d}.gif"
        save_animation(self._config, self._play(state, self._key), file)
        for show in self._shown:
            show(update * self._config.batch_size, file)
