import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.networks.torso import CNN, MLP, Torso, layers, patches


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


@pytest.mark.parametrize(("dtype", "unit"), [(np.uint8, 255.0), (np.float32, 1.0)])
def test_flat_images_are_dense_layers_of_their_pixels(dtype, unit):
    image = spaces.Box(0, 255, (3, 6, 6), dtype)  # channels first: as they lie
    space = spaces.Dict({"image": image, "speed": spaces.Box(-1.0, 1.0, (2,))})
    observation = {"image": np.stack([image.sample(), image.sample()]), "speed": np.ones((2, 2), np.float32)}
    torso = Torso(space, (8,), flatten_images=True)
    output, variables = torso.init_with_output(jax.random.key(0), observation)
    flat = np.concatenate([observation["image"].reshape(2, -1) / unit, observation["speed"]], axis=1)
    expected = MLP((8,)).apply({"params": variables["params"]["MLP_0"]}, flat.astype(np.float32))
    assert list(variables["params"]) == ["MLP_0"]
    np.testing.assert_allclose(output, expected, atol=1e-6)


def test_the_setting_reaches_policy_and_critic():
    agent = jtrpo.make_agent(jtrpo.TrainConfig("Breakout-MinAtar", flatten_images=True, hidden_sizes=(4,)))
    observation = jnp.zeros((10, 10, 4))
    for init in (agent.init_policy, agent.init_critic):
        shapes = {leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0), observation))}
        assert (400, 4) in shapes
