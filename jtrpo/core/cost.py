"""What a policy costs and the limit on it: the pieces that the safe updates, ``cpo_update`` and ``pcpo_update``, share."""

from enum import IntEnum
from functools import partial, reduce
from operator import and_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jtrpo.core.batch import Batch, as_numbers, normalize_advantages
from jtrpo.core.check import Within, check_number
from jtrpo.core.conjugate_gradient import tree_dot
from jtrpo.core.distributions import Distribution
from jtrpo.core.line_search import Acceptance, Evaluation, UpdateStatus, candidate_status
from jtrpo.core.local import LocalPolicy
from jtrpo.core.natural_gradient import initial_status
from jtrpo.core.objective import Objective, likelihood_ratio
from jtrpo.core.trpo import TRPOInfo


class CostCase(IntEnum):
    """Where the full step of a safe update leads.

    Attributes:
        UNCONSTRAINED: the step of TRPO itself keeps every limit.
        ON_LIMIT: the step ends on a limit that the step of TRPO would exceed.
        RECOVERY: no step within the trust region reaches the limit (of ``pcpo_update``: the nearest point that keeps the limits
            is outside): the step goes towards it.

    Examples:
        >>> jtrpo.CostCase(1).name
        'ON_LIMIT'
    """

    UNCONSTRAINED = 0
    ON_LIMIT = 1
    RECOVERY = 2


class CPOInfo(NamedTuple):
    """What a safe update reports: one number for each constraint, or a scalar where the batch holds one, ``[B]``.

    Attributes:
        update: what every update reports; conjugate gradients' numbers are those of the objective's solve.
        cost_before: per-step cost of the acting policy, as it was given.
        cost_after: model of the per-step cost at the returned parameters, cost_before + the change of mean(r A_C).
        cost_gradient_norm: ``|b|`` of mean(r A_C) at the old parameters.
        case: a :class:`CostCase`, of the full step.
        multiplier: what the limit costs in objective for each unit of per-step cost, by the model; 0 where it does not bind.
    """

    update: TRPOInfo
    cost_before: Float[Array, "*K"]
    cost_after: Float[Array, "*K"]
    cost_gradient_norm: Float[Array, "*K"]
    case: Int[Array, ""]
    multiplier: Float[Array, "*K"]


def check_cost(batch: Batch, cost: Any, cost_limit: Any, *, several: bool) -> tuple[Array, Array, Within]:
    """Return ``(cost, cost - cost_limit, whether both are in range)``, one number for each constraint of the batch.

    Args:
        batch: as :func:`jtrpo.core.batch.check_batch` returns it.
        cost: of the acting policy, a number, or one for each constraint.
        cost_limit: likewise.
        several: whether there may be several constraints.

    Raises:
        TypeError: not numbers.
        ValueError: no ``cost_advantage``, one of another shape, a negative limit, or numbers that do not fit the constraints.
    """
    if batch.cost_advantage is None:
        raise ValueError(
            "batch.cost_advantage must hold the advantage estimates of the cost, [B]; got None: give "
            "jtrpo.Batch(..., cost_advantage=...), or call trpo_update where nothing has a cost"
        )
    shape = batch.cost_advantage.shape[1:]
    if shape and not several:
        raise ValueError(
            f"batch.cost_advantage holds {shape[0]} constraints, [B, K] = {list(batch.cost_advantage.shape)}; cpo_update takes "
            "one constraint, [B]; use pcpo_update"
        )
    arrays, in_range = [], []
    for name, value, at_least in (("cost", cost, None), ("cost_limit", cost_limit, 0)):
        value = as_numbers(name, value) if isinstance(value, list | tuple) else value
        in_range.append(jnp.all(check_number(name, value, at_least=at_least, scalar=not shape)))
        if jnp.shape(value) not in ((), shape):
            raise ValueError(
                f"{name} must be one number or one for each constraint, {list(shape)}; got shape {jnp.shape(value)}"
            )
        arrays.append(jnp.broadcast_to(jnp.asarray(value, batch.cost_advantage.dtype), shape))
    cost, limit = arrays
    return cost, cost - limit, reduce(and_, in_range)


def centre_costs(local: LocalPolicy) -> LocalPolicy:
    """Subtract the mean of each constraint's cost advantages; those that are constant to rounding become exactly zero."""
    cost: Any = local.batch.cost_advantage

    def centre(values: Float[Array, " B"]) -> Float[Array, " B"]:
        spread = normalize_advantages(values, local.weight, local.axis_name)
        return jnp.where(spread == 0, 0.0, values - local.mean(values))

    each = jax.vmap(centre, in_axes=1, out_axes=1)
    centred = each(cost) if cost.ndim == 2 else centre(cost)
    return local._replace(batch=local.batch._replace(cost_advantage=centred))


