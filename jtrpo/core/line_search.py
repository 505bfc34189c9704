"""Backtracking line search that never leaves the trust region."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jtrpo.core.check import as_floats, check_callable, check_count, check_number, check_same_shapes, shown
from jtrpo.core.conjugate_gradient import tree_axpy


class UpdateStatus(IntEnum):
    """How a constrained step ended. Everything but ``ACCEPTED`` means that the old parameters came back.

    Examples:
        >>> print(jtrpo.UpdateStatus.ZERO_GRADIENT.explanation)
        The objective's gradient is zero: all advantages are equal, or all weights are zero.
    """

    ACCEPTED = 0
    ZERO_GRADIENT = 1
    NON_FINITE_GRADIENT = 2
    BAD_CURVATURE = 3
    NON_FINITE_CANDIDATE = 4
    KL_EXCEEDED = 5
    NO_IMPROVEMENT = 6
    OUT_OF_RANGE = 7
    REFUSED = 8
    COST_EXCEEDED = 9

    @property
    def explanation(self) -> str:
        """Cause and remedy, in words."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    UpdateStatus.ACCEPTED: "The step was taken.",
    UpdateStatus.ZERO_GRADIENT: "The objective's gradient is zero: all advantages are equal, or all weights are zero.",
    UpdateStatus.NON_FINITE_GRADIENT: "The objective or its gradient is not finite at the old parameters: look for NaN or "
    "infinity in the batch, or for a stored log_prob that does not belong to this policy.",
    UpdateStatus.BAD_CURVATURE: "Conjugate gradients met no positive curvature, so no step could be scaled: raise cg_damping, "
    "and look for a policy that has become deterministic.",
    UpdateStatus.NON_FINITE_CANDIDATE: "Every candidate had a non-finite objective or KL: lower max_kl or raise cg_damping.",
    UpdateStatus.KL_EXCEEDED: "No candidate stayed within max_kl: raise max_backtracks or cg_damping, or fisher_fraction.",
    UpdateStatus.NO_IMPROVEMENT: "Candidates within max_kl did not improve the objective: the policy may be at an optimum "
    "of this batch, or the batch is too noisy.",
    UpdateStatus.OUT_OF_RANGE: "A setting that was traced is out of its range or not finite (max_kl, gamma, backtrack_factor, "
    "...): look at what a schedule or a replaced hyper-parameter gives.",
    UpdateStatus.REFUSED: "Candidates within max_kl that improved the objective did not meet a condition of the caller's own.",
    UpdateStatus.COST_EXCEEDED: "Candidates within max_kl did not keep a cost within its limit, or did not lower it where it is "
    "exceeded already: raise max_backtracks or lower max_kl; if it lasts, the batch is too noisy or the limit too low.",
}


class Evaluation(NamedTuple):
    """A policy measured on the batch against the one that acted.

    Attributes:
        objective: surrogate objective L, to be maximised.
        kl: mean over samples of KL(old || new), in nats.
        kl_max: largest KL over the samples, in nats; where the batch is spread over devices, over this device's samples.
        entropy: mean entropy, in nats.
        more: whatever else a caller measures, by name, such as a cost; scalars, or any pytree of them.

    Examples:
        >>> measured = jtrpo.Evaluation(objective=1.0, kl=0.01, kl_max=0.05, entropy=0.6, more={"cost": 25.0})
        >>> measured.more["cost"]
        25.0
    """

    objective: Float[Array, ""]
    kl: Float[Array, ""]
    kl_max: Float[Array, ""]
    entropy: Float[Array, ""]
    more: Any = {}  # noqa: RUF012 # never written to


Acceptance = Callable[[Evaluation, Evaluation], Int[Array, ""]]
"""``(new, old) -> UpdateStatus``: ``ACCEPTED``, or the reason why a candidate is refused."""


