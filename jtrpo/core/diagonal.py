"""An estimate of the Fisher matrix's diagonal, to precondition conjugate gradients with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jtrpo.core.batch import per_sample_keys, sum_over, weighted_sum
from jtrpo.core.distributions import Distribution
from jtrpo.core.local import LocalPolicy

PROBES = 8
"""Backward passes that one estimate costs."""

EXPONENT = 0.75
"""Below one, because dividing by a rough diagonal in full does more harm than good (Martens 2010, section 4.7)."""


def fisher_diagonal(local: LocalPolicy) -> PyTree:
    """Estimate diag(F), F = sum_s w_s E_a[grad log pi(a|s) grad log pi(a|s)^T], from the actions that were sampled.

    mean over probes of (sum_s e_s sqrt(w_s) grad log pi(a_s|s))^2,   e_s = +1 or -1 with equal probability

    The random signs make the products of different samples vanish in expectation, so that a probe costs one backward pass. With a
    memory, or on a fraction of the batch, a sample's sign depends on how many devices share it: another estimate, as good.

    Args:
        local: the policy, linearised on samples whose actions are its own.

    Returns:
        A pytree shaped like the parameters.

    Source: Martens, Sutskever and Swersky 2012, Estimating the Hessian by Back-propagating Curvature,
    https://arxiv.org/abs/1206.6464, for the random signs.
    """
    action, weight = local.batch.action, local.weight
    key = jax.random.key(0)  # fixed: the samples are random already, so new signs would not improve the estimate
    keys = per_sample_keys(key, weight.shape[0], local.axis_name)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, (PROBES,), weight.dtype), out_axes=1)(keys)

    def probe(total: PyTree, sign: Float[Array, " B"]) -> tuple[PyTree, None]:
        def signed(distribution: Distribution) -> Float[Array, ""]:
            return weighted_sum(sign * distribution.log_prob(action), jnp.sqrt(weight))

        gradient = sum_over(local.linear.vjp(jax.grad(signed)(local.distribution)), local.axis_name)
        return jax.tree.map(lambda t, g: t + jnp.square(g) / PROBES, total, gradient), None

    shapes = jax.eval_shape(local.linear.vjp, local.distribution)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(probe, zeros, signs)[0]


def diagonal_preconditioner(local: LocalPolicy, damping: float | Float[Array, ""]) -> Callable[[PyTree], PyTree]:
    """``r -> r / (diag(F) + damping)^0.75`` with :func:`fisher_diagonal`.

    Source: Martens 2010, Deep learning via Hessian-free optimization, section 4.7.
    """
    diagonal = fisher_diagonal(local)
    smallest = jnp.finfo(local.weight.dtype).tiny
    scale = jax.tree.map(lambda d: jnp.maximum(d + damping, smallest) ** -EXPONENT, diagonal)
    return lambda r: jax.tree.map(lambda s, x: (s * x).astype(x.dtype), scale, r)
