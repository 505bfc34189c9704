"""Backtracking line search that never leaves the trust region."""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jtrpo.core.check import as_floats, check_callable, check_choice, check_count, check_number, check_same_shapes
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
}


class Evaluation(NamedTuple):
    """A policy measured on the batch against the old one.

    Attributes:
        objective: surrogate objective L, to be maximised.
        kl: mean over samples of KL(old || new), in nats.
        kl_max: largest KL over the samples, in nats.
        entropy: mean entropy, in nats.
    """

    objective: Float[Array, ""]
    kl: Float[Array, ""]
    kl_max: Float[Array, ""]
    entropy: Float[Array, ""]


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
    evaluate: Callable[[PyTree], Evaluation],
    params: PyTree,
    full_step: PyTree,
    start: Evaluation,
    *,
    max_kl: float | Float[Array, ""],
    backtrack_factor: float | Float[Array, ""] = 0.8,
    max_backtracks: int | Int[Array, ""] = 10,
    constraint: str = "kl",
    enabled: bool | Bool[Array, ""] = True,
) -> tuple[PyTree, LineSearchInfo]:
    """Take the first of ``params + backtrack_factor^k full_step``, k = 0 .. max_backtracks - 1, that is acceptable.

    Acceptable: everything finite, ``KL(old || new) <= max_kl`` and ``L(new) > L(old)``. Where none is, the very
    parameters that were passed in come back, bit for bit.

    Args:
        evaluate: measures a candidate.
        params: old parameters, any pytree.
        full_step: pytree shaped like ``params``.
        start: measurements at the old parameters.
        max_kl: trust region, in nats.
        backtrack_factor: in (0, 1).
        max_backtracks: most candidates to try; may be traced.
        constraint: what ``max_kl`` bounds: ``"kl"``, the mean over the samples, ``"kl_max"``, the largest of them, or
            ``"none"``, which accepts the first candidate that is finite.
        enabled: ``False`` tries no candidate.

    Returns:
        ``(params, info)``.

    Raises:
        TypeError: parameters that are not floating-point, or ``evaluate`` does not return an :class:`Evaluation`.
        ValueError: a setting out of range, or a step that is not shaped like the parameters.

    Examples:
        Maximise x within x^2 <= 0.5, from 0, by the candidates 1, 0.8, 0.64, ...:

        >>> from jtrpo.core.line_search import Evaluation
        >>> measure = lambda x: Evaluation(objective=x, kl=x**2, kl_max=x**2, entropy=jnp.zeros(()))
        >>> x, info = jtrpo.line_search(measure, jnp.zeros(()), jnp.ones(()), measure(jnp.zeros(())), max_kl=0.5)
        >>> print(f"{x:.2f} after {info.backtracks} backtracks")
        0.64 after 2 backtracks

    Source: Schulman et al. 2015, https://arxiv.org/abs/1502.05477, appendix C.
    """
    check_callable("evaluate", evaluate, "params -> Evaluation")
    check_choice("constraint", constraint, ("kl", "kl_max", "none"))
    in_range = check_number("max_kl", max_kl, above=0, scalar=True)
    in_range &= check_number("backtrack_factor", backtrack_factor, above=0, below=1, scalar=True)
    in_range &= check_count("max_backtracks", max_backtracks, at_least=1)
    enabled = in_range & enabled
    params, full_step, start = as_floats("params", params), as_floats("full_step", full_step), as_floats("start", start)
    check_same_shapes("full_step", full_step, "params", params)

    def unfinished(state: tuple) -> Bool[Array, ""]:
        tried, _, _, status = state
        return enabled & (tried < max_backtracks) & (status != UpdateStatus.ACCEPTED)

    def attempt(state: tuple) -> tuple:
        tried, _, _, closest = state
        fraction = jnp.asarray(backtrack_factor, start.objective.dtype) ** tried
        candidate = tree_axpy(fraction, full_step, params)
        measured = evaluate(candidate)
        if not isinstance(measured, Evaluation):
            raise TypeError(f"evaluate must return an Evaluation; got {type(measured).__name__}")
        measured = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), measured, start)
        finite = jnp.isfinite(measured.objective) & jnp.isfinite(measured.kl)
        inside = {"kl": measured.kl <= max_kl, "kl_max": measured.kl_max <= max_kl, "none": finite}[constraint]
        refused = jnp.where(
            finite & inside,
            UpdateStatus.NO_IMPROVEMENT,
            jnp.where(finite, UpdateStatus.KL_EXCEEDED, UpdateStatus.NON_FINITE_CANDIDATE),
        )
        better = finite if constraint == "none" else measured.objective > start.objective
        accepted = (refused == UpdateStatus.NO_IMPROVEMENT) & better
        status = jnp.where(accepted, UpdateStatus.ACCEPTED, jnp.maximum(closest, refused)).astype(jnp.int32)
        return tried + 1, candidate, measured, status

    initial = (jnp.int32(0), params, start, jnp.int32(UpdateStatus.NON_FINITE_CANDIDATE))
    tried, candidate, measured, status = jax.lax.while_loop(unfinished, attempt, initial)
    accepted = status == UpdateStatus.ACCEPTED
    params, evaluation = jax.tree.map(
        lambda new, old: jnp.where(accepted, new, old), (candidate, measured), (params, start)
    )
    backtracks = tried - accepted
    fraction = jnp.where(accepted, jnp.asarray(backtrack_factor, start.objective.dtype) ** backtracks, 0.0)
    return params, LineSearchInfo(evaluation, status, backtracks, fraction)
