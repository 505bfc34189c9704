"""Projection-Based Constrained Policy Optimization: the step of TRPO, projected onto the limits of costs."""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jtrpo.core.batch import AxisName, Batch, check_batch, normalize_advantages
from jtrpo.core.check import check_choice
from jtrpo.core.conjugate_gradient import conjugate_gradient, tree_dot
from jtrpo.core.cost import (
    CostCase,
    CPOInfo,
    centre_costs,
    check_cost,
    cost_ratio,
    cost_ratios,
    improves_within_limits,
    overshoot,
    safe_status,
    squared_norms,
)
from jtrpo.core.distributions import Distribution
from jtrpo.core.fisher import Policy
from jtrpo.core.line_search import UpdateStatus, line_search
from jtrpo.core.local import linearize
from jtrpo.core.natural_gradient import full_step, natural_gradient
from jtrpo.core.objective import likelihood_ratio, with_entropy
from jtrpo.core.trpo import check_settings, summarize

MOST_SWEEPS = 10_000
"""Of coordinate descent: two without correlated constraints, tens with; the bound is met where no point keeps all limits."""


def project_multipliers(gram: Float[Array, "K K"], violation: Float[Array, " K"]) -> Float[Array, " K"]:
    """Multipliers of the projection of v0 onto {v: c_k + b_k . v <= 0 for all k}; the point is v0 - sum_k mu_k L^-1 b_k.

        minimise  mu^T S mu / 2 - mu . d  subject to  mu >= 0,    S_jk = b_j . L^-1 b_k,  d_k = c_k + b_k . v0

    by coordinate descent, each multiplier in turn. With one constraint it is max(0, d / S).

    Args:
        gram: S, with L the metric of the projection.
        violation: d; by how much v0 exceeds each limit.

    Source: Hildreth 1957, A quadratic programming procedure.
    """
    diagonal = jnp.diagonal(gram)
    rounding = jnp.finfo(gram.dtype).eps

    def sweep(state: tuple) -> tuple:
        mu, _, sweeps = state

        def improve(k: Array, mu: Float[Array, " K"]) -> Float[Array, " K"]:
            scale = jnp.where(diagonal[k] > 0, diagonal[k], jnp.inf)  # a cost that no step changes
            return mu.at[k].set(jnp.maximum(0.0, mu[k] + (violation[k] - jnp.sum(gram[k] * mu)) / scale))

        new = jax.lax.fori_loop(0, mu.shape[0], improve, mu)
        return new, jnp.all(jnp.abs(new - mu) <= rounding * jnp.abs(new)), sweeps + 1

    start = (jnp.zeros_like(violation), jnp.bool_(False), jnp.int32(0))
    return jax.lax.while_loop(lambda state: ~state[1] & (state[2] < MOST_SWEEPS), sweep, start)[0]


