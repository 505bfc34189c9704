"""Eager checks of settings: the argument, the value and the remedy, before anything is traced."""

import inspect
import math
import numbers
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

Within = bool | Bool[Array, ""]
"""Whether a number lies within its bounds: ``True`` for a number known before tracing, which would have raised otherwise."""


def to_python(value: Any) -> Any:
    """Python's own type for a scalar of NumPy or JAX, a tuple for a list or a one-dimensional array; anything else unchanged."""
    if isinstance(value, jax.core.Tracer):
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | jax.Array) and value.ndim == 0):
        return value.item() if value.dtype.kind in "biufU" else value
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return tuple(map(to_python, value)) if type(value) in (list, tuple, np.ndarray) else value
    return value


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    scalar: bool = False,
) -> Within:
    """Raise unless ``value`` is a finite number (or an array of them) within bounds.

    A value that is known only at run time (a tracer) cannot raise: whether it is within is what this returns.

    With ``scalar`` an array of several numbers is refused.

    Raises:
        TypeError: not a number.
        ValueError: not finite or out of bounds.
    """
    if scalar and (isinstance(value, list | tuple) or np.ndim(value) != 0):
        several = (
            f"a {type(value).__name__}" if isinstance(value, list | tuple) else f"an array of shape {np.shape(value)}"
        )
        raise ValueError(f"{name} must be one number, got {several}; vmap over it instead")
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    wanted = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    wanted = f"a finite number{' ' + wanted if wanted else ''}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.ndarray | jax.Array):
        raise TypeError(f"{name} must be {wanted}; got {value!r} of type {type(value).__name__}")
    traced = isinstance(value, jax.core.Tracer)
    array: Any = value if traced else np.asarray(value)
    if not jnp.issubdtype(array.dtype, np.number) or jnp.issubdtype(array.dtype, np.complexfloating):
        raise TypeError(f"{name} must be {wanted}; got an array of {array.dtype}")
    array = array if traced else array.astype(float)
    good = (jnp if traced else np).isfinite(array)
    good &= array >= at_least if at_least is not None else True
    good &= array > above if above is not None else True
    good &= array <= at_most if at_most is not None else True
    good &= array < below if below is not None else True
    if traced:
        return good
    if not good.all():
        shown = value if array.ndim == 0 else f"{array[~good].flat[0]} among {array.size} values"
        raise ValueError(f"{name} must be {wanted}; got {shown}")
    return True


def check_count(name: str, value: Any, *, at_least: int) -> Within:
    """Raise unless ``value`` is a whole number of at least ``at_least``; for a tracer, return whether it is.

    Raises:
        TypeError: not a whole number.
        ValueError: too small.
    """
    if isinstance(value, jax.core.Tracer) and value.shape == () and jnp.issubdtype(value.dtype, np.integer):
        return value >= at_least
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be a whole number of at least {at_least}; got a traced {value.dtype} of shape {value.shape}"
        )
    value = to_python(value) if np.ndim(value) == 0 else value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        hint = (
            f"; write {int(value)}" if isinstance(value, float) and math.isfinite(value) and value == int(value) else ""
        )
        raise TypeError(
            f"{name} must be a whole number of at least {at_least}; got {value!r} of type {type(value).__name__}{hint}"
        )
    if value < at_least:
        raise ValueError(f"{name} must be a whole number of at least {at_least}; got {value}")
    return True


def check_seed(name: str, value: Any) -> None:
    """Raise unless ``value`` fits in 32 bits: of a larger number random keys take the remainder, so two seeds could be equal.

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
            f"{name} must be static (a Python {kind.__name__}), since it decides what is computed; got a traced value: name it "
            "in static_argnames of jax.jit, or bind it with functools.partial before"
        )
    if kind is bool and not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False (static); got {value!r}")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``.

    Raises:
        ValueError: anything else.
    """
    value = to_python(value)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_callable(name: str, value: Any, form: str, takes: int | None = None, keywords: Collection[str] = ()) -> None:
    """Raise ``TypeError`` unless ``value`` is a function, and takes so many arguments and those keywords.

    Args:
        name: of the argument.
        value: what was given.
        form: what is wanted, for the message.
        takes: positional arguments that it will be given; ``None``: it may take what it likes.
        keywords: names of those that it will be given beside them.

    Raises:
        TypeError: anything that cannot be called, or not in that way.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, {form}; got {shown(value)}")
    if takes is None:
        return
    try:  # of the function itself: a wrapper may take other arguments than what it wraps
        signature = inspect.signature(value, follow_wrapped=False)
    except (TypeError, ValueError):
        return  # it does not tell
    try:
        signature.bind(*[None] * takes, **dict.fromkeys(keywords))
    except TypeError:
        raise TypeError(f"{name} must be a function, {form}; got one of ({', '.join(signature.parameters)})") from None


def as_floats(name: str, tree: PyTree) -> PyTree:
    """Return a pytree of real floating-point arrays; leaves that are floats of Python or NumPy become arrays.

    Raises:
        TypeError: a leaf that is anything else, named by its path.
        ValueError: no leaf at all.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} must hold at least one floating-point array; got {tree!r}")

    def as_array(path: tuple, leaf: Any) -> Array:
        kind = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(kind, np.floating):
            where = name + jax.tree_util.keystr(path)
            hint = ": what is not to be optimised stays outside, bound in the policy" if name == "params" else ""
            raise TypeError(f"{where} must be an array of floating-point numbers; got {shown(leaf)}{hint}")
        return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, jax.dtypes.canonicalize_dtype(kind))

    return jax.tree.unflatten(structure, [as_array(*each) for each in leaves])


def check_same_shapes(name: str, tree: PyTree, like_name: str, like: PyTree) -> None:
    """Raise ``ValueError`` unless ``tree`` has the structure and the shapes of ``like``."""
    given, wanted = (
        (jax.tree.structure(each), [jnp.shape(leaf) for leaf in jax.tree.leaves(each)]) for each in (tree, like)
    )
    if given != wanted:
        raise ValueError(f"{name} must be a pytree shaped like {like_name}, {wanted}; got {given}")


def check_same_form(what: str, tree: PyTree, like: PyTree) -> PyTree:
    """Return ``tree``, or raise ``ValueError`` unless it has the structure, the shapes and the types of ``like``.

    Args:
        what: the message's beginning: who must return what.
        tree: what was returned.
        like: what it must be like.
    """
    structure, wanted = str(jax.tree.structure(tree)), str(jax.tree.structure(like))
    if structure != wanted:
        differ = f"{structure} in place of {wanted}" if type(tree) is type(like) else kind_of(tree)
        raise ValueError(f"{what}; got {differ}")
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(like), strict=True):
        if kind_of(leaf) != kind_of(other):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{what}; got {kind_of(leaf)} in place of {kind_of(other)}{' at ' if where else ''}{where}"
            )
    return tree


def kind_of(value: Any) -> str:
    """An array by its dtype and shape, anything else by its type: what a message says of what a function returned."""
    return shown(value) if hasattr(value, "dtype") else type(value).__name__


def shown(value: Any) -> str:
    """A value as it is shown in a message: an array by its dtype and shape, anything else by its text and type."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        return f"{dtype}{list(value.shape)}"
    text = repr(value)
    return f"{text} of type {type(value).__name__}" if len(text) <= 80 else f"a {type(value).__name__}"
