import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jtrpo.envs.actions import environment_action


def test_finite_boxes_are_stretched_and_clipped():
    space = spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 1.0]))
    action = jnp.array([[0.0, 0.0], [1.0, 1.0], [-5.0, -1.0], [0.5, 7.0]])
    expected = [[0.0, 0.5], [2.0, 1.0], [-2.0, 0.0], [1.0, 1.0]]
    np.testing.assert_allclose(environment_action(space, action), expected)


def test_unbounded_and_half_bounded_boxes_are_only_clipped():
    space = spaces.Box(np.float32([-np.inf, 0.0]), np.float32([np.inf, np.inf]))
    action = jnp.array([[-30.0, -1.0], [30.0, 12.0]])
    np.testing.assert_allclose(environment_action(space, action), [[-30.0, 0.0], [30.0, 12.0]])


def test_discrete_actions_pass():
    action = jnp.array([0, 1])
    assert environment_action(spaces.Discrete(2), action) is action
