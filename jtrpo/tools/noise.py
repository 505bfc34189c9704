"""Sampling by uniform numbers that are given, where there are no keys."""

import math
from collections.abc import Callable
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
    """Draw an action for each of ``N`` batch elements from uniform numbers, which alone decide.

    Args:
        distribution: over ``N`` batch elements.
        noise: independent numbers, uniform in [0, 1), as many for each as :func:`uniforms_needed` says.
    """
    noise = jnp.asarray(noise, float)
    half = 0.5 * jnp.finfo(noise.dtype).epsneg  # of the distance between two such numbers
    inside = jnp.clip(noise, half, 1.0 - 2.0 * half)  # a logarithm follows
    taken = 0

    def take(shape: tuple[Any, ...]) -> Array:
        nonlocal taken
        size = math.prod(shape[1:])
        columns, taken = inside[:, taken : taken + size], taken + size
        return jnp.reshape(columns, shape)

    return _sample(distribution, take)


def _sample(distribution: Any, uniform: Uniform) -> PyTree:
    if isinstance(distribution, Product):
        return jax.tree.map(lambda part: _sample(part, uniform), distribution.parts, is_leaf=is_part)
    check_distribution(distribution)
    if type(distribution) not in _SAMPLERS:  # one that derives from these may draw otherwise
        raise TypeError(f"actions of {type(distribution).__name__} cannot be drawn from uniform numbers, only by a key")
    return _SAMPLERS[type(distribution)](distribution, uniform)


def _categorical(distribution: Categorical, uniform: Uniform) -> Array:
    gumbel = -jnp.log(-jnp.log(uniform(distribution.logits.shape)))
    return jnp.argmax(distribution.logits + gumbel, axis=-1)


def _gaussian(distribution: DiagGaussian | TanhGaussian, uniform: Uniform) -> Array:
    mean = distribution.mean
    return mean + jnp.exp(jnp.broadcast_to(distribution.log_std, mean.shape)) * _normal(mean.shape, uniform)


def _state_dependent(distribution: StateDependentNoise, uniform: Uniform) -> Array:
    shape = (distribution.mean.shape[0], *distribution.log_scale.shape)
    matrix = jnp.broadcast_to(jnp.exp(distribution.log_scale), shape) * _normal(shape, uniform)
    return distribution.mean + jnp.sum(distribution.features[..., None] * matrix, axis=-2)


def _beta(distribution: Beta, uniform: Uniform) -> Array:
    return 0.5 * (_log_gamma(distribution.alpha, uniform) - _log_gamma(distribution.beta, uniform))


def _bernoulli(distribution: Bernoulli, uniform: Uniform) -> Array:
    return (uniform(distribution.logits.shape) < jax.nn.sigmoid(distribution.logits)).astype(jnp.int32)


def _multi_categorical(distribution: MultiCategorical, uniform: Uniform) -> Array:
    return jnp.stack([_categorical(Categorical(logits), uniform) for logits in distribution.logits], axis=-1)


_SAMPLERS: dict[type, Callable[[Any, Uniform], Array]] = {
    Categorical: _categorical,
    DiagGaussian: _gaussian,
    TanhGaussian: _gaussian,
    StateDependentNoise: _state_dependent,
    Beta: _beta,
    Bernoulli: _bernoulli,
    MultiCategorical: _multi_categorical,
}


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
