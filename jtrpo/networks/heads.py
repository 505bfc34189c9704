"""From features to the distribution that fits the action space."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, PyTree

from jtrpo.core.beta import Beta
from jtrpo.core.composite import Bernoulli, MultiCategorical, Product
from jtrpo.core.distributions import Categorical, DiagGaussian, Distribution
from jtrpo.core.gsde import StateDependentNoise
from jtrpo.core.squashed import TanhGaussian
from jtrpo.networks.torso import ACTION_MASK, count, mask_logits

BOX_DISTRIBUTIONS = ("gaussian", "state_dependent_gaussian", "tanh_gaussian", "beta", "gsde")
"""Distributions over a Box, by the names that settings use."""


class Head(nn.Module):
    """Last layer of a policy, and the distribution made of it.

    The layer begins at zero: the first policy does not depend on what it sees, so the first statistics of the observations do not
    change it.

    Discrete: :class:`Categorical`. MultiDiscrete: :class:`MultiCategorical`. MultiBinary: :class:`Bernoulli`. Dict and Tuple:
    :class:`Product`. Box: by ``box_distribution``, in units of :func:`environment_action`.

    Attributes:
        action_space: what :func:`check_action_space` admits.
        box_distribution: ``"gaussian"`` (log_std independent of the state), ``"state_dependent_gaussian"``,
            ``"tanh_gaussian"``, ``"beta"`` or ``"gsde"``.
        initial_log_std: of the Gaussian, at the start; of the Beta as far as it can be so wide.
    """

    action_space: spaces.Space
    box_distribution: str = "gaussian"
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, features: Float[Array, "... H"], mask: PyTree | None = None) -> Distribution:
        space = self.action_space
        if isinstance(space, spaces.Dict):
            return Product({name: self._child(child, features, mask, name) for name, child in space.spaces.items()})
        if isinstance(space, spaces.Tuple):
            return Product(tuple(self._child(child, features, mask, i) for i, child in enumerate(space.spaces)))
        if isinstance(space, spaces.Discrete):
            return Categorical(mask_logits(_last_layer(int(space.n))(features), mask))
        if isinstance(space, spaces.MultiDiscrete):
            sizes = [int(n) for n in space.nvec.flat]
            logits = mask_logits(_last_layer(sum(sizes))(features), mask)
            return MultiCategorical(tuple(jnp.split(logits, np.cumsum(sizes)[:-1].tolist(), axis=-1)))
        if isinstance(space, spaces.MultiBinary):
            logits = _last_layer(count(space))(features)
            return Bernoulli(mask_logits(logits, None if mask is None else jnp.reshape(mask, logits.shape)))
        return self._box(count(space), features)

    def _child(self, space: spaces.Space, features: Array, mask: PyTree | None, name: Any) -> Distribution:
        head = Head(space, self.box_distribution, self.initial_log_std, name=f"head_{name}")
        return head(features, _of_part(mask, name))

    def _box(self, size: int, features: Float[Array, "... H"]) -> Distribution:
        if self.box_distribution == "beta":
            # The variance on (-1, 1) is 1 / (2 alpha + 1) where alpha = beta: at most that of 1 + softplus(0).
            above_one = np.clip(0.5 * np.exp(-2.0 * self.initial_log_std) - 1.5, np.log(2.0), 1e6)
            bias = above_one + np.log(-np.expm1(-above_one))  # where softplus has that value
            parameters = 1.0 + nn.softplus(_last_layer(2 * size, bias)(features))
            return Beta(*jnp.split(parameters, 2, axis=-1))
        mean = _last_layer(size)(features)
        if self.box_distribution == "gsde":
            shape = (features.shape[-1], size)
            log_scale = self.param("log_std", nn.initializers.constant(self.initial_log_std), shape)
            return StateDependentNoise(mean, features, log_scale)
        if self.box_distribution == "state_dependent_gaussian":
            log_std = _last_layer(size, self.initial_log_std)(features)
        else:
            log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (size,))
        log_std = jnp.broadcast_to(log_std, mean.shape)
        return (TanhGaussian if self.box_distribution == "tanh_gaussian" else DiagGaussian)(mean, log_std)


def check_action_space(space: spaces.Space, observation_space: spaces.Space) -> None:
    """Raise where there is nothing to choose, or where the environment's mask does not fit the action space.

    Raises:
        ValueError: a part without a number, or an ``action_mask`` of the wrong shape.
    """
    masks = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    _check(space, masks.get(ACTION_MASK), "action_space")


def _check(space: spaces.Space, mask: Any, where: str) -> None:
    if count(space) == 0:
        raise ValueError(f"{where} {space} has nothing to choose: leave it out, or give it a number at least")
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children: Any = dict(space.spaces if isinstance(space, spaces.Dict) else enumerate(space.spaces))
        masked = _names(mask)
        if masked is None or not masked <= set(children):
            raise ValueError(
                f"action_mask of the {where} must be a Dict or Tuple of masks for some of its parts, {list(children)}; got {mask}"
            )
        for name, child in children.items():
            _check(child, _of_part(mask, name), f"{where}[{name!r}]")
        return
    if isinstance(space, spaces.Discrete):
        wanted: tuple[int, ...] | None = (int(space.n),)
    elif isinstance(space, spaces.MultiDiscrete):
        wanted = (int(space.nvec.sum()),)
    else:
        wanted = space.shape if isinstance(space, spaces.MultiBinary) else None
    if mask is not None and (wanted is None or mask.shape != wanted):
        hint = f"must have shape {wanted}" if wanted else "cannot mask a Box"
        raise ValueError(f"action_mask of the {where} {space} {hint}; got {mask}")


def _names(mask: spaces.Space | None) -> set | None:
    """Parts of an action that a mask names; ``None`` for a mask without parts."""
    if mask is None:
        return set()
    if isinstance(mask, spaces.Dict):
        return set(mask.spaces)
    return set(range(len(mask.spaces))) if isinstance(mask, spaces.Tuple) else None


def _of_part(mask: Any, name: Any) -> Any:
    """The mask (or its space) of one part of a Dict or Tuple of actions; ``None`` where that part has none, or an empty one."""
    if mask is None:
        return None
    each = getattr(mask, "spaces", mask)
    each = each if isinstance(each, dict) else dict(enumerate(each))
    part = each.get(name)
    nothing = isinstance(part, dict | tuple | spaces.Dict | spaces.Tuple) and not len(part)
    return None if nothing else part


def _last_layer(size: int, bias: float = 0.0) -> nn.Dense:
    init = nn.initializers
    return nn.Dense(size, kernel_init=init.zeros, bias_init=init.constant(bias))
