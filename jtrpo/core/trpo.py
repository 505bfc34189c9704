"""One constrained policy update: the algorithm, from a batch to new parameters."""

from collections.abc import Callable
from functools import partial, reduce
from operator import and_
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jtrpo.core.batch import AxisName, Batch, check_batch, largest_over, normalize_advantages
from jtrpo.core.check import Within, as_floats, check_callable, check_choice, check_count, check_number, check_static
from jtrpo.core.conjugate_gradient import CGInfo, conjugate_gradient, tree_dot
from jtrpo.core.diagonal import diagonal_preconditioner
from jtrpo.core.distributions import Distribution
from jtrpo.core.fisher import Policy
from jtrpo.core.largest_kl import improves_within_largest, largest_curvature
from jtrpo.core.line_search import Evaluation, LineSearchInfo, UpdateStatus, improves_within, is_finite, line_search
from jtrpo.core.local import linearize
from jtrpo.core.natural_gradient import full_step, initial_status, natural_gradient
from jtrpo.core.objective import Objective, likelihood_ratio, with_entropy


class TRPOInfo(NamedTuple):
    """What one update reports. All values are those of the parameters that were returned.

    Attributes:
        objective_before: surrogate objective L at the old parameters (about 0 with normalised advantages).
        objective_after: L at the returned parameters.
        predicted_improvement: first-order prediction g . step of the improvement, for the step taken.
        kl: mean over samples of KL(old || new), in nats; never above ``max_kl`` (unless ``constraint`` is ``"none"``).
        kl_max: largest KL over the samples, in nats.
        entropy: mean entropy, in nats.
        gradient_norm: ``|g|`` of the objective at the old parameters.
        cg_residual: relative residual ``|g - (F + damping I) x| / |g|``.
        cg_iterations: Fisher-vector products used.
        curvature: ``x^T F x`` of the search direction, without the damping.
        step_size: norm of the step taken in parameter space.
        backtracks: candidates that the line search refused.
        accepted: whether a step was taken.
        status: an :class:`UpdateStatus`, the reason where none was.
    """

    objective_before: Float[Array, ""]
    objective_after: Float[Array, ""]
    predicted_improvement: Float[Array, ""]
    kl: Float[Array, ""]
    kl_max: Float[Array, ""]
    entropy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    cg_residual: Float[Array, ""]
    cg_iterations: Int[Array, ""]
    curvature: Float[Array, ""]
    step_size: Float[Array, ""]
    backtracks: Int[Array, ""]
    accepted: Bool[Array, ""]
    status: Int[Array, ""]


