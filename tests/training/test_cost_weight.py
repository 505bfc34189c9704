"""What a cost weighs, by how far it is beyond its limit."""

import jax
import jax.numpy as jnp
import numpy as np

from jtrpo.training.cost_weight import weigh

NOTHING = jnp.zeros(1), jnp.zeros(1)  # integral and error before the first update


def test_the_share_of_the_costs_follows_the_relative_excess():
    episodes = [3.0, 9.0, 0.0, 0.0]
    excess = [0.5, 0.8, -1.0, -1.0]  # (cost - 1) / (cost + 1)
    integral = np.array([0.05, 0.13, 0.13 - 0.1 / 3, 0.13 - 0.2 / 3])  # a fall has a third of the speed
    rise = np.array([0.0, 0.3, 0.0, 0.0])  # none before the first
    for method, expected in (
        ("lagrangian", integral),
        ("pid_lagrangian", np.clip(integral + 1.0 * (np.array(excess) + rise), 0.0, 0.99)),
    ):
        known, weights = NOTHING, []
        for update, episode in enumerate(episodes):
            *known, multiplier, _ = weigh(method, *known, jnp.array([episode]), limit=1.0, gain=0.3, first=update == 0)
            weights.append(float(multiplier[0]))
        np.testing.assert_allclose(weights, expected / (1 - expected), rtol=1e-4, atol=1e-6)


def test_a_multiplier_that_has_grown_for_long_comes_back_as_soon_as_one_that_has_not():
    step = jax.jit(lambda known, episode: weigh("lagrangian", *known, episode, limit=1.0, gain=0.3)[:3])
    updates = []
    for number in (15, 1000):
        known, count = NOTHING, 0
        for _ in range(number):
            *known, multiplier = step(known, jnp.array([99.0]))
        assert 10 < float(multiplier[0]) < 100
        while float(multiplier[0]) > 1:
            (*known, multiplier), count = step(known, jnp.zeros(1)), count + 1
        updates.append(count)
    assert updates == [15, 15]


def test_a_limit_of_nothing_and_a_cost_of_nothing_leave_the_multiplier_alone():
    assert weigh("pid_lagrangian", *NOTHING, jnp.zeros(1), limit=0.0, gain=0.3, first=True).multiplier.tolist() == [0.0]


def test_what_is_aimed_at_falls_while_an_episode_costs_too_much():
    known, aims = NOTHING, []
    for episode in (1.0, 2.0, 6.0, 6.0, *[50.0] * 5, 0.0):
        *known, multiplier, aim = weigh("cpo", *known, jnp.array([episode]), limit=2.0, gain=3.0)
        assert multiplier.tolist() == [0.0]
        aims.append(float(aim[0]))
    np.testing.assert_allclose(aims[:4], [2.0, 2.0, 1.7, 1.4], rtol=1e-6)
    np.testing.assert_allclose(aims[-2:], [0.0, 0.2], atol=1e-6)


def test_a_limit_that_is_none_for_an_update_leaves_nothing_behind():
    """A traced number out of its range makes all numbers of the update NaN; the next update goes on from before."""
    after = weigh("pid_lagrangian", jnp.ones(1), jnp.ones(1) / 2, jnp.ones(1), limit=jnp.array(jnp.nan), gain=0.3)
    assert (after.integral.tolist(), after.error.tolist()) == ([1.0], [0.5])
