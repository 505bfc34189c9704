import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo.networks.torso import CNN, layers, patches


@pytest.mark.parametrize(
    ("shape", "size", "stride"), [((10, 10, 4), 3, 1), ((30, 40, 3), 3, 2), ((7, 8, 2), 3, 2), ((21, 26, 3), 8, 4)]
)
def test_a_dense_layer_of_patches_is_a_convolution(shape, size, stride, x64):
    rng = np.random.default_rng(0)
    image, kernel = jnp.asarray(rng.normal(size=(5, *shape))), jnp.asarray(rng.normal(size=(size, size, shape[-1], 6)))
    expected = jax.lax.conv_general_dilated(
        image, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    actual = jax.jit(lambda x, k: patches(x, size, stride) @ k.reshape(-1, 6))(image, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_convolutions_are_chosen_by_the_size_of_the_picture():
    assert layers(10, 10) == [(16, 3, 1), (32, 3, 1)]
    assert layers(30, 40) == [(16, 3, 2), (32, 3, 1)]
    assert layers(35, 40) == [(16, 3, 2), (32, 3, 2)]
    assert layers(84, 84) == [(32, 8, 4), (64, 4, 2), (64, 3, 1)]
    for size, features in ((5, 32), (84, 7 * 7 * 64), (36, 64)):
        shape = jax.eval_shape(CNN().init_with_output, jax.random.key(0), jnp.zeros((2, size, size, 1)))[0].shape
        assert shape == (2, features)
