"""Conjugate gradients for a positive-definite linear map on pytrees.

It differs from ``jax.scipy.sparse.linalg.cg`` in what a trust-region step needs:

1. The tolerance is relative to the right-hand side alone, so that it means the same at every scale of the gradient.
2. It stops at a direction of non-positive (or NaN) curvature and returns the last good iterate instead of diverging.
3. It reports the residual, the iterations used, and x^T A x, which its own recurrences hold for free.
"""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jtrpo.core.check import as_floats, check_callable, check_count, check_number, check_same_shapes


class CGInfo(NamedTuple):
    """What a solve reports. A solver of one's own must give the curvature.

    Attributes:
        curvature: ``x^T A x``, from the conjugacy of the search directions.
        relative_residual: ``|b - A x| / |b|`` by the recurrence; 0 where ``b`` is zero.
        iterations: products with ``A`` that were used.
        curvature_guard: a direction with non-positive or non-finite ``p^T A p`` ended the solve.
    """

    curvature: Float[Array, ""]
    relative_residual: Float[Array, ""] | float = 0.0
    iterations: Int[Array, ""] | int = 0
    curvature_guard: Bool[Array, ""] | bool = False


@jax.named_scope("conjugate_gradient")
def conjugate_gradient(
    matvec: Callable[[PyTree], PyTree],
    b: PyTree,
    *,
    max_iterations: int | Int[Array, ""] = 10,
    tolerance: float | Float[Array, ""] = 1e-5,
    preconditioner: Callable[[PyTree], PyTree] | None = None,
) -> tuple[PyTree, CGInfo]:
    """Solve A x = b for symmetric positive-definite A, starting from zero.

    Stops after ``max_iterations`` products, or when ``|b - A x| <= tolerance |b|``, or at non-positive curvature.

    Args:
        matvec: ``v -> A v`` on pytrees shaped like ``b``.
        b: right-hand side, any pytree of floating-point arrays.
        max_iterations: most products with ``A``; may be traced.
        tolerance: relative residual at which to stop; may be traced.
        preconditioner: ``r -> M^-1 r`` with M symmetric positive definite and near A; ``None`` is the identity.

    Returns:
        ``(x, info)``, ``x`` shaped like ``b``.

    Raises:
        TypeError: ``matvec`` is no function, or ``b`` not floating-point.
        ValueError: a number out of range, or ``matvec`` or ``preconditioner`` returns something that is not shaped like ``b``.

    Examples:
        >>> x, info = jtrpo.conjugate_gradient(lambda v: jnp.array([2.0, 4.0]) * v, jnp.array([2.0, 8.0]))
        >>> x.round(4).tolist(), int(info.iterations)
        ([1.0, 2.0], 2)

    Source: Hestenes and Stiefel 1952; Nocedal and Wright 2006, Numerical Optimization, algorithm 5.3.
    """
    check_callable("matvec", matvec, "v -> A v, such as lambda v: A @ v", takes=1)
    if preconditioner is not None:
        check_callable("preconditioner", preconditioner, "r -> M^-1 r", takes=1)
    check_count("max_iterations", max_iterations, at_least=0)
    check_number("tolerance", tolerance, at_least=0, scalar=True)
    b = as_floats("b", b)

    def precondition(r: PyTree) -> PyTree:
        if preconditioner is None:
            return r
        z = preconditioner(r)
        check_same_shapes("preconditioner(r)", z, "r", r)
        return z

    b_squared = tree_dot(b, b)
    threshold = jnp.square(tolerance) * b_squared

    def unfinished(state: tuple) -> Bool[Array, ""]:
        _, _, _, _, r_squared, iterations, _, guard = state
        return (iterations < max_iterations) & (r_squared > threshold) & ~guard

    def iterate(state: tuple) -> tuple:
        x, r, p, rz, r_squared, iterations, curvature, _ = state
        product = matvec(p)
        check_same_shapes("matvec(v)", product, "v", p)
        p_curvature = tree_dot(p, product)
        good = (p_curvature > 0) & jnp.isfinite(p_curvature)
        alpha = jnp.where(good, rz / jnp.where(good, p_curvature, 1.0), 0.0)
        product = jax.tree.map(lambda a: jnp.where(good, a, 0.0), product)  # 0 * NaN would reach the residual
        x = tree_axpy(alpha, p, x)
        r = tree_axpy(-alpha, product, r)
        z = precondition(r)
        new_rz = tree_dot(r, z)
        p = tree_axpy(new_rz / rz, p, z)
        curvature = curvature + (alpha * rz).astype(curvature.dtype)
        return x, r, p, new_rz, tree_dot(r, r), iterations + 1, curvature, ~good

    z = precondition(b)
    zero = jnp.zeros_like(b_squared)
    start = (jax.tree.map(jnp.zeros_like, b), b, z, tree_dot(b, z), b_squared, jnp.int32(0), zero, jnp.bool_(False))
    x, _, _, _, r_squared, iterations, curvature, guard = jax.lax.while_loop(unfinished, iterate, start)
    relative_residual = jnp.sqrt(r_squared / jnp.where(b_squared > 0, b_squared, 1.0))
    return x, CGInfo(curvature, relative_residual, iterations, guard)


def tree_dot(x: PyTree, y: PyTree) -> Float[Array, ""]:
    """Sum over leaves of x . y."""
    return reduce(add, jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)))


def tree_axpy(a: Float[Array, ""], x: PyTree, y: PyTree) -> PyTree:
    """Return ``a x + y``, leaf by leaf, in the dtype of ``y``."""
    return jax.tree.map(lambda u, v: v + (a * u).astype(v.dtype), x, y)