def cost_ratio(distribution: Distribution, batch: Batch, constraint: int | Int[Array, ""] | None = None) -> Array:
    """``r A_C`` of each sample, the model of the cost; of one ``constraint`` where the batch holds several."""
    cost: Any = batch.cost_advantage
    return likelihood_ratio(distribution, batch._replace(advantage=cost if constraint is None else cost[:, constraint]))


def cost_ratios(count: int) -> dict[str, Objective]:
    """The models of ``count`` costs by name, in order."""
    return {f"cost_{k}": partial(cost_ratio, constraint=k) for k in range(count)}


def improves_within_limits(max_kl: float | Float[Array, ""], excess: dict[str, Float[Array, ""]]) -> Acceptance:
    """Accept what is finite, has mean KL(old || new) <= max_kl, a larger objective, and costs within their limits.

    Where a limit is exceeded already its cost must fall, and the objective need not rise.

    Args:
        max_kl: trust region, in nats.
        excess: by the name that a cost is measured under, how far it is above its limit at the old parameters.
    """
    exceeded = jnp.any(jnp.stack(list(excess.values())) > 0)

    def accept(new: Evaluation, old: Evaluation) -> Int[Array, ""]:
        status = candidate_status(new, within=new.kl <= max_kl, improves=exceeded | (new.objective > old.objective))
        changes = {name: new.more[name] - old.more[name] for name in excess}
        finite = reduce(and_, map(jnp.isfinite, changes.values()))
        keeps = reduce(and_, [jnp.where(c > 0, changes[name] < 0, changes[name] <= -c) for name, c in excess.items()])
        return jnp.select(
            [~finite, (status == UpdateStatus.ACCEPTED) & ~keeps],
            [UpdateStatus.NON_FINITE_CANDIDATE, UpdateStatus.COST_EXCEEDED],
            status,
        )

    return accept


def overshoot(
    local: LocalPolicy, step: PyTree, start: Evaluation, modelled: Float[Array, "*K"], costs: dict[str, Objective]
) -> Float[Array, "*K"]:
    """How much more each cost rises by a step than its gradient says; zero where it rises by less, or is not finite.

    A step that was aimed at a limit and ends above it is aimed lower by this, the second-order correction. Without it no step
    along a curved limit is accepted, however short.

    Args:
        local: the policy that was linearised.
        step: the full step.
        start: measurements at the old parameters.
        modelled: b . step of each cost.
        costs: what is measured, by name.

    Source: Nocedal and Wright 2006, Numerical Optimization, section 15.6.
    """
    measured = local.measure(jax.tree.map(jnp.add, local.params, step), likelihood_ratio, **costs)
    rises = jnp.stack([measured.more[name] - start.more[name] for name in costs]).reshape(modelled.shape)
    more = rises - modelled
    return jnp.where(jnp.isfinite(more), jnp.maximum(more, 0.0), 0.0)


def safe_status(
    start: Evaluation,
    gradient: PyTree,
    cost_gradient: PyTree,
    excess: Float[Array, "*K"],
    curvature: Float[Array, ""],
    cost_curvature: Float[Array, "*K"],
    step: PyTree,
) -> Int[Array, ""]:
    """Initial status of a search; a gradient of zero is no reason to refuse while a limit is exceeded.

    Args:
        start: measurements at the old parameters.
        gradient: g of the objective.
        cost_gradient: b of each cost, leaves ``[*K, ...]``.
        excess: how far each cost is above its limit.
        curvature: of the objective's direction; counts where g is not zero.
        cost_curvature: of each cost's; counts where b is not zero.
        step: the full step.
    """
    exceeded = excess > 0
    urgent = jax.tree.map(  # a product, since 0 * NaN is NaN
        lambda b: exceeded.reshape(*excess.shape, *[1] * (b.ndim - excess.ndim)).astype(b.dtype) * b, cost_gradient
    )
    sound = _is_sound(tree_dot(gradient, gradient), curvature)
    sound &= jnp.all(_is_sound(squared_norms(cost_gradient, excess.ndim), cost_curvature))
    return initial_status(start, (gradient, urgent), sound.astype(curvature.dtype), step)


def squared_norms(tree: PyTree, batch_axes: int) -> Float[Array, "*K"]:
    """``|b|^2`` of a pytree, or of each of those stacked along the first axis."""
    return jax.vmap(tree_dot)(tree, tree) if batch_axes else tree_dot(tree, tree)


def _is_sound(gradient_squared: Array, curvature: Array) -> Bool[Array, "*K"]:
    return (gradient_squared == 0) | ((curvature > 0) & jnp.isfinite(curvature))
