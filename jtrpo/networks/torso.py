"""From an observation to features: encoders chosen by the observation space, then dense layers."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, PyTree

ACTION_MASK = "action_mask"
"""Key under which a dictionary observation carries the mask of legal actions."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
"""Activations by the names that settings use."""


SMALLEST_IMAGE = 5
"""Pixels of a side that two convolutions of 3x3 leave one of."""


def is_image(space: spaces.Space) -> bool:
    """Whether a space holds images, ``[H, W, C]`` or :func:`channels_first`, that are large enough to convolve."""
    large = isinstance(space, spaces.Box) and len(space.shape) == 3 and min(space.shape[:2]) >= SMALLEST_IMAGE
    return large or channels_first(space)


def channels_first(space: spaces.Space) -> bool:
    """Whether a space holds images ``[C, H, W]``: fewer channels than pixels, and square or of no more than four channels."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return False
    channels, height, width = space.shape
    return channels < min(height, width) >= SMALLEST_IMAGE and (height == width or channels <= 4)


def action_mask(space: spaces.Space, observation: PyTree) -> PyTree | None:
    """Return the mask of legal actions that the environment gives with the observation, or None."""
    return observation[ACTION_MASK] if isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces else None


def numeric(space: spaces.Space) -> PyTree:
    """Pytree like an observation that tells which leaves are measurements to centre and scale: boxes other than images."""
    if isinstance(space, spaces.Dict) and ACTION_MASK in space.spaces:
        mask = jax.tree.map(lambda _: False, numeric(space.spaces[ACTION_MASK]))
        return {**numeric(_without_mask(space)), ACTION_MASK: mask}
    if isinstance(space, spaces.Dict):
        return {name: numeric(child) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(numeric(child) for child in space.spaces)
    return isinstance(space, spaces.Box) and not is_image(space)


def _without_mask(space: spaces.Space) -> spaces.Space:
    if not isinstance(space, spaces.Dict):
        return space
    return spaces.Dict([(name, child) for name, child in space.spaces.items() if name != ACTION_MASK])  # in their order


def check_observation_space(space: spaces.Space) -> None:
    """Raise where there is nothing to see.

    Raises:
        ValueError: no number in the space, or none but the mask of legal actions.
    """
    if count(_without_mask(space)) == 0:
        raise ValueError(
            f"observation_space {space} has nothing for a network to see; where there is nothing to tell, give a constant: "
            "spaces.Box(0.0, 1.0, (1,)), say"
        )


def count(space: spaces.Space) -> int:
    """How many numbers the elements of a space have."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return sum(map(count, space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces))
    return math.prod(space.shape or ())


def patches(image: Float[Array, "... H W C"], size: int, stride: int) -> Float[Array, "... h w K"]:
    """Every ``size`` x ``size`` neighbourhood that lies inside the image, so that a convolution is a matrix product.

    XLA runs convolutions and their transposes slowly inside loops on a CPU, and as grouped convolutions under ``vmap`` over
    seeds; matrix products are fast in both.
    """
    rows, columns = (length - size + 1 for length in image.shape[-3:-1])
    shifted = [
        image[..., y : y + rows : stride, x : x + columns : stride, :] for y in range(size) for x in range(size)
    ]  # fmt: skip
    return jnp.concatenate(shifted, axis=-1)


def layers(height: int, width: int) -> list[tuple[int, int, int]]:
    """Convolutions ``(channels, size, stride)`` for a picture.

    From 36 pixels a side on those of Mnih et al. 2015, https://doi.org/10.1038/nature14236; below two of 3x3, with stride 2 while
    the image is larger than 16 pixels.
    """
    smallest = min(height, width)
    if smallest >= 36:
        return [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
    first = 2 if smallest > 16 else 1
    second = 2 if (smallest - 3) // first + 1 > 16 else 1
    return [(16, 3, first), (32, 3, second)]


class CNN(nn.Module):
    """Convolutions with a relu after each, see :func:`layers`, flattened."""

    @nn.compact
    def __call__(self, image: Float[Array, "... H W C"]) -> Float[Array, "... F"]:
        for channels, size, stride in layers(*image.shape[-3:-1]):
            image = nn.relu(nn.Dense(channels, kernel_init=_orthogonal(2**0.5))(patches(image, size, stride)))
        return jnp.reshape(image, (*image.shape[:-3], -1))


class MLP(nn.Module):
    """Dense layers with an activation after each, orthogonal weights of gain sqrt(2), zero biases.

    Attributes:
        hidden_sizes: width of each layer.
        activation: applied after each layer.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh

    @nn.compact
    def __call__(self, features: Float[Array, "... F"]) -> Float[Array, "... H"]:
        for size in self.hidden_sizes:
            features = self.activation(nn.Dense(size, kernel_init=_orthogonal(2**0.5))(features))
        return features


class Torso(nn.Module):
    """Features of an observation: images are convolved, categories one-hot, the rest flat; joined, then an MLP.

    Attributes:
        observation_space: what :func:`check_observation_space` admits.
        hidden_sizes: width of each hidden layer.
        activation: applied after each hidden layer.
        flatten_images: images are not convolved, but flat.
    """

    observation_space: spaces.Space
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = jnp.tanh
    flatten_images: bool = False

    @nn.compact
    def __call__(self, observation: PyTree) -> Float[Array, "... H"]:
        seen = _without_mask(self.observation_space)
        features = jnp.concatenate(self._encode(seen, observation), axis=-1)
        return MLP(self.hidden_sizes, self.activation)(features)

    def _encode(self, space: spaces.Space, observation: PyTree) -> list[Float[Array, "... F"]]:
        if isinstance(space, spaces.Dict):
            children = [(child, observation[name]) for name, child in space.spaces.items()]
            return [features for pair in children for features in self._encode(*pair)]
        if isinstance(space, spaces.Tuple):
            parts = zip(space.spaces, observation, strict=True)
            return [features for pair in parts for features in self._encode(*pair)]
        if isinstance(space, spaces.Discrete):
            return [jax.nn.one_hot(jnp.asarray(observation, int) - int(space.start), int(space.n))]
        flat = jnp.reshape(observation, (*observation.shape[: observation.ndim - len(space.shape or ())], -1))
        if isinstance(space, spaces.MultiDiscrete):
            pairs = zip(space.start.flat, space.nvec.flat, strict=True)
            flat = jnp.asarray(flat, int)
            return [jax.nn.one_hot(flat[..., i] - int(start), int(n)) for i, (start, n) in enumerate(pairs)]
        if not is_image(space):
            return [jnp.asarray(flat, float)]
        image = jnp.asarray(flat if self.flatten_images else observation, float)
        image = image / 255.0 if space.dtype == np.uint8 else image
        if self.flatten_images:
            return [image]
        return [CNN()(jnp.moveaxis(image, -3, -1) if channels_first(space) else image)]


def mask_logits(logits: Float[Array, "... A"], mask: Bool[Array, "... A"] | None) -> Float[Array, "... A"]:
    """Give illegal actions the logit -inf: probability exactly zero."""
    return logits if mask is None else jnp.where(jnp.asarray(mask, bool), logits, -jnp.inf)


def _orthogonal(gain: float) -> Callable:
    return nn.initializers.orthogonal(gain)
