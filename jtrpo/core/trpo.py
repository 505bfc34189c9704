"""One constrained policy update: the algorithm, from a batch to new parameters."""

from collections.abc import Callable
from functools import reduce
from operator import and_
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jtrpo.core.batch import (
    AxisName,
    Batch,
    check_batch,
    mean_weights,
    normalize_advantages,
    silence,
    stratified,
    sum_over,
    weighted_sum,
)
from jtrpo.core.check import as_floats, check_callable, check_choice, check_count, check_number, check_static
from jtrpo.core.conjugate_gradient import conjugate_gradient, tree_dot
from jtrpo.core.diagonal import diagonal_preconditioner
from jtrpo.core.distributions import Distribution, check_distribution
from jtrpo.core.fisher import (
    Policy,
    fisher_operator,
    linearize_policy,
    per_device,
    sample_curvature,
)
from jtrpo.core.line_search import Evaluation, UpdateStatus, line_search
from jtrpo.core.objective import Objective, likelihood_ratio, local_surrogate
from jtrpo.core.vine import log_prob_of_each, normalize_values


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
    parameters come back bit for bit and the info says why. Pure; works under ``jit``, ``vmap`` and ``shard_map``; a number that
    arrives traced and is out of range cannot raise, and refuses the update.

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
        A policy over two actions that sees nothing; the first action was the better one:

        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> batch = jtrpo.Batch(jnp.ones((2, 1)), action=jnp.array([0, 1]), advantage=jnp.array([1.0, -1.0]))
        >>> update = jax.jit(lambda params, batch: jtrpo.trpo_update(policy, params, batch, max_kl=0.01))
        >>> params, info = update(jnp.zeros((1, 2)), batch)
        >>> jtrpo.UpdateStatus(int(info.status)).name, bool(info.kl <= 0.01), bool(params[0, 0] > params[0, 1])
        ('ACCEPTED', True, True)

    Source: Schulman et al. 2015, Trust Region Policy Optimization, https://arxiv.org/abs/1502.05477, section 6 and
    appendix C.
    """
    check_callable("policy", policy, "(params, observation) -> distribution")
    check_callable("objective", objective, "(distribution, batch) -> [B]")
    params = as_floats("params", params)
    batch = check_batch(batch, branched=objective is not likelihood_ratio)
    size, branched = batch.advantage.shape[0], batch.advantage.ndim == 2
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
    check_choice("constraint", constraint, ("kl", "kl_max", "none"))
    if not callable(preconditioner):
        # The diagonal is estimated from one sampled action per state.
        check_choice("preconditioner", preconditioner, (None,) if branched else (None, "diagonal"))
    check_static("sequence_length", sequence_length, int)
    check_count("sequence_length", sequence_length, at_least=1)
    if size % sequence_length:
        raise ValueError(f"sequence_length must divide the batch of {size} samples; got {sequence_length}")
    batch = silence(batch._replace(observation=(), weight=None), batch.weight)._replace(
        observation=silence(batch.observation, batch.weight, keep_finite=sequence_length > 1), weight=batch.weight
    )

    # The policy, linearised once: its distribution, and the Jacobian for the gradient and (on the whole batch) for F.
    linear = linearize_policy(policy, params, batch.observation, axis_name)
    old = linear.distribution
    acted = old if acting is None else check_distribution(acting, "acting must be")
    for name, distribution in (("policy must return", old), ("acting must be", acted)):
        shape = distribution.entropy().shape
        if shape != (size,):
            raise ValueError(
                f"{name} a distribution over the batch axis alone, [B] = [{size}]; its entropy has shape {shape}"
            )
    weight = mean_weights(batch.weight, size, axis_name)
    if batch.log_prob is None:
        log_prob = log_prob_of_each(acted, batch.action) if branched else acted.log_prob(batch.action)
        batch = batch._replace(log_prob=log_prob)
    # A stored log_prob of +inf would pass as a ratio of zero, so the check is on the entries themselves.
    broken = jnp.sum(~jnp.isfinite(jnp.asarray(batch.log_prob)))
    if normalize_advantage:
        normalize = normalize_values if branched else normalize_advantages
        batch = batch._replace(advantage=normalize(batch.advantage, weight, axis_name))

    # Gradient of the objective, through the distribution's parameters.
    local_value, slope = jax.value_and_grad(local_surrogate)(old, batch, weight, entropy_coefficient, objective)
    sums = (local_value, linear.vjp(slope), weighted_sum(old.entropy(), weight), broken.astype(local_value.dtype))
    value, gradient, entropy, broken = sum_over(sums, axis_name)

    # Search direction: the natural gradient.
    action, fisher_weight = batch.action, weight
    if fisher_fraction < 1:
        (observation, action), some = stratified(
            (batch.observation, batch.action), batch.weight, size, fisher_fraction, sequence_length, axis_name
        )
        linear = linearize_policy(policy, params, observation, axis_name)
        fisher_weight = mean_weights(some, jax.tree.leaves(observation)[0].shape[0], axis_name)
    fisher = fisher_operator(linear, fisher_weight, axis_name)
    if preconditioner == "diagonal":
        preconditioner = diagonal_preconditioner(linear, action, fisher_weight, cg_damping, axis_name)
    direction, cg = conjugate_gradient(
        lambda v: jax.tree.map(lambda f, u: f + cg_damping * u, fisher(v), v),
        gradient,
        max_iterations=cg_iterations,
        tolerance=cg_tolerance,
        preconditioner=preconditioner if callable(preconditioner) else None,
    )

    # Full step: to the edge of the trust region by the quadratic model of the KL.
    curvature = cg.curvature - cg_damping * tree_dot(direction, direction)
    reach = cg.curvature
    if constraint == "kl_max":
        reach += _max_over(sample_curvature(linear, direction), fisher_weight, axis_name) - curvature
    scale = jnp.sqrt(2.0 * max_kl / jnp.where(reach > 0, reach, 1.0))
    full_step = jax.tree.map(lambda x: (scale * x).astype(x.dtype), direction)
    gradient_squared, step_squared = tree_dot(gradient, gradient), tree_dot(full_step, full_step)
    obstacle = jnp.select(
        [
            ~jnp.asarray(reduce(and_, in_range)),
            (broken > 0) | ~(jnp.isfinite(value) & jnp.isfinite(gradient_squared)),
            gradient_squared == 0,
            ~((cg.curvature > 0) & (reach > 0) & jnp.isfinite(reach) & jnp.isfinite(step_squared)),
        ],
        [
            UpdateStatus.OUT_OF_RANGE,
            UpdateStatus.NON_FINITE_GRADIENT,
            UpdateStatus.ZERO_GRADIENT,
            UpdateStatus.BAD_CURVATURE,
        ],
        UpdateStatus.ACCEPTED,
    )

    # Line search: the first candidate that is finite, inside the trust region and better.
    def evaluate(candidate: PyTree) -> Evaluation:
        new: Distribution = check_distribution(policy(candidate, batch.observation))
        divergence = acted.kl(new)
        local = local_surrogate(new, batch, weight, entropy_coefficient, objective)
        sums = (local, weighted_sum(divergence, weight), weighted_sum(new.entropy(), weight))
        new_value, kl, new_entropy = sum_over(sums, axis_name)
        return Evaluation(new_value, kl, _max_over(divergence, weight, search_axis), new_entropy)

    # Unless it bounds the step, the largest KL need not be known of all devices before the search is over.
    search_axis = axis_name if constraint == "kl_max" else None
    zero = jnp.zeros_like(value)
    start = Evaluation(value, zero, per_device(zero, axis_name) if search_axis is None else zero, entropy)
    if acting is not None:
        divergence = acted.kl(old)
        kl = sum_over(weighted_sum(divergence, weight), axis_name)
        start = start._replace(kl=kl.astype(value.dtype))
        start = start._replace(kl_max=_max_over(divergence, weight, search_axis).astype(value.dtype))
    params, search = line_search(
        evaluate,
        params,
        full_step,
        start,
        max_kl=max_kl,
        backtrack_factor=backtrack_factor,
        max_backtracks=1 if constraint == "none" else max_backtracks,
        constraint=constraint,
        enabled=obstacle == UpdateStatus.ACCEPTED,
    )

    status = jnp.where(obstacle == UpdateStatus.ACCEPTED, search.status, obstacle).astype(jnp.int32)
    taken = search.evaluation
    return params, TRPOInfo(
        objective_before=value,
        objective_after=taken.objective,
        predicted_improvement=jnp.where(search.fraction > 0, search.fraction * tree_dot(gradient, full_step), 0.0),
        kl=taken.kl,
        kl_max=taken.kl_max if search_axis == axis_name else jax.lax.pmax(taken.kl_max, axis_name),
        entropy=taken.entropy,
        gradient_norm=jnp.sqrt(gradient_squared),
        cg_residual=cg.relative_residual,
        cg_iterations=cg.iterations,
        curvature=curvature,
        step_size=jnp.where(search.fraction > 0, search.fraction * jnp.sqrt(step_squared), 0.0),
        backtracks=search.backtracks,
        accepted=status == UpdateStatus.ACCEPTED,
        status=status,
    )


def _max_over(x: Float[Array, " B"], weight: Float[Array, " B"], axis_name: AxisName) -> Float[Array, ""]:
    largest = jnp.max(jnp.where(weight == 0, 0.0, x))
    return largest if axis_name is None else jax.lax.pmax(largest, axis_name)
