"""Settings for known environments, measured by ``benchmarks/learning.py``.

Found by random search (``benchmarks/search.py``) and variations of its best by hand, on other seeds than those reported. Settings
ship only where they beat the defaults, for as many steps, by more than the interval over 20 seeds; those of MuJoCo's robots and
of MinAtar's games were found by single trials (``what_helps_mujoco.md``, ``what_helps_minatar.md``), the former compared with the
defaults on one to ten seeds (Humanoid's not), the latter not yet.
"""

import re
import warnings
from itertools import combinations
from typing import Any

from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams

_SHRINKING = {
    "critic": "gauss_newton",
    "critic_epochs": 2,
    "critic_fraction": 1.0,
    "fisher_fraction": 1.0,
    "anneal": ("max_kl",),
}
"""A second-order critic, and a trust region that shrinks: large steps at first, and a policy that settles at the end."""

_REMEMBERING = {"total_timesteps": 200_000, "memory": "gru", "hidden_sizes": (64,), "fisher_fraction": 1.0}
"""For what a single observation does not tell."""

_ROBOT = {
    **_SHRINKING,
    "total_timesteps": 1_000_000,
    "num_envs": 8,
    "num_steps": 256,
    "initial_log_std": -0.5,
}
"""For MuJoCo's robots, whether EnvPool or Gymnasium steps them."""

_LARGE_ROBOT = {
    "total_timesteps": 1_000_000,
    "critic_epochs": 10,  # this and the next are what Adam does by default, as the table's first seeds recorded it
    "critic_fraction": 1.0,
}
"""For robots of many joints: the defaults' environments and critic."""

_WITHIN_A_LIMIT = {**_ROBOT, "num_envs": 16}
"""Costs are rare: with half the batch, or a larger ``max_kl``, Hopper learned to fall before it had cost much."""

_PICTURE = {
    "total_timesteps": 10_000_000,
    "num_envs": 64,
    "num_steps": 64,
    "flatten_images": True,
    "hidden_sizes": (128, 128),
    "activation": "relu",
    "critic": "gauss_newton",
    "critic_epochs": 2,
    "critic_fraction": 0.1,
    "fisher_fraction": 0.1,
    "anneal": ("max_kl", "entropy_coefficient"),
}
"""For MinAtar. What is worth most is the entropy bonus: without a large one Breakout's policy is certain of its moves before it
has seen a ball that it must run for."""

_RARE_PICTURE: tuple[dict[str, Any], dict[str, float]] = (
    {**_PICTURE, "fisher_fraction": 0.25, "normalize_observations": False},
    {"max_kl": 0.02, "gae_lambda": 0.8, "entropy_coefficient": 0.02, "cg_damping": 0.01},
)
"""For games in which most pixels are rarely set. Their Fisher matrix is small, so that a damping of 0.1 would outweigh it."""

