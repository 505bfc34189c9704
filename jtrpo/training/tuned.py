"""Settings for known environments: found by ``benchmarks/search.py``, measured by ``benchmarks/learning.py``."""

from typing import Any

from jtrpo.training.config import Hyperparams, TrainConfig

TUNED: dict[str, tuple[dict[str, Any], dict[str, float]]] = {}
"""By environment id: fields of :class:`TrainConfig`, and fields of :class:`Hyperparams`, that differ from the defaults."""


def tuned(env: str, **settings: Any) -> tuple[TrainConfig, Hyperparams]:
    """Return the settings that ship for an environment: tuned ones where there are, otherwise the defaults.

        config, hyperparams = jtrpo.tuned("Pendulum-v1")
        result = jax.jit(jtrpo.make_train(config))(jax.random.key(0), hyperparams)

    Args:
        env: environment id.
        **settings: fields of :class:`TrainConfig` or of :class:`Hyperparams` that replace the shipped ones.

    Raises:
        TypeError: a name that neither has.
        ValueError: as :class:`TrainConfig` and :class:`Hyperparams` raise.
    """
    config, numbers = TUNED.get(env, ({}, {}))
    own = {name: value for name, value in settings.items() if name in Hyperparams._fields}
    rest = {name: value for name, value in settings.items() if name not in own}
    return TrainConfig(env, **{**config, **rest}), Hyperparams(**{**numbers, **own})
