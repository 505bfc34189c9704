"""From features to the distribution that fits the action space."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, PyTree

from jtrpo.core.composite import Bernoulli, MultiCategorical, Product
from jtrpo.core.distributions import Categorical, DiagGaussian, Distribution
from jtrpo.core.gsde import StateDependentNoise
from jtrpo.core.squashed import TanhGaussian
from jtrpo.networks.torso import ACTION_MASK, mask_logits

BOX_DISTRIBUTIONS = ("gaussian", "state_dependent_gaussian", "tanh_gaussian", "gsde")
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
            ``"tanh_gaussian"`` or ``"gsde"``.
        initial_log_std: of the Gaussian, at the start.
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
            sizes = [int(n) for n in space.nvec]
            logits = mask_logits(_last_layer(sum(sizes))(features), mask)
            return MultiCategorical(tuple(jnp.split(logits, np.cumsum(sizes)[:-1].tolist(), axis=-1)))
        if isinstance(space, spaces.MultiBinary):
            return Bernoulli(mask_logits(_last_layer(int(np.prod(space.shape)))(features), mask))
        return self._box(int(np.prod(space.shape or ())), features)

    def _child(self, space: spaces.Space, features: Array, mask: PyTree | None, name: Any) -> Distribution:
        head = Head(space, self.box_distribution, self.initial_log_std, name=f"head_{name}")
        return head(features, None if mask is None else mask[name])

    def _box(self, size: int, features: Float[Array, "... H"]) -> Distribution:
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
    """Raise where no distribution fits the action space, or where the environment's mask does not fit it.

    Raises:
        TypeError: a space that is not Discrete, Box, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.
        ValueError: an ``action_mask`` of the wrong shape.
    """
    masks = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    _check(space, masks.get(ACTION_MASK), "action space")


def _check(space: spaces.Space, mask: Any, where: str) -> None:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for name, child in children:
            _check(child, None if mask is None else mask[name], f"{where}[{name!r}]")
        return
    if isinstance(space, spaces.Discrete):
        wanted: tuple[int, ...] | None = (int(space.n),)
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        wanted = (int(space.nvec.sum()),)
    elif isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        wanted = space.shape
    elif isinstance(space, spaces.Box):
        wanted = None
    else:
        raise TypeError(
            f"{where} {space} is not supported; give Discrete, Box, MultiDiscrete or MultiBinary of one axis, or a Dict or "
            "Tuple of them"
        )
    if mask is not None and mask.shape != wanted:
        hint = f"must have shape {wanted}" if wanted else "cannot mask a Box"
        raise ValueError(f"action_mask of the {where} {space} {hint}; got {mask}")


def _last_layer(size: int, bias: float = 0.0) -> nn.Dense:
    init = nn.initializers
    return nn.Dense(size, kernel_init=init.zeros, bias_init=init.constant(bias))
