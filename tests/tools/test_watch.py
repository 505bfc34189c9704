import sys
from typing import Any, NamedTuple

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

import jtrpo
from jtrpo.tools.watch import play, save_animation
from tests.probes import DISCRETE, Probe


class Countdown(Probe):
    """Reward 2 for each of seven steps; draws itself as a bar that grows."""

    def observe(self, key, state):
        return jnp.full((1,), state, float) / 7

    def outcome(self, key, state, action):
        return jnp.float32(2.0), state == 6, jnp.bool_(False)


class Drawn(Countdown):
    def render(self, state):
        picture = np.zeros((8, 16, 3), np.uint8)
        picture[:, : 2 * int(state) + 1] = 255
        return picture


class Pictures(Countdown):
    observation_space = spaces.Box(0.0, 1.0, (6, 6, 2), np.float32)

    def observe(self, key, state):
        return jnp.zeros((6, 6, 2)).at[state % 6, 0, 0].set(1.0)


def start(env, **settings):
    config = jtrpo.TrainConfig(
        env, num_envs=2, num_steps=8, total_timesteps=16, hidden_sizes=(4,), critic_minibatches=2, **settings
    )
    return config, jtrpo.make_trainer(config).init(jax.random.key(0))


def frames(file):
    with Image.open(file) as picture:
        return picture.n_frames


@pytest.mark.parametrize("memory", [None, "gru"])
def test_an_episode_ends_where_the_environment_ends_it(memory):
    config, state = start(Countdown(DISCRETE), memory=memory)
    episode = play(config, state, jax.random.key(1))
    assert episode.finished
    np.testing.assert_array_equal(episode.states, np.arange(7))
    np.testing.assert_array_equal(episode.returns, 2.0 * np.arange(1, 8))
    assert not play(config, state, jax.random.key(1), most_steps=3).finished


def test_the_played_return_is_that_of_the_evaluation():
    config, state = start("CartPole-v1")
    played = [play(config, state, jax.random.key(seed)).returns[-1] for seed in range(8)]
    evaluated = jtrpo.make_trainer(config).evaluate(state, jax.random.key(0), 64)
    assert evaluated.min() <= np.mean(played) <= evaluated.max()


@pytest.mark.parametrize("kind", [Drawn, Pictures])
def test_own_pictures_and_image_observations(kind, tmp_path):
    config, state = start(kind(DISCRETE))
    file = tmp_path / "policy.gif"
    save_animation(config, play(config, state, jax.random.key(1)), file)
    assert frames(file) == 7


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Catch-bsuite"])
def test_environments_that_gymnax_and_gymnasium_draw(env, tmp_path):
    pytest.importorskip("pygame")
    if env == "CartPole-v1":
        cartpole, params = gymnax.make(env)
        env = (cartpole, lambda key: params.replace(length=jax.random.uniform(key)))
    config, state = start(env)
    episode = play(config, state, jax.random.key(1), most_steps=12)
    save_animation(config, episode, tmp_path / "policy.gif")
    assert frames(tmp_path / "policy.gif") == len(episode.returns)


def test_gymnasiums_own_environments(tmp_path, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setattr("jtrpo.tools.watch._MOST_FRAMES", 8)
    config = jtrpo.TrainConfig("gymnasium:Pendulum-v1", num_envs=2, num_steps=8, total_timesteps=16, hidden_sizes=(4,))
    state = jtrpo.make_host_trainer(config).init(jax.random.key(0))
    episode = play(config, state, jax.random.key(1))
    assert len(episode.returns) == 200
    assert (np.diff(episode.returns) <= 0).all()
    assert list(episode.pictures) == list(range(0, 200, 32))  # doubled whenever there were more than eight
    save_animation(config, episode, tmp_path / "policy.gif")
    assert frames(tmp_path / "policy.gif") == 7


def test_actions_are_of_the_type_that_an_environment_looks_up():
    config = jtrpo.TrainConfig("gymnasium:FrozenLake-v1", num_envs=2, num_steps=8, hidden_sizes=(4,))
    state = jtrpo.make_host_trainer(config).init(jax.random.key(0))
    assert play(config, state, jax.random.key(1)).finished


def test_the_velocity_tasks_are_drawn_as_their_robots(monkeypatch):
    pytest.importorskip("mujoco")
    config = jtrpo.TrainConfig("gymnasium:SafetyHopperVelocity-v1", num_envs=2, num_steps=8, hidden_sizes=(4,))
    state, made = jtrpo.make_host_trainer(config).init(jax.random.key(0)), []
    make = gymnasium.make
    monkeypatch.setattr(gymnasium, "make", lambda name, render_mode: made.append(name) or make(name))
    monkeypatch.setattr("gymnasium.wrappers.OrderEnforcing.render", lambda self: np.zeros((4, 4, 3), np.uint8))
    play(config, state, jax.random.key(1), most_steps=2)
    assert made == ["Hopper-v4"]


class Shown(NamedTuple):
    bar: Any


class Naming(Countdown):
    """Shows a dictionary as a named tuple, as the protocol allows."""

    observation_space = spaces.Dict({"bar": Countdown.observation_space})

    def reset(self, key):
        observation, state = Countdown(DISCRETE).reset(key)
        return Shown(observation), state

    def step(self, key, state, action):
        result = Countdown(DISCRETE).step(key, state, action)
        return result._replace(observation=Shown(result.observation), final_observation=Shown(result.final_observation))


def test_an_observation_may_be_a_named_tuple():
    config, state = start(Naming(DISCRETE))
    assert len(play(config, state, jax.random.key(1)).returns) == 7


class Echo(Probe):
    """The reward is the action."""

    def observe(self, key, state):
        return jnp.ones(1)

    def outcome(self, key, state, action):
        return action.sum(), state == 11, jnp.bool_(False)


def test_sampled_noise_is_held_as_in_training():
    box = spaces.Box(-1.0, 1.0, (2,), np.float32)
    config, state = start(Echo(box), box_distribution="gsde", gsde_interval=4)
    episode = play(config, state, jax.random.key(1), deterministic=False)
    rewards = np.diff(episode.returns, prepend=0.0).reshape(3, 4)
    np.testing.assert_allclose(rewards, np.repeat(rewards[:, :1], 4, axis=1), rtol=1e-5)
    assert len(np.unique(rewards[:, 0].round(4))) == 3


def test_a_long_episode_has_frames_evenly_spread(tmp_path, monkeypatch):
    monkeypatch.setattr("jtrpo.tools.watch._MOST_FRAMES", 4)
    config, state = start(Drawn(DISCRETE))
    save_animation(config, play(config, state, jax.random.key(1)), tmp_path / "policy.gif")
    assert frames(tmp_path / "policy.gif") == 4  # steps 0, 2, 4 and 6


def test_what_cannot_be_drawn_says_what_to_do(tmp_path, monkeypatch):
    config, state = start(Countdown(DISCRETE))
    episode = play(config, state, jax.random.key(1))
    with pytest.raises(ValueError, match=r"cannot be drawn.*`render\(state\)`"):
        save_animation(config, episode, tmp_path / "policy.gif")
    with pytest.raises(ValueError, match=r"must end with \.gif"):
        save_animation(config, episode, tmp_path / "policy.mp4")
    config, state = start("CartPole-v1")
    episode = play(config, state, jax.random.key(1), most_steps=2)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ImportError, match=r"pip install 'jtrpo\[watch\]'"):
        save_animation(config, episode, tmp_path / "policy.gif")
