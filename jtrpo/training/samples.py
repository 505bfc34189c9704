"""Which samples count, and how much."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtrpo.core.batch import AxisName, largest_over, sum_over
from jtrpo.training.rollout import Trajectory, finite


class SampleInfo(NamedTuple):
    """How much the samples of an update count.

    Attributes:
        invalid: samples of the newest collection that are left out, because of a number that is not finite.
        effective_share: effective number of samples, (sum w)^2 / sum w^2 with w = pi_now / mu, over their number; 1 without
            sample reuse, where the policy of now is the one that acted.
        ratio_max: largest w; it is cut off where the update uses it.
    """

    invalid: Int[Array, ""]
    effective_share: Float[Array, ""]
    ratio_max: Float[Array, ""]


def mask_invalid(trajectory: Trajectory) -> Trajectory:
    """Put zeros where a step has a number that is not finite, and say so in ``valid``.

    Where the observation is not finite, the memory was emptied after it as at an episode's end, and the step counts as cut off.
    """
    shape = trajectory.reward.shape
    seen = finite((trajectory.observation, trajectory.action, trajectory.log_prob), shape)
    followed = finite(trajectory.final_observation, shape)
    valid = seen & jnp.isfinite(trajectory.reward) & (followed | trajectory.terminated)
    if jax.tree.leaves(trajectory.cost):
        valid &= finite(trajectory.cost, shape)

    def clean(x: Array, keep: Bool[Array, "T N"]) -> Array:
        return jnp.where(keep.reshape(*shape, *[1] * (x.ndim - 2)), x, jnp.zeros_like(x))

    return trajectory._replace(
        observation=jax.tree.map(lambda x: clean(x, seen), trajectory.observation),
        action=jax.tree.map(lambda x: clean(x, seen), trajectory.action),
        log_prob=clean(trajectory.log_prob, seen),
        reward=clean(trajectory.reward, valid),
        cost=jax.tree.map(lambda x: clean(x, valid), trajectory.cost),
        truncated=trajectory.truncated | ~seen,
        final_observation=jax.tree.map(lambda x: clean(x, followed), trajectory.final_observation),
        valid=valid,
    )


def sample_info(
    usable: Bool[Array, "T N"],
    newest: Bool[Array, "T n"],
    ratio: Float[Array, "T N"] | None = None,
    axis_name: AxisName = None,
) -> SampleInfo:
    """Count the samples of an update.

    Args:
        usable: which samples count.
        newest: the same for the newest collection.
        ratio: pi_now / mu; ``None``: one.
        axis_name: mapped axis over which environments are spread.
    """
    invalid = sum_over(jnp.sum(~newest), axis_name)
    if ratio is None:
        return SampleInfo(invalid, jnp.ones(()), jnp.ones(()))
    ratio = jnp.where(usable, ratio, 0.0)
    most = largest_over(jnp.max(ratio), axis_name)
    size = ratio / jnp.where(most > 0, most, 1.0)  # squares of the ratios themselves may overflow
    total, squares, number = sum_over(
        (jnp.sum(size), jnp.sum(jnp.square(size)), jnp.sum(usable, dtype=float)), axis_name
    )
    share = jnp.square(total) / jnp.where(squares > 0, squares * number, 1.0)
    return SampleInfo(invalid, share, most)
