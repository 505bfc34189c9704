"""Settings for known environments, measured by ``benchmarks/learning.py``.

Found by random search (``benchmarks/search.py``) and variations of its best by hand, on other seeds than those reported.
"""

from typing import Any

from jtrpo.training.config import Hyperparams, TrainConfig

_SHRINKING = {"critic": "gauss_newton", "critic_epochs": 2, "anneal": ("max_kl",)}
"""A second-order critic and a trust region that shrinks: large steps at first, and a policy that settles at the end."""

_SWIMMING = {
    **_SHRINKING,
    "total_timesteps": 200_000,
    "num_envs": 64,
    "num_steps": 16,
    "box_distribution": "gsde",
    "initial_log_std": -1.0,
}
_REMEMBERING = {"total_timesteps": 200_000, "memory": "gru", "hidden_sizes": (64,)}
"""For what a single observation does not tell."""

TUNED: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "CartPole-v1": (
        {
            **_SHRINKING,
            "total_timesteps": 100_000,
            "num_envs": 64,
            "num_steps": 32,
            "critic_epochs": 1,
            "fisher_fraction": 0.1,
            "critic_fraction": 0.5,
        },
        {"max_kl": 0.004, "gae_lambda": 0.98},
    ),
    "Acrobot-v1": (
        {
            **_SHRINKING,
            "total_timesteps": 100_000,
            "num_envs": 64,
            "num_steps": 16,
            "reuse": 4,
            "cg_iterations": 30,
        },
        {"max_kl": 0.02, "gae_lambda": 0.9},
    ),
    "MountainCar-v0": (
        {
            **_SHRINKING,
            "total_timesteps": 100_000,
            "num_envs": 64,
            "num_steps": 8,
            "reuse": 8,
            "anneal": ("max_kl", "entropy_coefficient"),
        },
        {"max_kl": 0.025, "gae_lambda": 0.98, "entropy_coefficient": 0.1},
    ),
    "MountainCarContinuous-v0": (
        {**_SHRINKING, "total_timesteps": 50_000, "num_envs": 32, "num_steps": 32, "initial_log_std": 0.5},
        {"max_kl": 0.01, "gamma": 0.995, "gae_lambda": 0.98},
    ),
    "Pendulum-v1": (
        {
            **_SHRINKING,
            "total_timesteps": 100_000,
            "num_envs": 64,
            "num_steps": 8,
            "reuse": 3,
            "box_distribution": "gsde",
            "initial_log_std": -1.0,
        },
        {"max_kl": 0.01, "gamma": 0.97},
    ),
    "Reacher-misc": (_SWIMMING, {"max_kl": 0.02, "gae_lambda": 0.98}),
    "Swimmer-misc": (_SWIMMING, {"max_kl": 0.02}),
    "BernoulliBandit-misc": ({**_SHRINKING, **_REMEMBERING}, {"max_kl": 0.01}),
    "GaussianBandit-misc": (_REMEMBERING, {"max_kl": 0.01}),
    "MemoryChain-bsuite": ({**_REMEMBERING, "total_timesteps": 100_000}, {"max_kl": 0.01}),
    "MetaMaze-misc": (_REMEMBERING, {"max_kl": 0.01}),
}
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

    Examples:
        >>> config, hyperparams = jtrpo.tuned("Pendulum-v1", gamma=0.9)
        >>> config.reuse, hyperparams.gamma
        (3, 0.9)
    """
    config, numbers = TUNED.get(env, ({}, {}))
    own = {name: value for name, value in settings.items() if name in Hyperparams._fields}
    rest = {name: value for name, value in settings.items() if name not in own}
    return TrainConfig(env, **{**config, **rest}), Hyperparams(**{**numbers, **own})