def trpo_update(
    policy: Policy,
    params: PyTree,
    batch: Batch,
    *,
    objective: Objective = likelihood_ratio,
    acting: Distribution | None = None,
    max_kl: float | Float[Array, ""] = 0.01,
    cg_iterations: int | Int[Array, ""] = 10,
    cg_damping: float | Float[Array, ""] = 0.1,
    cg_tolerance: float | Float[Array, ""] = 1e-5,
    backtrack_factor: float | Float[Array, ""] = 0.8,
    max_backtracks: int | Int[Array, ""] = 10,
    entropy_coefficient: float | Float[Array, ""] = 0.0,
    fisher_fraction: float = 1.0,
    normalize_advantage: bool = True,
    constraint: str = "kl",
    preconditioner: Callable[[PyTree], PyTree] | str | None = None,
    sequence_length: int = 1,
    axis_name: AxisName = None,
) -> tuple[PyTree, TRPOInfo]:
    """Trust Region Policy Optimization: one update of the policy from one batch.

        maximise    L(theta') = mean(r A) + entropy_coefficient * mean(entropy)
        subject to  mean KL(old || new) <= max_kl

    by x = CG(F + damping I, grad L), the full step sqrt(2 max_kl / (x^T (F + damping I) x)) x, and a backtracking line
    search that accepts a candidate only if it is finite, keeps the constraint and improves L. Otherwise the old
    parameters come back bit for bit and the info says why. Pure; works under ``jit``, ``vmap`` and ``shard_map``.

    Args:
        policy: pure function ``(params, observation) -> distribution``, from any network library.
        params: any pytree of floating-point arrays: the parameters that collected the batch.
        batch: samples with leading axis ``B``, see :class:`Batch`.
        objective: pure function ``(distribution, batch) -> [B]``, whose mean over the batch takes the place of mean(r A);
            for several actions per state :func:`jtrpo.core.vine.all_actions_objective` or
            :func:`jtrpo.core.vine.self_normalized_objective`. Static.
        acting: pi(. | batch.observation) of the policy that acted, leading axis ``B``, where it is not quite the policy at
            ``params``: what the KL is measured from. ``None``: the policy at ``params``.
        max_kl: trust region delta, in nats.
        cg_iterations: most Fisher-vector products.
        cg_damping: damping, added to the Fisher matrix's diagonal.
        cg_tolerance: relative residual at which conjugate gradients stop early.
        backtrack_factor: ratio of successive candidates' lengths, in (0, 1).
        max_backtracks: most candidates tried.
        entropy_coefficient: weight of the entropy bonus.
        fisher_fraction: share of the batch, spread over it, on which Fisher products are taken; all else uses the whole batch.
            Static.
        normalize_advantage: use (A - mean) / (std + 1e-8) over the valid samples; with several actions per state, the mean is
            the state's own. Static.
        constraint: what ``max_kl`` bounds: ``"kl"``, the mean KL over the samples; ``"kl_max"``, the largest (the paper's
            "max KL" ablation); ``"none"``, nothing: the full step is taken without a search, the natural policy gradient
            (truncated, where conjugate gradients stop before they converge). Static.
        preconditioner: for :func:`conjugate_gradient`; acts on pytrees shaped like ``params``. ``"diagonal"``: by an estimate
            of the Fisher matrix's diagonal, see :func:`jtrpo.core.diagonal.diagonal_preconditioner`.
        sequence_length: for a recurrent policy: samples come in sequences of this length, one after another, which
            ``fisher_fraction`` keeps whole; a step of weight zero is still remembered. Static.
        axis_name: mapped axis (of ``vmap`` or ``shard_map``), or axes, over which the batch is spread in order: every mean is
            taken over it, and the update is that of the whole batch. Static.

    Returns:
        ``(new_params, info)``.

    Raises:
        ValueError: a setting out of range, a batch whose leading axes differ, or no parameters at all.
        TypeError: parameters that are not floating-point, named by their path, or a policy that returned something that is not a
            distribution.

    Examples:
        A policy over two actions that is the same in every state; the first action was the better one:

        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> batch = jtrpo.Batch(jnp.ones((2, 1)), action=jnp.array([0, 1]), advantage=jnp.array([1.0, -1.0]))
        >>> update = jax.jit(lambda params, batch: jtrpo.trpo_update(policy, params, batch, max_kl=0.01))
        >>> params, info = update(jnp.zeros((1, 2)), batch)
        >>> jtrpo.UpdateStatus(int(info.status)).name, bool(info.kl <= 0.01), bool(params[0, 0] > params[0, 1])
        ('ACCEPTED', True, True)

    Source: Schulman et al. 2015, Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477, section 6 and
    appendix C.
    """
    check_callable("policy", policy, "(params, observation) -> distribution", takes=2)
    check_callable("objective", objective, "(distribution, batch) -> [B]", takes=2)
    params = as_floats("params", params)
    batch = check_batch(batch, branched=objective is not likelihood_ratio)
    in_range = check_settings(
        max_kl=max_kl,
        cg_iterations=cg_iterations,
        cg_damping=cg_damping,
        cg_tolerance=cg_tolerance,
        backtrack_factor=backtrack_factor,
        max_backtracks=max_backtracks,
        entropy_coefficient=entropy_coefficient,
        fisher_fraction=fisher_fraction,
        normalize_advantage=normalize_advantage,
    )
    check_choice("constraint", constraint, ("kl", "kl_max", "none"))
    if not callable(preconditioner):
        # The diagonal is estimated from one sampled action per state.
        check_choice("preconditioner", preconditioner, (None, "diagonal") if batch.advantage.ndim == 1 else (None,))

    normalize = normalize_advantages if normalize_advantage else None
    local = linearize(
        policy, params, batch, acting=acting, normalize=normalize, sequence_length=sequence_length, axis_name=axis_name
    )
    objective = with_entropy(objective, entropy_coefficient)
    start, gradient = local.value_and_gradient(objective)

    subset = local.subset(fisher_fraction)
    precondition: Any = diagonal_preconditioner(subset, cg_damping) if preconditioner == "diagonal" else preconditioner
    solver = partial(
        conjugate_gradient, max_iterations=cg_iterations, tolerance=cg_tolerance, preconditioner=precondition
    )
    direction, cg = natural_gradient(subset, gradient, damping=cg_damping, solver=solver)

    curvature, accept = cg.curvature, improves_within(max_kl)
    if constraint == "kl_max":
        curvature = largest_curvature(subset, direction, cg_damping)
        accept = improves_within_largest(max_kl, axis_name)
    if constraint == "none":
        accept, max_backtracks = is_finite, 1
    step = full_step(direction, curvature, max_kl)
    params, search = line_search(
        lambda candidate: local.measure(candidate, objective),
        params,
        step,
        start,
        accept=accept,
        backtrack_factor=backtrack_factor,
        max_backtracks=max_backtracks,
        initial_status=jnp.where(in_range, initial_status(start, gradient, curvature, step), UpdateStatus.OUT_OF_RANGE),
    )
    return params, summarize(start, gradient, direction, cg, step, search, damping=cg_damping, axis_name=axis_name)


