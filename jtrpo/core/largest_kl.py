"""A trust region that bounds the largest KL over the states instead of the mean: the paper's "max KL" ablation."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jtrpo.core.batch import AxisName, largest_over
from jtrpo.core.conjugate_gradient import CGInfo
from jtrpo.core.fisher import sample_curvature
from jtrpo.core.line_search import Acceptance, judge
from jtrpo.core.local import LocalPolicy


def largest_curvature(local: LocalPolicy, direction: PyTree, cg: CGInfo) -> Float[Array, ""]:
    """x^T (F + damping I) x with the largest of the samples' own curvatures x^T F_s x in place of their mean x^T F x.

    Args:
        local: the policy whose Fisher matrix was used.
        direction: x.
        cg: what the solver reported of x.
    """
    each = sample_curvature(local.linear, direction)
    return jnp.where(cg.curvature > 0, cg.curvature + local.largest(each) - local.mean(each), cg.curvature)


def improves_within_largest(max_kl: float | Float[Array, ""], axis_name: AxisName = None) -> Acceptance:
    """Accept what is finite, has KL(old || new) <= max_kl at every sample and a larger objective."""
    return lambda new, old: judge(
        new, inside=largest_over(new.kl_max, axis_name) <= max_kl, better=new.objective > old.objective
    )
