"""Constrained Policy Optimization: the step of the trust region that keeps a cost within its limit."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jtrpo.core.batch import AxisName, Batch, check_batch, normalize_advantages
from jtrpo.core.conjugate_gradient import conjugate_gradient, tree_dot
from jtrpo.core.cost import (
    CostCase,
    CPOInfo,
    centre_costs,
    check_cost,
    cost_ratio,
    improves_within_limits,
    overshoot,
    safe_status,
    squared_norms,
)
from jtrpo.core.distributions import Distribution
from jtrpo.core.fisher import Policy
from jtrpo.core.line_search import UpdateStatus, line_search
from jtrpo.core.local import linearize
from jtrpo.core.natural_gradient import natural_gradient
from jtrpo.core.objective import likelihood_ratio, with_entropy
from jtrpo.core.trpo import check_settings, summarize


class LimitedStep(NamedTuple):
    """The step ``along_reward x_g + along_cost x_b``, see :func:`limited_step`.

    Attributes:
        along_reward: coefficient of x_g = H^-1 g.
        along_cost: coefficient of x_b = H^-1 b.
        case: a :class:`CostCase`.
        kl_multiplier: lambda of the trust region; 0 in ``RECOVERY``.
        cost_multiplier: nu of the cost's limit; 0 in ``RECOVERY``.
    """

    along_reward: Float[Array, ""]
    along_cost: Float[Array, ""]
    case: Int[Array, ""]
    kl_multiplier: Float[Array, ""]
    cost_multiplier: Float[Array, ""]


def limited_step(
    q: Float[Array, ""],
    r: Float[Array, ""],
    s: Float[Array, ""],
    excess: Float[Array, ""],
    max_kl: float | Float[Array, ""],
) -> LimitedStep:
    """Exact solution of the step's problem, from three inner products: v = along_reward x_g + along_cost x_b.

        maximise    g . v
        subject to  v^T H v / 2 <= max_kl  and  excess + b . v <= 0

    1. The step of TRPO, sqrt(2 max_kl / q) x_g, where it keeps the limit, or where b = 0 and no step changes the cost.
    2. Else the best step on the limit: with x = x_g - (r / s) x_b, which leaves the cost as it is, and what the trust region has
       left after the limit is reached, v = -(excess / s) x_b + sqrt((2 max_kl - excess^2 / s) / x^T H x) x.
    3. Where nothing is left, no step reaches the limit: the steepest descent of the cost, v = -sqrt(2 max_kl / s) x_b.

    Args:
        q: g^T H^-1 g.
        r: b^T H^-1 g.
        s: b^T H^-1 b.
        excess: how far the cost is above its limit.
        max_kl: in nats.
    """

    def over(x: Array | float, y: Array | float) -> Array:
        return jnp.where(y > 0, x / jnp.where(y > 0, y, 1.0), 0.0)

    full = jnp.sqrt(over(2.0 * max_kl, q))
    left = 2.0 * max_kl - over(jnp.square(excess), s)
    keeps = (s == 0) | (excess + full * r <= 0) | ((excess <= 0) & (left <= 0))
    case = jnp.where(keeps, CostCase.UNCONSTRAINED, jnp.where(left > 0, CostCase.ON_LIMIT, CostCase.RECOVERY))
    across = q - over(jnp.square(r), s)  # x^T H x
    across = jnp.where(across > 10.0 * jnp.finfo(across.dtype).eps * q, across, 0.0)  # g is parallel to b to rounding
    along = jnp.sqrt(over(left, across))
    kl_multiplier = jnp.sqrt(over(across, left))

    def pick(unconstrained: Array, on_limit: Array, recovery: Array | float) -> Array:
        return jnp.select([keeps, left > 0], [unconstrained, on_limit], recovery)

    return LimitedStep(
        along_reward=pick(full, along, 0.0),
        along_cost=pick(jnp.zeros_like(s), -over(excess + along * r, s), -jnp.sqrt(over(2.0 * max_kl, s))),
        case=case.astype(jnp.int32),
        kl_multiplier=pick(over(jnp.sqrt(q), jnp.sqrt(2.0 * max_kl)), kl_multiplier, 0.0),
        cost_multiplier=pick(jnp.zeros_like(s), over(r + kl_multiplier * excess, s), 0.0),
    )


def cpo_update(
    policy: Policy,
    params: PyTree,
    batch: Batch,
    *,
    cost: float | Float[Array, ""],
    cost_limit: float | Float[Array, ""],
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
    sequence_length: int = 1,
    axis_name: AxisName = None,
) -> tuple[PyTree, CPOInfo]:
    """Constrained Policy Optimization: one update of the policy that keeps a cost within its limit.

        maximise    L(theta') = mean(r A) + entropy_coefficient * mean(entropy)
        subject to  mean KL(old || new) <= max_kl
                    cost + mean(r A_C) <= cost_limit

    by the exact solution of the problem with L and the cost replaced by their gradients and the KL by its curvature, see
    :func:`limited_step`, aimed lower by what mean(r A_C) at that step is above its linear model (a second-order correction), and
    a line search. A candidate must be finite and keep the trust region. Where the cost is within its
    limit, L must improve and the model of the cost stay within; where it is above, the model of the cost must fall. Otherwise
    the old parameters come back bit for bit. Pure; works under ``jit``, ``vmap`` (over limits, say) and ``shard_map``.

    Arguments that are not listed, and their errors, are those of :func:`trpo_update`.

    Args:
        policy: pure function ``(params, observation) -> distribution``.
        params: any pytree of floating-point arrays: the parameters that collected the batch.
        batch: with ``cost_advantage``, ``[B]``, whose mean is subtracted; it is not scaled.
        cost: what the acting policy costs per step on average, in units of ``cost_advantage``: the cost of an episode over its
            length, both as means over episodes.
        cost_limit: what it may cost, in the same unit; at least 0.

    Returns:
        ``(new_params, info)``.

    Raises:
        ValueError: no ``cost_advantage`` or several constraints, or a number out of range.

    Examples:
        The first action is worth more and costs 1; it may be taken in 52 % of the steps:

        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> worth, action = jnp.array([1.0, -1.0]), jnp.array([0, 1])
        >>> batch = jtrpo.Batch(jnp.ones((2, 1)), action, worth, cost_advantage=jnp.array([0.5, -0.5]))
        >>> update = jax.jit(lambda *given: jtrpo.cpo_update(policy, *given, cost=0.5, cost_limit=0.52, cg_damping=0.0))
        >>> params, info = update(jnp.zeros((1, 2)), batch)
        >>> print(jtrpo.CostCase(int(info.case)).name, f"{info.cost_after:.3f} {jax.nn.softmax(params)[0, 0]:.3f}")
        ON_LIMIT 0.520 0.520

    Source: Achiam et al. 2017, Constrained Policy Optimization, https://arxiv.org/abs/1705.10528, equations 11 to 14.
    """
    batch = check_batch(batch)
    cost, excess, in_range = check_cost(batch, cost, cost_limit, several=False)
    in_range &= check_settings(
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
    local = linearize(
        policy,
        params,
        batch,
        acting=acting,
        normalize=normalize_advantages if normalize_advantage else None,
        sequence_length=sequence_length,
        axis_name=axis_name,
    )
    local = centre_costs(local)
    objective = with_entropy(likelihood_ratio, entropy_coefficient)
    start, gradient = local.value_and_gradient(objective, cost=cost_ratio)
    cost_gradient = local.gradient(cost_ratio)

    solver = partial(conjugate_gradient, max_iterations=cg_iterations, tolerance=cg_tolerance)
    solve = partial(natural_gradient, local.subset(fisher_fraction), damping=cg_damping, solver=solver)
    (direction, cg), (cost_direction, cost_cg) = solve(gradient), solve(cost_gradient)

    def towards(excess: Float[Array, ""]) -> tuple[LimitedStep, PyTree]:
        # b . x_g, not g . x_b: where conjugate gradients stop early, the limit is the one that must hold.
        found = limited_step(cg.curvature, tree_dot(cost_gradient, direction), cost_cg.curvature, excess, max_kl)
        combine = lambda x, y: (found.along_reward * x + found.along_cost * y).astype(x.dtype)  # noqa: E731
        return found, jax.tree.map(combine, direction, cost_direction)

    _, step = towards(excess)
    beyond = overshoot(local, step, start, tree_dot(cost_gradient, step), {"cost": cost_ratio})
    found, step = towards(excess + beyond)
    status = safe_status(start, gradient, cost_gradient, excess, cg.curvature, cost_cg.curvature, step)
    params, search = line_search(
        partial(local.measure, objective=objective, cost=cost_ratio),
        params,
        step,
        start,
        accept=improves_within_limits(max_kl, {"cost": excess}),
        backtrack_factor=backtrack_factor,
        max_backtracks=max_backtracks,
        initial_status=jnp.where(in_range, status, UpdateStatus.OUT_OF_RANGE),
    )
    return params, CPOInfo(
        update=summarize(start, gradient, direction, cg, step, search, damping=cg_damping, axis_name=axis_name),
        cost_before=cost,
        cost_after=cost + (search.evaluation.more["cost"] - start.more["cost"]),
        cost_gradient_norm=jnp.sqrt(squared_norms(cost_gradient, 0)),
        case=found.case,
        multiplier=found.cost_multiplier,
    )
