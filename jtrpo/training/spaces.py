"""Checks of what the networks are built from: their settings, and the spaces that they see and act in."""

from collections.abc import Iterator
from typing import Any

from gymnasium import spaces

from jtrpo.core.check import check_count
from jtrpo.envs.actions import stretched
from jtrpo.envs.check import check_space
from jtrpo.networks.heads import check_action_space
from jtrpo.networks.torso import ACTION_MASK, check_observation_space


def check_hidden_sizes(sizes: Any, memory: str | None, shared_torso: bool, box_distribution: str) -> None:
    """Raise unless these are widths of layers, and at least one where something needs a last hidden layer.

    Raises:
        TypeError: not a tuple of whole numbers.
        ValueError: a width below 1, or no layer for a memory, a shared torso or gSDE.
    """
    if not isinstance(sizes, tuple):
        raise TypeError(f"hidden_sizes must be a tuple of widths such as (64, 64); got {sizes!r}")
    for size in sizes:
        check_count("hidden_sizes", size, at_least=1)
    if (memory is not None or shared_torso) and not sizes:
        raise ValueError("hidden_sizes must name at least one layer for a memory or a shared torso; got ()")
    if box_distribution == "gsde" and not sizes:
        raise ValueError("hidden_sizes must name at least one layer for box_distribution='gsde'; got ()")


def check_spaces(observation_space: Any, action_space: Any, squash: bool) -> None:
    """Raise unless networks can see the observations and choose the actions.

    Raises:
        TypeError: a space of a kind that is not supported.
        ValueError: nothing to see, nothing to choose, a mask that does not fit, or with ``squash`` an action without bounds.
    """
    check_space(observation_space, "observation_space")
    check_space(action_space, "action_space")
    check_observation_space(observation_space)
    check_action_space(action_space, observation_space)
    for box in _boxes(action_space):
        if squash and not stretched(box).all():
            raise ValueError(
                f"box_distribution 'tanh_gaussian' and 'beta' keep actions within bounds, which the action space {box} lacks; "
                "give 'gaussian' or 'gsde'"
            )


def _boxes(space: spaces.Space) -> Iterator[spaces.Box]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for child in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _boxes(child)
    elif isinstance(space, spaces.Box):
        yield space


def seen_parts(space: spaces.Space, names: tuple[str, ...] | None, *, masked: bool = False) -> tuple[str, ...] | None:
    """Names of the parts of an observation that a network gets: those that it sees, and with ``masked`` the actions' mask."""
    if names is None or not masked or ACTION_MASK not in getattr(space, "spaces", {}):
        return names
    return (*names, ACTION_MASK)


def part_of(space: spaces.Space, names: tuple[str, ...] | None, *, masked: bool = False) -> spaces.Space:
    """Space of the parts that a network gets."""
    seen = seen_parts(space, names, masked=masked)
    if seen is None:
        return space
    assert isinstance(space, spaces.Dict)
    return spaces.Dict([(name, child) for name, child in space.spaces.items() if name in seen])


def check_parts(space: spaces.Space, policy: Any, critic: Any, shared_torso: bool) -> None:
    """Raise unless ``policy`` and ``critic`` name parts of a dictionary observation, or are ``None``.

    Raises:
        TypeError: not a tuple of strings.
        ValueError: another space than a Dict, no name, an unknown one or one twice, the mask of actions, or parts of a critic's
            that reads the policy's features.
    """
    for setting, names in (("policy_observation", policy), ("critic_observation", critic)):
        _check_seen(setting, names, space)
    if shared_torso and critic is not None:
        raise ValueError(
            f"critic_observation={critic!r} has no effect where the critic reads the policy's features; leave one out"
        )


def _check_seen(setting: str, names: Any, space: spaces.Space) -> None:
    if names is None:
        return
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{setting} must be a tuple of names such as ('state',); got {names!r}")
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"{setting} names parts of a dictionary; the observation space is {space}")
    parts = [name for name in space.spaces if name != ACTION_MASK]
    if ACTION_MASK in names:
        raise ValueError(f"{setting} cannot name {ACTION_MASK!r}, the mask, which the policy gets anyway; leave it out")
    if not names or not set(names) <= set(parts) or len(set(names)) < len(names):
        raise ValueError(f"{setting} must name at least one of {parts}, each once; got {names!r}")
    check_observation_space(part_of(space, names))