TUNED: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
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
    "MountainCarContinuous-v0": ({"total_timesteps": 50_000}, {}),
    "Pendulum-v1": (
        {
            **_SHRINKING,
            "total_timesteps": 50_000,
            "num_envs": 64,
            "num_steps": 8,
            "reuse": 3,
            "box_distribution": "gsde",
            "initial_log_std": -1.0,
        },
        {"max_kl": 0.01, "gamma": 0.97},
    ),
    "Reacher-misc": (
        {
            **_SHRINKING,
            "total_timesteps": 200_000,
            "num_envs": 64,
            "num_steps": 16,
            "box_distribution": "gsde",
            "initial_log_std": -1.0,
        },
        {"max_kl": 0.02, "gae_lambda": 0.98},
    ),
    "Swimmer-misc": ({"total_timesteps": 200_000}, {}),
    "BernoulliBandit-misc": ({**_SHRINKING, **_REMEMBERING}, {"max_kl": 0.01}),
    "GaussianBandit-misc": (_REMEMBERING, {"max_kl": 0.01}),
    "MemoryChain-bsuite": ({**_REMEMBERING, "total_timesteps": 100_000}, {"max_kl": 0.01}),
    "MetaMaze-misc": ({"total_timesteps": 200_000}, {}),
    "Breakout-MinAtar": (_PICTURE, {"max_kl": 0.01, "entropy_coefficient": 0.3}),
    "Freeway-MinAtar": (_PICTURE, {"max_kl": 0.02, "entropy_coefficient": 0.05}),
    "SpaceInvaders-MinAtar": (_PICTURE, {"max_kl": 0.01, "entropy_coefficient": 0.03}),
    "Asterix-MinAtar": _RARE_PICTURE,
    "Seaquest-MinAtar": _RARE_PICTURE,
    "Ant": ({**_LARGE_ROBOT, "initial_log_std": -0.5, "fisher_fraction": 1.0}, {"max_kl": 0.03}),
    "HalfCheetah": ({**_ROBOT, "initial_log_std": -1.0}, {"max_kl": 0.03, "gae_lambda": 0.9}),
    "Humanoid": ({**_LARGE_ROBOT, "initial_log_std": -1.0}, {"max_kl": 0.03}),
    "Hopper": (_ROBOT, {"max_kl": 0.04, "gamma": 0.995}),
    "Walker2d": (_ROBOT, {"max_kl": 0.04}),
    "Swimmer": (
        {**_ROBOT, "initial_log_std": 0.0, "normalize_values": True},
        {"max_kl": 0.02, "gamma": 0.9999, "gae_lambda": 0.99},
    ),
    "Reacher": ({**_ROBOT, "initial_log_std": -1.0}, {"max_kl": 0.02}),
    "InvertedPendulum": ({**_ROBOT, "initial_log_std": -1.0}, {"max_kl": 0.02}),
    "InvertedDoublePendulum": ({**_ROBOT, "max_episode_steps": 50}, {"max_kl": 0.02}),
    "SafetyAnt": ({**_LARGE_ROBOT, "initial_log_std": -1.0, "fisher_fraction": 1.0}, {"max_kl": 0.03}),
    "SafetyHalfCheetah": ({**_WITHIN_A_LIMIT, "initial_log_std": -1.0}, {"max_kl": 0.03, "gae_lambda": 0.9}),
    "SafetyHopper": (_WITHIN_A_LIMIT, {"max_kl": 0.02}),
    "SafetyWalker2d": (_WITHIN_A_LIMIT, {"max_kl": 0.04}),
}
"""By environment id, or name of a MuJoCo robot: what differs from defaults of :class:`TrainConfig` and :class:`Hyperparams`."""


def shipped(env: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """The entry of :data:`TUNED`; ``envpool:Hopper-v5``, ``gymnasium:Hopper-v4`` and their like share that of Hopper.

    So do the velocity tasks that have none of their own.
    """
    robot = re.fullmatch(r"(?:envpool|gymnasium):((?:Safety)?(\w+?))(?:-v[45]|Velocity-v1)", str(env))
    own, shared = (robot[1], robot[2]) if robot else (env, env)
    return TUNED.get(own, TUNED.get(shared, ({}, {})))


def tuned(env: str, **settings: Any) -> tuple[TrainConfig, Hyperparams]:
    """Return the settings that ship for an environment: tuned ones where there are, otherwise the defaults.

        config, hyperparams = jtrpo.tuned("Acrobot-v1")
        result = jax.jit(jtrpo.make_train(config))(jax.random.key(0), hyperparams)

    Args:
        env: environment id.
        **settings: fields of :class:`TrainConfig` or of :class:`Hyperparams` that replace the shipped ones. What
            ships and does not go with them gives way to its default, with a warning.

    Raises:
        TypeError: a name that neither has.
        ValueError: as :class:`TrainConfig` and :class:`Hyperparams` raise.

    Examples:
        >>> config, hyperparams = jtrpo.tuned("Acrobot-v1", gamma=0.9)
        >>> config.reuse, float(hyperparams.gamma)
        (4, 0.9)
    """
    config, numbers = shipped(env)
    own = {name: value for name, value in settings.items() if name in Hyperparams._fields}
    given = {name: value for name, value in settings.items() if name not in own}
    kept = {name: value for name, value in config.items() if name not in given}
    return _with_shipped(env, given, kept), Hyperparams(**{**numbers, **own})


def _with_shipped(env: str, given: dict[str, Any], shipped: dict[str, Any]) -> TrainConfig:
    """What is given and as much as possible of what ships."""
    try:
        return TrainConfig(env, **given, **shipped)
    except ValueError:
        TrainConfig(env, **given)  # raises where the given settings alone are wrong
        for leaving in (names for count in range(1, len(shipped)) for names in combinations(shipped, count)):
            kept = {name: value for name, value in shipped.items() if name not in leaving}
            try:
                config = TrainConfig(env, **given, **kept)
            except ValueError:
                continue
            break
        else:
            config, leaving = TrainConfig(env, **given), tuple(shipped)
        ways = " and ".join(f"{name}={shipped[name]!r}" for name in leaving)
        instead = " and ".join(f"{name}={getattr(config, name)!r}" for name in leaving)
        asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
        warnings.warn(
            f"{ways}, which ships for {env}, does not go with {asked}, and gives way to the default {instead}",
            stacklevel=3,
        )
        return config
