"""What a cost weighs against the reward, by how far an episode's cost is beyond its limit."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FALL = 1 / 3
"""Speed of the integral's fall over that of its rise: estimates are noisy, and a limit met only on average is exceeded."""

MARGIN = 0.1
"""Gain of the margin that ``"cpo"`` and ``"pcpo"`` keep over ``multiplier_gain``: one that grows while a policy still learns to
stand teaches it to fall before it costs anything."""

SHARE = 1 / 3
"""Gain of a Lagrangian's share of the costs over ``multiplier_gain``."""

MOST = 0.99
"""Of that share, which is a multiplier of 99."""

QUICK = 10.0
"""Proportional and derivative gain of ``"pid_lagrangian"`` over the integral one."""


class CostWeight(NamedTuple):
    """What :func:`weigh` finds for ``K`` costs.

    Attributes:
        integral: of the relative excess: of the costs' share in the Lagrangian, or of the margin kept from the limit.
        error: relative excess of an episode's cost.
        multiplier: the Lagrange multiplier.
        aim: cost of an episode that ``"cpo"`` and ``"pcpo"`` aim at: the limit less a margin.
    """

    integral: Float[Array, " K"]
    error: Float[Array, " K"]
    multiplier: Float[Array, " K"]
    aim: Float[Array, " K"]


def weigh(
    method: str,
    integral: Float[Array, " K"],
    error_before: Float[Array, " K"],
    cost: Float[Array, " K"],
    *,
    limit: Any,
    gain: Any,
    first: Bool[Array, ""] | bool = False,
) -> CostWeight:
    """The multiplier, or the cost to aim at, by the relative excess e = (cost - limit) / (cost + limit), in [-1, 1].

        I <- clip(I + k e),    W = clip(I + k_p e + k_d max(0, e - e of the update before)),    multiplier = W / (1 - W)

    within [0, 0.99], with k = ``gain`` / 3, a third of it where e < 0, and k_p = k_d = 10 k. ``"lagrangian"`` has the integral
    alone. W is the share of the costs in what the policy learns from, (1 - W) A - W A_c. It is the share that follows the
    excess and not the multiplier: beyond 10 or so that hardly changes a direction, and so one that has grown while nothing
    helped stays too large for long after the limit is met.

    ``"cpo"`` and ``"pcpo"``, whose k is a tenth of ``gain`` and whose I is at most 1, aim at (1 - I) limit: the step that their
    linear models like best is one whose cost they underestimate, and so the limit would be exceeded for good.

    Args:
        method: one of :data:`jtrpo.training.constrained.METHODS`. Static.
        integral: I of the update before.
        error_before: e of the update before.
        cost: of an episode.
        limit: what it may be.
        gain: ``multiplier_gain``.
        first: whether there was no update before, and so no rise.

    Source: Stooke et al. 2020, Responsive Safety in Reinforcement Learning by PID Lagrangian Methods,
    https://arxiv.org/abs/2007.03964, algorithm 2, of which this is the share.
    """
    of_lagrangian = method in ("lagrangian", "pid_lagrangian")
    both = cost + limit
    error = (cost - limit) / jnp.where(both > 0, both, 1.0)
    most, speed = (MOST, SHARE * gain) if of_lagrangian else (1.0, MARGIN * gain)
    moved = jnp.clip(integral + speed * error * jnp.where(error > 0, 1.0, FALL), 0.0, most)
    share = moved if of_lagrangian else jnp.zeros_like(moved)
    if method == "pid_lagrangian":
        rise = jnp.where(first, 0.0, jnp.maximum(0.0, error - error_before))
        share = jnp.clip(moved + QUICK * speed * (error + rise), 0.0, most)
    known = jnp.isfinite(error)  # NaN where a number of this update is out of its range, and would stay for good
    return CostWeight(
        integral=jnp.where(known, moved, integral),
        error=jnp.where(known, error, error_before),
        multiplier=share / (1.0 - share),
        aim=limit * (1.0 - moved),
    )
