"""The natural gradient and the step to the edge of the trust region."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jtrpo.core.check import as_floats, check_callable, check_number, check_same_form, check_same_shapes, kind_of, shown
from jtrpo.core.conjugate_gradient import conjugate_gradient, tree_dot
from jtrpo.core.line_search import Evaluation, UpdateStatus
from jtrpo.core.local import LocalPolicy

Solver = Callable[[Callable[[PyTree], PyTree], PyTree], tuple[PyTree, Any]]
"""``(matvec, b) -> (x, info)`` with A x = b for ``matvec(v)`` = A v, and x^T A x in ``info.curvature``."""


def natural_gradient(
    local: LocalPolicy,
    gradient: PyTree,
    *,
    damping: float | Float[Array, ""] = 0.1,
    solver: Solver = conjugate_gradient,
) -> tuple[PyTree, Any]:
    """Solve (F + damping I) x = g.

    Args:
        local: the policy whose Fisher matrix F is taken, see :func:`linearize`; a :meth:`LocalPolicy.subset` costs less.
        gradient: g, shaped like the parameters.
        damping: added to the diagonal.
        solver: ``(matvec, b) -> (x, info)``. ``matvec`` is v -> (F + damping I) v on pytrees shaped like the parameters, b the
            gradient, x shaped like it, and ``info`` a :class:`CGInfo`, or whatever has x^T (F + damping I) x as
            ``info.curvature``. ``functools.partial(jtrpo.conjugate_gradient, max_iterations=30)`` sets the default's numbers.

    Returns:
        ``(x, info)`` as the solver returns them.

    Raises:
        TypeError: a gradient that is not floating-point, or a solver that does not return such a pair.
        ValueError: a gradient that is not shaped like the parameters, or an x of other shapes or types than the gradient.

    Examples:
        With one state and logits as parameters, F is diag(p) - p p^T:

        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> batch = jtrpo.Batch(jnp.ones((2, 1)), action=jnp.array([0, 1]), advantage=jnp.array([1.0, -1.0]))
        >>> local = jtrpo.linearize(policy, jnp.zeros((1, 2)), batch)
        >>> x, info = jtrpo.natural_gradient(local, jnp.array([[0.5, -0.5]]), damping=0.0)
        >>> x.round(4).tolist(), f"{info.curvature:.4f}"
        ([[1.0, -1.0]], '1.0000')

    Source: Kakade 2002, A Natural Policy Gradient; Schulman et al. 2015, https://arxiv.org/abs/1502.05477, appendix C.
    """
    check_number("damping", damping, at_least=0, scalar=True)
    check_callable("solver", solver, "(matvec, b) -> (x, info)", takes=2)
    check_same_shapes("gradient", gradient, "params", local.params)
    gradient, fisher = as_floats("gradient", gradient), local.fisher_operator()

    def matvec(v: PyTree) -> PyTree:
        check_same_shapes("v of matvec(v)", v, "params", local.params)
        return jax.tree.map(lambda f, u: f + damping * u, fisher(v), v)

    solution = solver(matvec, gradient)
    _check_solution(solution, gradient)
    return solution


def _check_solution(solution: Any, gradient: PyTree) -> None:
    if not isinstance(solution, tuple) or len(solution) != 2:
        got = f"a tuple of {len(solution)}" if isinstance(solution, tuple) else kind_of(solution)
        raise TypeError(f"solver must return a pair, (x, info); got {got}")
    x, info = solution
    check_same_form("solver must return (x, info) with x like the gradient", x, gradient)
    curvature = getattr(info, "curvature", None)
    kind = getattr(curvature, "dtype", type(curvature))
    if curvature is None or not jnp.issubdtype(kind, jnp.floating) or jnp.ndim(curvature) != 0:
        got = shown(info) if curvature is None else f"a curvature of {shown(curvature)}"
        raise TypeError(f"solver's info must have x^T A x as info.curvature, as jtrpo.CGInfo has it; got {got}")


def full_step(direction: PyTree, curvature: Float[Array, ""], max_kl: float | Float[Array, ""]) -> PyTree:
    """Step along x to the edge of the trust region by the quadratic model of the KL.

        sqrt(2 max_kl / curvature) x

    Args:
        direction: x, any pytree.
        curvature: the second derivative of the KL along x, x^T (F + damping I) x.
        max_kl: trust region, in nats.

    Examples:
        >>> jtrpo.full_step(jnp.array([1.0, -1.0]), curvature=jnp.float32(0.5), max_kl=0.25).round(4).tolist()
        [1.0, -1.0]

    Source: Schulman et al. 2015, https://arxiv.org/abs/1502.05477, appendix C.
    """
    check_number("max_kl", max_kl, above=0, scalar=True)
    scale = jnp.sqrt(2.0 * max_kl / jnp.where(curvature > 0, curvature, 1.0))
    return jax.tree.map(lambda x: (scale * x).astype(x.dtype), direction)


def initial_status(start: Evaluation, gradient: PyTree, curvature: Float[Array, ""], step: PyTree) -> Int[Array, ""]:
    """An :class:`UpdateStatus`: ``ACCEPTED`` where the step can be tried, or the reason why not."""
    gradient_squared, step_squared = tree_dot(gradient, gradient), tree_dot(step, step)
    return jnp.select(
        [
            ~(jnp.isfinite(start.objective) & jnp.isfinite(gradient_squared)),
            gradient_squared == 0,
            ~((curvature > 0) & jnp.isfinite(curvature) & jnp.isfinite(step_squared)),
        ],
        [UpdateStatus.NON_FINITE_GRADIENT, UpdateStatus.ZERO_GRADIENT, UpdateStatus.BAD_CURVATURE],
        UpdateStatus.ACCEPTED,
    )
