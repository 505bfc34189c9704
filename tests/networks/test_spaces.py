import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.actions import environment_action
from tests import probes

EVERY_KIND = spaces.Dict(
    {
        "push": spaces.Box(-1.0, 1.0, (2, 2)),
        "turn": spaces.Discrete(3, start=1),
        "both": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]),
        "several": spaces.MultiDiscrete([2, 3]),
    }
)


class Rewarding(probes.ObservedReward):
    """One step; the reward counts the parts of the action that are high."""

    def outcome(self, key, state, action):
        reward = sum(jnp.sum(leaf > 0.5) for leaf in jax.tree.leaves(action)).astype(float)
        return reward, jnp.bool_(True), jnp.bool_(False)


NUMBERS = jtrpo.Hyperparams(max_kl=0.01, critic_learning_rate=3e-3)


def config(env, **settings):
    small = {"num_envs": 16, "num_steps": 8, "hidden_sizes": (8,), "critic_epochs": 1, "critic_minibatches": 1}
    return jtrpo.TrainConfig(env=env, **{**small, "total_timesteps": 128 * 30, **settings})


@pytest.mark.long
def test_every_kind_of_action_space_trains_inside_its_bounds_and_learns():
    settings = config(Rewarding(EVERY_KIND))
    result = jax.jit(jtrpo.make_train(settings))(jax.random.key(0), NUMBERS)
    returns = result.metrics.episode.return_mean
    assert jnp.all(result.metrics.policy.kl <= 0.01)
    assert float(returns[-5:].mean()) > float(returns[:5].mean()) + 0.2
    observation = jnp.array([[1.0], [-1.0]])
    action = jtrpo.make_agent(settings).policy(result.state, observation)[0].sample(jax.random.key(1))
    sent = environment_action(EVERY_KIND, action)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: np.asarray(x[i]), sent)
        assert EVERY_KIND.contains(jax.tree.map(lambda x: x.astype(np.int64) if x.dtype == np.int32 else x, one)), one


class Masked(probes.ObservedReward):
    """One step; action 2 pays most but is illegal when the observation is -1, where action 1 pays."""

    observation_space = spaces.Dict(
        {"sign": spaces.Box(-1.0, 1.0, (1,), np.float32), "action_mask": spaces.MultiBinary(3)}
    )

    def observe(self, key, state):
        return self.view(state)

    def view(self, sign):
        return {"sign": jnp.asarray(sign, float)[None], "action_mask": jnp.array([True, True, False]) | (sign > 0)}

    def reset(self, key):
        sign = jax.random.choice(key, jnp.array([-1, 1]))
        return self.view(sign), sign

    def step(self, key, state, action):
        observation, following = self.reset(key)
        legal = (action != 2) | (state > 0)
        reward = jnp.where(legal, jnp.array([0.0, 0.5, 1.0])[action], -100.0)
        return jtrpo.EnvStep(observation, following, reward, jnp.bool_(True), jnp.bool_(False), self.view(state))


@pytest.fixture(scope="module")
def masked():
    settings = config(Masked(spaces.Discrete(3)), total_timesteps=128 * 80)
    return settings, jax.jit(jtrpo.make_train(settings))(jax.random.key(0), NUMBERS)


def test_illegal_actions_have_probability_zero_and_the_best_legal_one_is_learned(masked):
    settings, result = masked
    assert float(result.metrics.episode.return_min.min()) >= 0.0  # no illegal action in any episode
    observation = jax.vmap(Masked.view, in_axes=(None, 0))(settings.environment, jnp.array([-1, 1]))
    distribution, _ = jtrpo.make_agent(settings).policy(result.state, observation)
    p = jax.nn.softmax(distribution.logits)
    assert float(p[0, 2]) == 0.0
    assert float(p[0, 1]) > 0.9
    assert float(p[1, 2]) > 0.9
    for leaf in jax.tree.leaves((result.state.policy_params, result.metrics.policy)):
        assert jnp.isfinite(leaf).all()


def test_categories_and_masks_are_not_centred_and_boxes_are(masked):
    settings, (state, _) = masked
    observation = {"sign": jnp.array([[0.7]]), "action_mask": jnp.array([[True, False, True]])}
    seen = jtrpo.make_agent(settings).normalize(state, observation)
    np.testing.assert_array_equal(seen["action_mask"], observation["action_mask"])
    assert float(seen["sign"][0, 0]) != pytest.approx(0.7)


@pytest.mark.parametrize(
    "kind",
    [
        "tanh_gaussian",
        pytest.param("beta", marks=pytest.mark.slow),
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("state_dependent_gaussian", "gsde")),
    ],
)
def test_every_distribution_over_a_box_learns_the_probe(kind):
    settings = config(probes.MatchObservation(probes.CONTINUOUS), box_distribution=kind, total_timesteps=128 * 150)
    result = jax.jit(jtrpo.make_train(settings))(jax.random.key(0), NUMBERS)
    returns = result.metrics.episode.return_mean
    assert float(returns[-10:].mean()) > 0.5 * float(returns[:10].mean())  # negative: half the cost or less
    assert jnp.all(result.metrics.policy.kl <= 0.01)


@pytest.mark.parametrize(
    ("observation", "action", "error", "words"),
    [
        (spaces.Text(3), spaces.Discrete(2), TypeError, ["observation_space", "Text"]),
        (probes.Probe.observation_space, spaces.Text(3), TypeError, ["action_space", "Text"]),
        (spaces.Dict({"x": spaces.Discrete(2), "action_mask": spaces.MultiBinary(4)}), spaces.Discrete(3), ValueError,
         ["action_mask", "(3,)", "4"]),
        (spaces.Dict({"x": spaces.Discrete(2), "action_mask": spaces.MultiBinary(1)}), spaces.Box(0, 1, (1,)), ValueError,
         ["action_mask", "Box"]),
    ],
)  # fmt: skip
def test_a_space_or_mask_that_does_not_fit_is_refused_before_tracing(observation, action, error, words):
    env = probes.ConstantReward(action)
    env.observation_space = observation
    with pytest.raises(error) as caught:
        config(env)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_unknown_box_distribution_is_named():
    with pytest.raises(ValueError, match=r"box_distribution.*'gsde'.*'gauss'"):
        config(probes.ConstantReward(probes.CONTINUOUS), box_distribution="gauss")