def improves_within(max_kl: float | Float[Array, ""]) -> Acceptance:
    """Accept what is finite, has mean KL(old || new) <= max_kl and a larger objective: the paper's line search.

    Raises:
        TypeError: ``max_kl`` is not a number.
        ValueError: ``max_kl`` is not positive. Where it is traced, nothing is within it.

    Examples:
        >>> old, new = jtrpo.Evaluation(0.0, 0.0, 0.0, 0.6), jtrpo.Evaluation(1.0, 0.02, 0.05, 0.5)
        >>> [jtrpo.UpdateStatus(int(jtrpo.improves_within(bound)(new, old))).name for bound in (0.01, 0.02)]
        ['KL_EXCEEDED', 'ACCEPTED']
    """
    check_number("max_kl", max_kl, above=0, scalar=True)
    return lambda new, old: candidate_status(new, within=new.kl <= max_kl, improves=new.objective > old.objective)


def is_finite(new: Evaluation, old: Evaluation) -> Int[Array, ""]:
    """Accept whatever is finite: the natural policy gradient, which has no line search."""
    return candidate_status(new, within=True, improves=True)


def candidate_status(
    new: Evaluation, *, within: bool | Bool[Array, ""], improves: bool | Bool[Array, ""]
) -> Int[Array, ""]:
    """Status of a candidate that must be finite, ``within`` the trust region and one that ``improves``, in this order."""
    finite = jnp.isfinite(new.objective) & jnp.isfinite(new.kl)
    return jnp.select(
        [~finite, ~jnp.asarray(within), ~jnp.asarray(improves)],
        [UpdateStatus.NON_FINITE_CANDIDATE, UpdateStatus.KL_EXCEEDED, UpdateStatus.NO_IMPROVEMENT],
        UpdateStatus.ACCEPTED,
    )


class LineSearchInfo(NamedTuple):
    """What a search reports.

    Attributes:
        evaluation: measurements of the parameters that were returned.
        status: an :class:`UpdateStatus`; a refusal gives the reason of the candidate that came closest.
        backtracks: candidates that were refused.
        fraction: share of the full step that was taken; 0 where none was.
    """

    evaluation: Evaluation
    status: Int[Array, ""]
    backtracks: Int[Array, ""]
    fraction: Float[Array, ""]


