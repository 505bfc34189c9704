import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtrpo.networks.torso import patches


@pytest.mark.parametrize(("shape", "stride"), [((10, 10, 4), 1), ((30, 40, 3), 2), ((7, 8, 2), 2)])
def test_a_dense_layer_of_patches_is_a_convolution(shape, stride, x64):
    rng = np.random.default_rng(0)
    image, kernel = jnp.asarray(rng.normal(size=(5, *shape))), jnp.asarray(rng.normal(size=(3, 3, shape[-1], 6)))
    expected = jax.lax.conv_general_dilated(
        image, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(patches(image, stride) @ kernel.reshape(-1, 6), expected, rtol=1e-10, atol=1e-12)
