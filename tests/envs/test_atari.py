"""Needs ``pip install '.[atari]'``; skipped without it."""

import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import jtrpo
from jtrpo.envs.atari import games
from jtrpo.envs.host_vector import HostVector
from jtrpo.envs.resolve import resolve

pytest.importorskip("ale_py")


def test_pictures_actions_and_names():
    environment = resolve("atari:SpaceInvaders")
    assert environment.observation_space.shape == (4, 84, 84)
    assert environment.action_space.n == 6
    assert environment.mode is AutoresetMode.NEXT_STEP
    assert len(games()) > 100
    assert games()["MsPacman"] == "ms_pacman"
    with pytest.raises(ValueError, match=r"atari:Breakut.*did you mean Breakout"):
        resolve("atari:Breakut")
    with pytest.raises(ValueError, match=r"atari:Joust' is not an environment"):  # for two: it would end the process
        resolve("atari:Joust")


def test_training_ends_with_a_life_and_clips_evaluation_plays_for_the_score():
    environment, seen = resolve("atari:SpaceInvaders"), []
    for make in (environment.make, environment.make_evaluation):
        vector = make(2, 0)
        vector.reset(seed=0)
        rewards, lives = [], []
        for step in range(600):
            _, reward, terminated, _, info = vector.step(np.array([1, step % 6], np.int32))
            rewards.append(reward)
            lives += list(np.asarray(info["lives"])[terminated])
        vector.close()
        seen.append((np.max(rewards), set(lives)))
    (most, lives), (score, at_the_end) = seen
    assert most == 1.0
    assert {2, 1} <= lives  # the game goes on with the next life
    assert score >= 5.0
    assert at_the_end <= {0}


def test_the_step_after_a_lost_life_acts_and_that_after_a_game_does_not():
    vector, ends = HostVector(resolve("atari:Breakout").make(4, 0)), {True: 0, False: 0}
    vector.reset(0)
    lives, ended = np.full(4, 5), np.zeros(4, bool)
    for step in range(800):
        result = vector.step(np.full(4, step % 4, np.int32))
        np.testing.assert_array_equal(result.acted, ~ended | (lives > 0))
        assert not (result.terminated & ~result.acted).any()
        ended = result.terminated
        lives = np.where(result.acted, lives - ended, 5)
        for over in lives[ended] == 0:
            ends[bool(over)] += 1
    assert min(ends.values()) > 2


def test_one_game_begins_anew_and_the_others_go_on():
    vector = HostVector(resolve("atari:SpaceInvaders").make(2, 0))
    vector.reset(0)
    for _ in range(20):
        vector.step(np.zeros(2, np.int32))
    before = vector._observation.copy()
    observation, renewed = vector.reset_where(np.array([True, False]))
    assert renewed.tolist() == [True, False]
    np.testing.assert_array_equal(observation[1], before[1])
    assert (observation[0] != before[0]).any()


@pytest.mark.slow
def test_two_updates_and_an_evaluation_that_does_not_disturb_them():
    config = jtrpo.TrainConfig(
        "atari:Breakout", num_envs=2, num_steps=8, hidden_sizes=(8,), total_timesteps=32, critic_minibatches=1
    )
    trainer = jtrpo.make_host_trainer(config)
    state = trainer.init(jax.random.key(0))
    for _ in range(2):
        state, metrics = trainer.step(state)
        assert metrics.samples.invalid == 0
        assert metrics.policy.kl <= metrics.hyperparams.max_kl
    kernels = {leaf.shape for leaf in jax.tree.leaves(state.policy_params) if leaf.ndim == 2}
    assert {(8 * 8 * 4, 32), (4 * 4 * 32, 64), (3 * 3 * 64, 64), (7 * 7 * 64, 8)} <= kernels
    trainer.close()
