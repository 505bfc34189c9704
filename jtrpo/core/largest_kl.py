"""A trust region that bounds the largest KL over the states instead of the mean: the paper's "max KL" ablation."""

from jaxtyping import Array, Float, PyTree

from jtrpo.core.batch import AxisName, largest_over
from jtrpo.core.conjugate_gradient import tree_dot
from jtrpo.core.fisher import sample_curvature
from jtrpo.core.line_search import Acceptance, candidate_status
from jtrpo.core.local import LocalPolicy


def largest_curvature(local: LocalPolicy, direction: PyTree, damping: float | Float[Array, ""]) -> Float[Array, ""]:
    """Largest over the samples of x^T (F_s + damping I) x, with F_s the sample's own Fisher matrix.

    Args:
        local: the policy that was linearised.
        direction: x.
        damping: of the linear system.
    """
    return local.largest(sample_curvature(local.linear, direction)) + damping * tree_dot(direction, direction)


def improves_within_largest(max_kl: float | Float[Array, ""], axis_name: AxisName = None) -> Acceptance:
    """Accept what is finite, has KL(old || new) <= max_kl at every sample and a larger objective."""
    return lambda new, old: candidate_status(
        new, within=largest_over(new.kl_max, axis_name) <= max_kl, improves=new.objective > old.objective
    )
