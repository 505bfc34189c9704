"""Eager checks of settings: the argument, the value and the remedy, before anything is traced."""

import math
import numbers
from collections.abc import Collection
from typing import Any

import jax
import numpy as np


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    scalar: bool = False,
) -> None:
    """Raise unless ``value`` is a finite number (or an array of them) within bounds.

    Values that are known only at run time (tracers) pass: the caller must stay safe for them.

    With ``scalar`` an array of several numbers is refused.

    Raises:
        TypeError: not a number.
        ValueError: not finite or out of bounds.
    """
    if scalar and np.ndim(value) != 0:
        raise ValueError(f"{name} must be one number, got an array of shape {np.shape(value)}; vmap over it instead")
    if isinstance(value, jax.core.Tracer):
        return
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    wanted = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    wanted = f"a finite number{' ' + wanted if wanted else ''}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.ndarray | jax.Array):
        raise TypeError(f"{name} must be {wanted}; got {value!r} of type {type(value).__name__}")
    array = np.asarray(value)
    if array.dtype == bool or not (
        np.issubdtype(array.dtype, np.number) or jax.numpy.issubdtype(array.dtype, np.number)
    ):
        raise TypeError(f"{name} must be {wanted}; got an array of {array.dtype}")
    array = array.astype(float)
    good = np.isfinite(array)
    good &= array >= at_least if at_least is not None else True
    good &= array > above if above is not None else True
    good &= array <= at_most if at_most is not None else True
    good &= array < below if below is not None else True
    if not good.all():
        shown = value if array.ndim == 0 else f"{array[~good].flat[0]} among {array.size} values"
        raise ValueError(f"{name} must be {wanted}; got {shown}")


def check_count(name: str, value: Any, *, at_least: int) -> None:
    """Raise unless ``value`` is a whole number of at least ``at_least``; tracers pass.

    Raises:
        TypeError: not a whole number.
        ValueError: too small.
    """
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and np.issubdtype(value.dtype, np.integer):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        hint = (
            f"; write {int(value)}" if isinstance(value, float) and math.isfinite(value) and value == int(value) else ""
        )
        raise TypeError(
            f"{name} must be a whole number of at least {at_least}; got {value!r} of type {type(value).__name__}{hint}"
        )
    if value < at_least:
        raise ValueError(f"{name} must be a whole number of at least {at_least}; got {value}")


def check_seed(name: str, value: Any) -> None:
    """Raise unless ``value`` is a seed of its own: of a larger number, random keys of 32 bits take the rest.

    Raises:
        TypeError: not a whole number.
        ValueError: out of range.
    """
    try:
        check_count(name, value, at_least=0)
        below = value < 2**32
    except ValueError:
        below = False
    if not below:
        raise ValueError(f"{name} must be a whole number from 0 to 4,294,967,295 (2**32 - 1); got {value}")


def check_static(name: str, value: Any, kind: type) -> None:
    """Raise ``TypeError`` unless ``value`` is a Python ``kind`` known before tracing.

    Raises:
        TypeError: a traced value, or one of another type.
    """
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be static (a Python {kind.__name__}), since it decides what is computed; got {value}"
        )
    if kind is bool and not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False (static); got {value!r}")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``.

    Raises:
        ValueError: anything else.
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
