"""The numbers of the algorithm, which may be traced, mapped over or scheduled."""

from functools import reduce
from operator import and_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtrpo.core.check import Within, check_number, shown

Number = float | Float[Array, "..."]


class _HyperparamFields(NamedTuple):
    max_kl: Number = 0.005
    gamma: Number = 0.99
    gae_lambda: Number = 0.95
    cg_damping: Number = 0.1
    cg_tolerance: Number = 1e-5
    backtrack_factor: Number = 0.8
    entropy_coefficient: Number = 0.0
    critic_learning_rate: Number = 1e-3
    critic_max_change: Number = 0.3
    cost_limit: Number = 25.0
    cost_gamma: Number = 0.99
    multiplier_gain: Number = 0.3


RANGES: dict[str, dict[str, Any]] = {
    "max_kl": {"above": 0},
    "gamma": {"at_least": 0, "at_most": 1},
    "gae_lambda": {"at_least": 0, "at_most": 1},
    "cg_damping": {"at_least": 0},
    "cg_tolerance": {"at_least": 0},
    "backtrack_factor": {"above": 0, "below": 1},
    "entropy_coefficient": {},
    "critic_learning_rate": {"at_least": 0},
    "critic_max_change": {"above": 0},
    "cost_limit": {"at_least": 0},
    "cost_gamma": {"at_least": 0, "at_most": 1},
    "multiplier_gain": {"at_least": 0},
}
"""What each number must be, as arguments of :func:`check_number`."""


class Hyperparams(_HyperparamFields):
    """Numbers of the algorithm. Each may be traced, or an array to ``vmap`` over.

    Python's numbers become NumPy's, which JAX compiles as it does the arrays of a state: a new value compiles nothing anew. An
    update that meets a traced number out of its range learns nothing, with the status ``OUT_OF_RANGE``.

    Attributes: Policy update
        max_kl: trust region delta: bound on the mean KL(old || new) of an update, in nats; above 0.
        cg_damping: added to the Fisher matrix's diagonal; at least 0.
        cg_tolerance: relative residual at which conjugate gradients stop early; at least 0.
        backtrack_factor: ratio of successive line-search candidates, in (0, 1).
        entropy_coefficient: weight of the entropy bonus, per nat, in units of the normalised advantage.

    Attributes: Advantages and scales
        gamma: discount per step, in [0, 1].
        gae_lambda: lambda of generalised advantage estimation, in [0, 1].

    Attributes: Critic
        critic_learning_rate: learning rate of the ``"adam"`` critic; at least 0.
        critic_max_change: trust region of the ``"gauss_newton"`` critic: bound on mean((V_new - V)^2) / (2 mean((V -
            target)^2)); above 0.

    Attributes: Costs
        cost_limit: what an episode may cost, undiscounted, with ``constraint_method``; of several costs each. At least 0.
        cost_gamma: discount of costs per step, in [0, 1].
        multiplier_gain: how fast costs gain weight where an episode costs far more than the limit: an update adds a third of this
            to their share in a Lagrangian, or a tenth to the share of the limit that ``"cpo"`` and ``"pcpo"`` leave free. At
            least 0.

    Raises:
        TypeError: a value that is not a number.
        ValueError: a value that is not finite or out of range.

    Examples:
        >>> print(jtrpo.Hyperparams(max_kl=0.01)._replace(gamma=0.9).gamma)
        0.9
        >>> jtrpo.Hyperparams(max_kl=-1.0)
        Traceback (most recent call last):
        ValueError: max_kl must be a finite number above 0; got -1.0
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> "Hyperparams":  # noqa: D102
        self = super().__new__(cls, *args, **kwargs)
        if self._is_axes():
            return self
        # JAX rebuilds this tuple from tracers, placeholders or results of `tree.map`, all fields by position; users name what
        # they set. Only numbers that a user types are checked here, all others in `check`.
        given = kwargs if len(args) == len(cls._fields) else dict(zip(cls._fields, args, strict=False)) | kwargs
        _check_typed(given)
        return super()._make(map(_compiled_alike, self))

    def _replace(self, **kwargs: Any) -> "Hyperparams":
        new = super()._replace(**kwargs)
        if new._is_axes():
            return new
        _check_typed(kwargs)
        return type(self)(*new)

    def _is_axes(self) -> bool:
        """Whether this says along which axes to map over other hyper-parameters, as ``in_axes`` of ``jax.vmap``."""
        return all(value is None or type(value) is int for value in self)

    def __repr__(self) -> str:
        return f"Hyperparams({', '.join(f'{name}={value}' for name, value in self._asdict().items())})"

    def check(self) -> "Hyperparams":
        """Return self after checking that each is one number, and in its range where it is known, device arrays included."""
        self.in_range()
        return self

    def in_range(self) -> Within:
        """Whether all that is traced is in its range, after :meth:`check` of the rest."""
        return reduce(and_, (check_number(name, getattr(self, name), scalar=True, **RANGES[name]) for name in RANGES))


def check_hyperparams(hyperparams: Any) -> Hyperparams:
    """Return the numbers of a training after :meth:`Hyperparams.check`.

    Raises:
        TypeError: anything else.
        ValueError: a value out of range, or several.
    """
    if not isinstance(hyperparams, Hyperparams):
        raise TypeError(
            f"hyperparams must be jtrpo.Hyperparams, such as Hyperparams(max_kl=0.01); got {shown(hyperparams)}"
        )
    return hyperparams.check()


def _check_typed(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name in RANGES and isinstance(value, bool | int | float | str | np.generic):
            check_number(name, value, **RANGES[name])


def _compiled_alike(value: Any) -> Any:
    """A number in the one form for which JAX compiles: strongly typed, of the default floating-point type."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return np.float64(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        return value.astype(np.float64)
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        integer = jnp.issubdtype(value.dtype, np.integer)
        return jax.lax.convert_element_type(value, jnp.zeros((), float).dtype) if integer or value.weak_type else value
    return value


def as_arrays(hyperparams: Hyperparams) -> Hyperparams:
    """Hyper-parameters as strongly typed floating-point arrays, so that a state has the same types before and after a step."""
    return jax.tree.map(lambda x: jnp.asarray(x, float), hyperparams)