def pcpo_update(
    policy: Policy,
    params: PyTree,
    batch: Batch,
    *,
    cost: float | Float[Array, "*K"],
    cost_limit: float | Float[Array, "*K"],
    projection: str = "kl",
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
    """Projection-Based Constrained Policy Optimization: one update of the policy that keeps one or several costs within limits.

        v0 = sqrt(2 max_kl / (g . x)) x,  x = H^-1 g
        v  = the point of {v: cost_k - cost_limit_k + b_k . v <= 0 for all k} that is nearest to v0

    with g the gradient of mean(r A) + entropy_coefficient * mean(entropy), b_k that of mean(r A_C) of the k-th cost, and
    H = F + damping I. Where v leaves the trust region by the model, it is shortened to its edge. The line search then accepts as
    that of :func:`cpo_update` does, for all costs: where one is above its limit, every such cost must fall.

    Arguments that are not listed are those of :func:`trpo_update` and :func:`cpo_update`.

    Args:
        policy: pure function ``(params, observation) -> distribution``.
        params: any pytree of floating-point arrays: the parameters that collected the batch.
        batch: with ``cost_advantage``, ``[B]`` or ``[B, K]`` of K constraints.
        cost: what the acting policy costs per step on average, a number, or one for each constraint, ``[K]``.
        cost_limit: what it may cost; likewise, at least 0.
        projection: what nearest means: ``"kl"``, by H, after which the step improves the objective wherever all limits are kept;
            ``"l2"``, by the parameters' Euclidean distance, without further conjugate gradients. Static.

    Returns:
        ``(new_params, info)``; the multiplier is that of the projection over the length of v0.

    Raises:
        ValueError: no ``cost_advantage``, or a number out of range or not one for each constraint.

    Examples:
        The first action costs by one measure, the second by another, and neither may be taken in more than 52 % of the steps:

        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> worth, action = jnp.array([1.0, -1.0]), jnp.array([0, 1])
        >>> costs = jnp.array([[0.5, -0.5], [-0.5, 0.5]])
        >>> batch = jtrpo.Batch(jnp.ones((2, 1)), action, worth, cost_advantage=costs)
        >>> update = jax.jit(lambda *given: jtrpo.pcpo_update(policy, *given, cost=0.5, cost_limit=0.52, cg_damping=0.0))
        >>> params, info = update(jnp.zeros((1, 2)), batch)
        >>> jtrpo.CostCase(int(info.case)).name, [f"{cost:.2f}" for cost in info.cost_after]
        ('ON_LIMIT', ['0.52', '0.48'])

    Source: Yang et al. 2020, Projection-Based Constrained Policy Optimization, https://arxiv.org/abs/2010.03152, section 4.
    """
    batch = check_batch(batch)
    cost, excess, in_range = check_cost(batch, cost, cost_limit, several=True)
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
    check_choice("projection", projection, ("kl", "l2"))
    shape, excess = excess.shape, jnp.atleast_1d(excess)
    batch = batch._replace(cost_advantage=jnp.reshape(cast(Array, batch.cost_advantage), (-1, *excess.shape)))
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
    objective, costs = with_entropy(likelihood_ratio, entropy_coefficient), cost_ratios(excess.size)
    start, gradient = local.value_and_gradient(objective, **costs)
    each = jnp.arange(excess.size)
    cost_gradients = jax.vmap(lambda k: local.gradient(partial(cost_ratio, constraint=k)))(each)

    subset = local.subset(fisher_fraction)
    solver = partial(conjugate_gradient, max_iterations=cg_iterations, tolerance=cg_tolerance)
    solve = partial(natural_gradient, subset, damping=cg_damping, solver=solver)
    direction, cg = solve(gradient)
    reward_step = full_step(direction, cg.curvature, max_kl)
    steepest = jax.vmap(lambda b: solve(b)[0])(cost_gradients) if projection == "kl" else cost_gradients
    dots = jax.vmap(tree_dot, in_axes=(0, None))  # of each cost's gradient with one step
    gram = jax.vmap(dots, in_axes=(None, 0), out_axes=1)(cost_gradients, steepest)
    fisher = subset.fisher_operator()

    def towards(excess: Float[Array, " K"]) -> tuple[Float[Array, " K"], Float[Array, ""], PyTree]:
        multipliers = project_multipliers(gram, excess + dots(cost_gradients, reward_step))
        pull = lambda v, y: (v - jnp.einsum("k,k...->...", multipliers, y, precision="highest")).astype(v.dtype)  # noqa: E731
        step = jax.tree.map(pull, reward_step, steepest)
        curvature = tree_dot(step, fisher(step)) + cg_damping * tree_dot(step, step)
        edge = jnp.where(jnp.any(multipliers > 0), jnp.sqrt(2.0 * max_kl / jnp.maximum(curvature, 2.0 * max_kl)), 1.0)
        return multipliers, edge, jax.tree.map(lambda v: (edge * v).astype(v.dtype), step)

    *_, step = towards(excess)
    multipliers, edge, step = towards(excess + overshoot(local, step, start, dots(cost_gradients, step), costs))
    status = safe_status(start, gradient, cost_gradients, excess, cg.curvature, jnp.diagonal(gram), step)
    params, search = line_search(
        partial(local.measure, objective=objective, **costs),
        params,
        step,
        start,
        accept=improves_within_limits(max_kl, dict(zip(costs, excess, strict=True))),
        backtrack_factor=backtrack_factor,
        max_backtracks=max_backtracks,
        initial_status=jnp.where(in_range, status, UpdateStatus.OUT_OF_RANGE),
    )
    changes = jnp.stack([search.evaluation.more[name] - start.more[name] for name in costs]).reshape(shape)
    length = jnp.sqrt(2.0 * max_kl / jnp.where(cg.curvature > 0, cg.curvature, jnp.inf))
    binds = jnp.any(multipliers > 0)
    case = jnp.where(binds, jnp.where(edge < 1, CostCase.RECOVERY, CostCase.ON_LIMIT), CostCase.UNCONSTRAINED)
    return params, CPOInfo(
        update=summarize(start, gradient, direction, cg, step, search, damping=cg_damping, axis_name=axis_name),
        cost_before=cost,
        cost_after=cost + changes,
        cost_gradient_norm=jnp.sqrt(squared_norms(cost_gradients, 1)).reshape(shape),
        case=case.astype(jnp.int32),
        multiplier=jnp.where(length > 0, multipliers / jnp.where(length > 0, length, 1.0), 0.0).reshape(shape),
    )