@jax.named_scope("line_search")
def line_search(
    measure: Callable[[PyTree], Evaluation],
    params: PyTree,
    full_step: PyTree,
    start: Evaluation,
    *,
    accept: Acceptance,
    backtrack_factor: float | Float[Array, ""] = 0.8,
    max_backtracks: int | Int[Array, ""] = 10,
    initial_status: int | Int[Array, ""] = UpdateStatus.ACCEPTED,
) -> tuple[PyTree, LineSearchInfo]:
    """Take the first of ``params + backtrack_factor^k full_step``, k = 0 .. max_backtracks - 1, that is acceptable.

    Where none is, the very parameters that were passed in come back, bit for bit.

    Args:
        measure: measures a candidate.
        params: old parameters, any pytree.
        full_step: pytree shaped like ``params``.
        start: measurements at the old parameters.
        accept: decides on what was measured, see :data:`Acceptance`; :func:`improves_within` is the paper's.
        backtrack_factor: in (0, 1).
        max_backtracks: most candidates to try; may be traced.
        initial_status: an :class:`UpdateStatus`; with anything but ``ACCEPTED`` no candidate is tried, and it is the status.

    Returns:
        ``(params, info)``.

    Raises:
        TypeError: parameters that are not floating-point, or ``measure`` does not return an :class:`Evaluation`, or ``accept`` no
            :class:`UpdateStatus`.
        ValueError: a setting out of range, a step that is not shaped like the parameters, or measurements that are not those of
            ``start``.

    Examples:
        Maximise x within x^2 <= 0.5, from 0, by the candidates 1, 0.8, 0.64, ...:

        >>> measure = lambda x: jtrpo.Evaluation(objective=x, kl=x**2, kl_max=x**2, entropy=jnp.zeros(()))
        >>> accept = jtrpo.improves_within(0.5)
        >>> x, info = jtrpo.line_search(measure, jnp.zeros(()), jnp.ones(()), measure(jnp.zeros(())), accept=accept)
        >>> print(f"{x:.2f} after {info.backtracks} backtracks")
        0.64 after 2 backtracks

    Source: Schulman et al. 2015, https://arxiv.org/abs/1502.05477, appendix C.
    """
    check_callable("measure", measure, "params -> Evaluation", takes=1)
    check_callable("accept", accept, "(new, old) -> UpdateStatus", takes=2)
    in_range = check_number("backtrack_factor", backtrack_factor, above=0, below=1, scalar=True)
    in_range &= check_count("max_backtracks", max_backtracks, at_least=1)
    if not isinstance(start, Evaluation):
        raise TypeError(f"start must be an Evaluation; got {type(start).__name__}")
    _check_status("initial_status must be", initial_status)
    params, full_step, start = as_floats("params", params), as_floats("full_step", full_step), as_floats("start", start)
    check_same_shapes("full_step", full_step, "params", params)
    initial_status = jnp.where(in_range, initial_status, UpdateStatus.OUT_OF_RANGE)
    can_search = initial_status == UpdateStatus.ACCEPTED

    def unfinished(state: tuple) -> Bool[Array, ""]:
        tried, _, _, status = state
        return can_search & (tried < max_backtracks) & (status != UpdateStatus.ACCEPTED)

    def attempt(state: tuple) -> tuple:
        tried, _, _, closest = state
        fraction = jnp.asarray(backtrack_factor, start.objective.dtype) ** tried
        candidate = tree_axpy(fraction, full_step, params)
        measured = measure(candidate)
        _check_measured(measured, start)
        measured = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), measured, start)
        status = _decide(accept, measured, start)
        status = jnp.where(status == UpdateStatus.ACCEPTED, status, jnp.maximum(closest, status)).astype(jnp.int32)
        return tried + 1, candidate, measured, status

    initial = (jnp.int32(0), params, start, jnp.int32(UpdateStatus.NON_FINITE_CANDIDATE))
    tried, candidate, measured, status = jax.lax.while_loop(unfinished, attempt, initial)
    status = jnp.where(can_search, status, initial_status).astype(jnp.int32)
    accepted = status == UpdateStatus.ACCEPTED
    params, evaluation = jax.tree.map(
        lambda new, old: jnp.where(accepted, new, old), (candidate, measured), (params, start)
    )
    backtracks = tried - accepted
    fraction = jnp.where(accepted, jnp.asarray(backtrack_factor, start.objective.dtype) ** backtracks, 0.0)
    return params, LineSearchInfo(evaluation, status, backtracks, fraction)


def _check_measured(measured: Any, start: Evaluation) -> None:
    if not isinstance(measured, Evaluation):
        raise TypeError(f"measure must return an Evaluation; got {type(measured).__name__}")
    there, here = measured.more, start.more
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() != here.keys():
        raise ValueError(
            f"measure(params) and start must hold the same quantities in more; got {sorted(there)} and {sorted(here)}: give "
            "value_and_gradient and measure the same, such as cost=..."
        )
    check_same_shapes("measure(params)", measured, "start", start)


def _decide(accept: Acceptance, new: Evaluation, old: Evaluation) -> Int[Array, ""]:
    try:
        status = accept(new, old)
    except KeyError as error:
        name = next(iter(error.args), None)
        if not isinstance(new.more, dict) or name in new.more:
            raise
        raise ValueError(
            f"accept reads more[{name!r}], which was not measured; give {name}=... to value_and_gradient and to measure"
        ) from error
    _check_status("accept must return", status)
    return status


def _check_status(what: str, status: Any) -> None:
    kind = getattr(status, "dtype", type(status))
    is_status = isinstance(status, UpdateStatus) or (kind is not bool and jnp.issubdtype(kind, jnp.integer))
    if not is_status or jnp.ndim(status) != 0:  # True would be status 1, ZERO_GRADIENT
        raise TypeError(f"{what} an UpdateStatus, such as UpdateStatus.ACCEPTED; got {shown(status)}")
