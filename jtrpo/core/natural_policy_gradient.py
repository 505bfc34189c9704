"""The natural policy gradient: the full step of the trust region, without a search that keeps it inside."""

from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jtrpo.core.batch import AxisName, Batch, check_batch
from jtrpo.core.conjugate_gradient import conjugate_gradient
from jtrpo.core.fisher import Policy
from jtrpo.core.line_search import UpdateStatus, is_finite, line_search
from jtrpo.core.local import linearize
from jtrpo.core.natural_gradient import full_step, initial_status, natural_gradient
from jtrpo.core.objective import likelihood_ratio
from jtrpo.core.trpo import TRPOInfo, check_settings, summarize


def natural_policy_gradient_update(
    policy: Policy,
    params: PyTree,
    batch: Batch,
    *,
    max_kl: float | Float[Array, ""] = 0.01,
    cg_iterations: int | Int[Array, ""] = 10,
    cg_damping: float | Float[Array, ""] = 0.1,
    axis_name: AxisName = None,
) -> tuple[PyTree, TRPOInfo]:
    """One update by the natural policy gradient: sqrt(2 max_kl / (x^T (F + damping I) x)) x, x = CG(F + damping I, grad L).

    The KL may end above ``max_kl``. With few ``cg_iterations`` it is the truncated natural policy gradient of Duan et al. 2016.

    Arguments, errors and what is returned are those of :func:`trpo_update`.

    Examples:
        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> batch = jtrpo.Batch(jnp.ones((2, 1)), action=jnp.array([0, 1]), advantage=jnp.array([1.0, -1.0]))
        >>> params, info = jtrpo.natural_policy_gradient_update(policy, jnp.zeros((1, 2)), batch, max_kl=0.1)
        >>> bool(params[0, 0] > params[0, 1])
        True

    Source: Kakade 2002, A Natural Policy Gradient; Schulman et al. 2015, https://arxiv.org/abs/1502.05477, section 8.1.
    """
    in_range = check_settings(max_kl=max_kl, cg_iterations=cg_iterations, cg_damping=cg_damping)
    batch = check_batch(batch)
    local = linearize(policy, params, batch, axis_name=axis_name)
    start, gradient = local.value_and_gradient(likelihood_ratio)
    solver = partial(conjugate_gradient, max_iterations=cg_iterations)
    direction, cg = natural_gradient(local, gradient, damping=cg_damping, solver=solver)
    step = full_step(direction, cg.curvature, max_kl)
    measure = partial(local.measure, objective=likelihood_ratio)
    status = jnp.where(in_range, initial_status(start, gradient, cg.curvature, step), UpdateStatus.OUT_OF_RANGE)
    params, search = line_search(
        measure, params, step, start, accept=is_finite, max_backtracks=1, initial_status=status
    )
    return params, summarize(start, gradient, direction, cg, step, search, damping=cg_damping, axis_name=axis_name)
