"""A run on the disk and back: ``Checkpoints`` saves and restores, ``load`` reads for people.

``state`` makes a training's state into arrays by name, ``arrays`` writes those by orbax, ``folder`` puts them with the settings
and a digest of every file into one folder for each checkpoint, ``checkpoints`` holds the folders of a run, and ``lock`` keeps
other processes out.
"""

from jtrpo.tools.checkpoint.checkpoints import Checkpoints, Restored
from jtrpo.tools.checkpoint.loading import load

__all__ = ["Checkpoints", "Restored", "load"]