def check_settings(
    *,
    max_kl: Any,
    cg_iterations: Any,
    cg_damping: Any,
    cg_tolerance: Any = 0.0,
    backtrack_factor: Any = 0.5,
    max_backtracks: Any = 1,
    entropy_coefficient: Any = 0.0,
    fisher_fraction: Any = 1.0,
    normalize_advantage: Any = True,
) -> Within:
    """Raise unless the settings of an update are within their ranges; for traced ones, return whether they all are."""
    in_range = [
        check_number("max_kl", max_kl, above=0, scalar=True),
        check_count("cg_iterations", cg_iterations, at_least=1),
        check_number("cg_damping", cg_damping, at_least=0, scalar=True),
        check_number("cg_tolerance", cg_tolerance, at_least=0, scalar=True),
        check_number("backtrack_factor", backtrack_factor, above=0, below=1, scalar=True),
        check_count("max_backtracks", max_backtracks, at_least=1),
        check_number("entropy_coefficient", entropy_coefficient, scalar=True),
    ]
    check_static("fisher_fraction", fisher_fraction, float)
    check_number("fisher_fraction", fisher_fraction, above=0, at_most=1, scalar=True)
    check_static("normalize_advantage", normalize_advantage, bool)
    return reduce(and_, in_range)


def summarize(
    start: Evaluation,
    gradient: PyTree,
    direction: PyTree,
    cg: CGInfo,
    step: PyTree,
    search: LineSearchInfo,
    *,
    damping: float | Float[Array, ""],
    axis_name: AxisName = None,
) -> TRPOInfo:
    """What the stages of an update reported, as one record."""
    end, fraction = search.evaluation, search.fraction
    return TRPOInfo(
        objective_before=start.objective,
        objective_after=end.objective,
        predicted_improvement=jnp.where(fraction > 0, fraction * tree_dot(gradient, step), 0.0),
        kl=end.kl,
        kl_max=largest_over(end.kl_max, axis_name),
        entropy=end.entropy,
        gradient_norm=jnp.sqrt(tree_dot(gradient, gradient)),
        cg_residual=jnp.asarray(cg.relative_residual),
        cg_iterations=jnp.asarray(cg.iterations),
        curvature=cg.curvature - damping * tree_dot(direction, direction),
        step_size=jnp.where(fraction > 0, fraction * jnp.sqrt(tree_dot(step, step)), 0.0),
        backtracks=search.backtracks,
        accepted=search.status == UpdateStatus.ACCEPTED,
        status=search.status,
    )
