"""Sampling by uniform numbers that are given, where there are no keys."""

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jtrpo.core.beta import Beta
from jtrpo.core.composite import Bernoulli, MultiCategorical, Product, is_part
from jtrpo.core.distributions import Categorical, DiagGaussian, Distribution, check_distribution
from jtrpo.core.gsde import StateDependentNoise
from jtrpo.core.squashed import TanhGaussian

Uniform = Callable[[tuple[Any, ...]], Array]
"""``(shape) -> numbers`` between 0 and 1, neither included; the leading axis is the batch."""

ROUNDS = 5
"""Proposals for a number from a Gamma distribution of shape 2 or more: all are refused once in 300 million times."""


def uniforms_needed(distribution: Distribution) -> int:
    """How many uniform numbers :func:`sample_by` takes for one action.

    Raises:
        TypeError: the distribution, or a part of it, is none of jtrpo's.
    """
    needed = 0

    def count(shape: tuple[Any, ...]) -> Array:
        nonlocal needed
        needed += math.prod(shape[1:])
        return jnp.full(shape, 0.5)

    jax.eval_shape(lambda distribution: _sample(distribution, count), distribution)
    return needed


def sample_by(distribution: Distribution, noise: Float[Array, "N K"]) -> PyTree:
    """Draw an action for each of ``N`` batch elements from uniform numbers, which say it alone.

    Args:
        distribution: over ``N`` batch elements.
        noise: independent numbers, uniform in [0, 1), as many for each as :func:`uniforms_needed` says.
    """
    limits = jnp.finfo(noise.dtype)
    inside = jnp.clip(noise, limits.tiny, 1.0 - limits.epsneg)  # a logarithm follows
    taken = 0

    def take(shape: tuple[Any, ...]) -> Array:
        nonlocal taken
        size = math.prod(shape[1:])
        columns, taken = inside[:, taken : taken + size], taken + size
        return jnp.reshape(columns, shape)

    return _sample(distribution, take)


@singledispatch
def _sample(distribution: Any, uniform: Uniform) -> PyTree:
    check_distribution(distribution)
    raise TypeError(f"actions of {type(distribution).__name__} cannot be drawn from uniform numbers, only by a key")


@_sample.register
def _(distribution: Categorical, uniform: Uniform) -> Array:
    gumbel = -jnp.log(-jnp.log(uniform(distribution.logits.shape)))
    return jnp.argmax(distribution.logits + gumbel, axis=-1)


@_sample.register
def _(distribution: DiagGaussian | TanhGaussian, uniform: Uniform) -> Array:
    mean = distribution.mean
    return mean + jnp.exp(jnp.broadcast_to(distribution.log_std, mean.shape)) * _normal(mean.shape, uniform)


@_sample.register
def _(distribution: StateDependentNoise, uniform: Uniform) -> Array:
    shape = (distribution.mean.shape[0], *distribution.log_scale.shape)
    matrix = jnp.broadcast_to(jnp.exp(distribution.log_scale), shape) * _normal(shape, uniform)
    return distribution.mean + jnp.sum(distribution.features[..., None] * matrix, axis=-2)


@_sample.register
def _(distribution: Beta, uniform: Uniform) -> Array:
    return 0.5 * (_log_gamma(distribution.alpha, uniform) - _log_gamma(distribution.beta, uniform))


@_sample.register
def _(distribution: Bernoulli, uniform: Uniform) -> Array:
    return (uniform(distribution.logits.shape) < jax.nn.sigmoid(distribution.logits)).astype(jnp.int32)


@_sample.register
def _(distribution: MultiCategorical, uniform: Uniform) -> Array:
    return jnp.stack([_sample(Categorical(logits), uniform) for logits in distribution.logits], axis=-1)


@_sample.register
def _(distribution: Product, uniform: Uniform) -> PyTree:
    return jax.tree.map(lambda part: _sample(part, uniform), distribution.parts, is_leaf=is_part)


def _normal(shape: tuple[Any, ...], uniform: Uniform) -> Array:
    """Box and Muller's transformation of two uniform numbers."""
    return jnp.sqrt(-2.0 * jnp.log(uniform(shape))) * jnp.cos(2.0 * math.pi * uniform(shape))


def _log_gamma(shape: Float[Array, "N D"], uniform: Uniform) -> Float[Array, "N D"]:
    """Logarithm of a number from a Gamma distribution of some shape, from one of shape + 1, whose proposals are nearly always
    taken.

    Source: Marsaglia and Tsang 2000, A Simple Method for Generating Gamma Variables, https://doi.org/10.1145/358407.358414.
    """
    most = shape + 1.0 - 1.0 / 3.0
    log_cube, found = jnp.zeros_like(shape), jnp.zeros(shape.shape, bool)
    for _ in range(ROUNDS):
        z, u = _normal(shape.shape, uniform), uniform(shape.shape)
        root = 1.0 + z / (3.0 * jnp.sqrt(most))
        proposed = 3.0 * jnp.log(jnp.maximum(root, jnp.finfo(shape.dtype).tiny))
        fits = (root > 0.0) & (jnp.log(u) < 0.5 * z**2 + most * (1.0 - root**3 + proposed))
        log_cube = jnp.where(found, log_cube, proposed)
        found |= fits
    return jnp.log(most) + log_cube + jnp.log(uniform(shape.shape)) / shape
