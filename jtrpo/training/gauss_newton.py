"""Critic fit by Gauss-Newton steps in a trust region on the value function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jtrpo.core.batch import AxisName, mean_weights, stratified, sum_over, weighted_sum
from jtrpo.core.conjugate_gradient import conjugate_gradient
from jtrpo.core.fisher import linearize_function
from jtrpo.core.line_search import Evaluation, UpdateStatus, improves_within, line_search
from jtrpo.training.critic import Critic


@jax.named_scope("fit_gauss_newton")
def fit_gauss_newton(
    critic: Critic,
    params: PyTree,
    observation: PyTree,
    target: Float[Array, " B"],
    *,
    weight: Float[Array, " B"] | None = None,
    max_change: float | Float[Array, ""],
    damping: float | Float[Array, ""],
    steps: int,
    cg_iterations: int,
    fraction: float = 1.0,
    sequence_length: int = 1,
    axis_name: AxisName = None,
) -> tuple[PyTree, Float[Array, ""]]:
    """Minimise mean((V - target)^2) / 2 by trust-region steps.

    Each step solves   minimise mean((V_new - target)^2)   subject to   mean((V_new - V)^2) / (2 sigma^2) <= max_change

    with sigma^2 = mean((V - target)^2) at its start, by x = CG(J^T J / B + damping I, J^T (target - V) / B), shortened to the
    edge where it is longer, and a backtracking line search. The constraint is the KL between the Gaussians N(V, sigma^2) and
    N(V_new, sigma^2).

    Args:
        critic: pure function ``(params, observation) -> value``.
        params: its parameters.
        observation: any pytree, leading axis ``B``.
        target: value targets.
        weight: of the samples, ``[B]``; zero leaves a sample out. ``None``: all equal.
        max_change: bound of the constraint, without unit.
        damping: added to the diagonal of J^T J / B.
        steps: Gauss-Newton steps.
        cg_iterations: most products with J^T J per step.
        fraction: share of the batch, spread over all of it, on which they are taken; everything else uses the whole batch.
        sequence_length: steps that stay together, for a recurrent critic.
        axis_name: mapped axis over which the batch is spread, in order: every mean is taken over it.

    Returns:
        ``(params, loss)``, the loss after the last step.

    Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation,
    https://arxiv.org/abs/1506.02438, section 5.
    """
    size = target.shape[0]
    whole = mean_weights(weight, size, axis_name)
    some, some_weight = stratified(observation, weight, size, fraction, sequence_length, axis_name)
    some_weight = mean_weights(some_weight, jax.tree.leaves(some)[0].shape[0], axis_name)

    def linearize(params: PyTree, observation: PyTree, weight: Array) -> tuple[Array, Callable, Callable]:
        """V, ``J v`` and ``J^T u / B``, the last as this device's part of a sum."""
        value, jvp, vjp = linearize_function(lambda p: critic(p, observation), params, axis_name)
        return value, jvp, lambda u: vjp(jnp.where(weight == 0, 0.0, weight * u))

    def step(params: PyTree, _: None) -> tuple[PyTree, Float[Array, ""]]:
        value, jvp, vjp = linearize(params, observation, whole)
        error = target - value
        variance, gradient = sum_over((weighted_sum(jnp.square(error), whole), vjp(error)), axis_name)
        if fraction < 1:
            jvp, vjp = linearize(params, some, some_weight)[1:]
        direction, cg = conjugate_gradient(
            lambda v: jax.tree.map(lambda a, b: a + damping * b, sum_over(vjp(jvp(v)), axis_name), v),
            gradient,
            max_iterations=cg_iterations,
        )
        edge = jnp.sqrt(2.0 * max_change * variance / jnp.where(cg.curvature > 0, cg.curvature, 1.0))
        full_step = jax.tree.map(lambda x: jnp.minimum(edge, 1.0) * x, direction)

        def evaluate(candidate: PyTree) -> Evaluation:
            new = critic(candidate, observation)
            change = jnp.square(new - value) / (2.0 * jnp.where(variance > 0, variance, 1.0))
            sums = (weighted_sum(jnp.square(new - target), whole), weighted_sum(change, whole))
            loss, mean_change = sum_over(sums, axis_name)
            return Evaluation(-0.5 * loss, mean_change, zero, zero)  # nobody reads the largest change or the entropy

        zero = jnp.zeros_like(variance)
        start = Evaluation(-0.5 * variance, zero, zero, zero)
        params, search = line_search(
            evaluate,
            params,
            full_step,
            start,
            accept=improves_within(max_change),
            backtrack_factor=0.5,
            initial_status=jnp.where(cg.curvature > 0, UpdateStatus.ACCEPTED, UpdateStatus.BAD_CURVATURE),
        )
        return params, -search.evaluation.objective

    params, losses = jax.lax.scan(step, params, length=steps)
    return params, losses[-1]
