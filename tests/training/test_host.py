import dataclasses
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import jtrpo
from jtrpo.tools import run as module
from jtrpo.tools.checkpoint import Checkpoints
from jtrpo.tools.run import run_training
from jtrpo.training.episodes import summarize
from jtrpo.training.host.collect import collect_on_host, play_on_host
from jtrpo.training.host.environments import LiveEnvironments
from jtrpo.training.rollout import Trajectory, staggered_resets
from tests.envs.test_gymnasium import informed
from tests.probes import Counting, counting

MODES = list(AutoresetMode)
GAMMA, LAMBDA = 0.9, 0.8
STEPS = 7


def live(lengths, mode):
    environments = LiveEnvironments(lambda num_envs, seed: counting(lengths, mode))
    environments.begin(jax.random.key(0), len(lengths))
    return environments


def act(observation, memory, step):
    """Of no policy: the action is the number of the step."""
    action = np.full(len(observation), step)
    return action, -action.astype(float), action % 2, memory


def room(num_envs, steps=STEPS):
    number, flag = np.zeros((steps, num_envs)), np.zeros((steps, num_envs), bool)
    seen = np.zeros((steps, num_envs, 1), np.float32)
    return Trajectory(
        seen, number.astype(int), number, number.copy(), flag, flag.copy(), np.zeros_like(seen), memory=()
    )


def expected(lengths, first=0, steps=STEPS):
    """What one environment of each length does, by the rule of :class:`Counting`."""
    episode, t = np.divmod(first + np.arange(steps)[:, None], np.array(lengths)[None])
    last = t + 1 == np.array(lengths)[None]
    return {
        "observation": (10.0 * episode + t)[..., None],
        "reward": 100.0 * episode + t,
        "terminated": last & (episode % 2 == 1),
        "truncated": last & (episode % 2 == 0),
        "final_observation": (10.0 * episode + t + 1)[..., None],
    }


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_trajectory(mode):
    lengths = (2, 3, 10)
    trajectory, totals, _, beyond, unseen = collect_on_host(live(lengths, mode), act, room(3))
    for name, value in expected(lengths).items():
        np.testing.assert_array_equal(getattr(trajectory, name), value, err_msg=name)
    np.testing.assert_array_equal(trajectory.log_prob, -trajectory.action)
    episodes = jax.device_get(summarize(totals))
    if mode is AutoresetMode.NEXT_STEP:  # the others go on while the first begins its episodes
        assert trajectory.action[:, 0].tolist() == [0, 1, 3, 4, 6, 7, 9]
        assert beyond.tolist() == [False, True, True]
        assert unseen.tolist() == [False, False, True]
        assert int(episodes.finished) == 3 + 2 + 1 + 0
    else:
        assert not beyond.any()
        assert (trajectory.action == np.arange(STEPS)[:, None]).all()
        assert int(episodes.finished) == 3 + 2
        returns = [0 + 1, 100 + 101, 200 + 201, 0 + 1 + 2, 100 + 101 + 102]
        assert float(episodes.return_mean) == np.float32(np.mean(returns))
        assert (float(episodes.return_min), float(episodes.return_max)) == (1, 401)
        assert float(episodes.length_mean) == np.float32(12 / 5)


@pytest.mark.parametrize("mode", MODES)
def test_the_next_collection_goes_on_where_the_last_one_stopped(mode):
    environments = live((4, 4), mode)
    total = 0
    for first in (0, STEPS, 2 * STEPS):
        trajectory, episodes, *_ = collect_on_host(environments, act, room(2))
        for name, value in expected((4, 4), first).items():
            np.testing.assert_array_equal(getattr(trajectory, name), value, err_msg=name)
        total += int(episodes.finished.sum())
    assert total == 2 * (3 * STEPS // 4)


@pytest.mark.parametrize("mode", MODES)
def test_advantages_bootstrap_from_what_followed_a_truncation_and_from_nothing_after_a_termination(mode):
    trajectory, *_ = collect_on_host(live((2,), mode), act, room(1, 4))
    value = lambda observation: 0.5 * observation[..., 0] + 3.0  # noqa: E731
    advantage, target = jtrpo.gae(
        jnp.asarray(trajectory.reward),
        jnp.asarray(value(trajectory.observation)),
        jnp.asarray(value(trajectory.final_observation)),
        jnp.asarray(trajectory.terminated),
        jnp.asarray(trajectory.truncated),
        gamma=GAMMA,
        gae_lambda=LAMBDA,
    )
    # Observations 0, 1 | 2 (truncated), then 10, 11 | 12 (terminated); values 3, 3.5, 4 and 8, 8.5.
    second, fourth = 1 + GAMMA * 4 - 3.5, 101 - 8.5
    by_hand = [0 + GAMMA * 3.5 - 3 + GAMMA * LAMBDA * second, second]
    by_hand += [100 + GAMMA * 8.5 - 8 + GAMMA * LAMBDA * fourth, fourth]
    np.testing.assert_allclose(advantage[:, 0], by_hand, rtol=1e-6)
    np.testing.assert_allclose(target[1, 0], 1 + GAMMA * 4, rtol=1e-6)


def test_first_episodes_are_cut_at_spread_times_and_the_cut_is_a_truncation():
    environments = live((10, 10, 10, 10), AutoresetMode.SAME_STEP)
    cuts = []
    for update in range(4):
        before = environments.vector.env.envs
        trajectory, *_ = collect_on_host(environments, act, room(4, 2), np.asarray(staggered_resets(4, 2, update, 8)))
        cuts.append(np.flatnonzero(trajectory.truncated[-1]).tolist())
        for i in cuts[-1]:
            assert environments.observation[i, 0] == 10
            assert before[i].t == 0
            assert environments.episodes.lengths[i] == 0
            assert trajectory.final_observation[-1, i, 0] == trajectory.observation[-1, i, 0] + 1
    assert cuts == [[1], [2], [3], []]


def test_an_environment_that_shows_nan_begins_anew():
    environments = live((10, 10), AutoresetMode.SAME_STEP)
    environments.vector.env.envs[1].observe = lambda: np.array([np.nan], np.float32)
    trajectory, *_ = collect_on_host(environments, act, room(2, 3))
    assert trajectory.truncated[-1].tolist() == [False, True]
    assert environments.vector.env.envs[1].episode == 1


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_plays_whole_episodes_and_as_many_in_each_environment_as_were_fixed_beforehand(mode):
    returns = play_on_host(live((2, 3), mode), act, lambda batch: (), np.array([2, 3]), 100).return_sum
    # Two of the first environment, three of the second, whose episodes are longer.
    assert returns.tolist() == [0 + 1, 100 + 101, 0 + 1 + 2, 100 + 101 + 102, 200 + 201 + 202]


def test_an_endless_episode_counts_with_its_return_so_far():
    played = play_on_host(live((1000,), AutoresetMode.SAME_STEP), act, lambda batch: (), np.array([2]), 3)
    assert played.return_sum.tolist() == [3, 303]


SMALL = {"num_envs": 2, "num_steps": 18, "total_timesteps": 108, "hidden_sizes": (4,), "critic_minibatches": 1}


def trained(mode, **settings):
    config = jtrpo.TrainConfig(counting((4, 4), mode), **{**SMALL, **settings})
    trainer = jtrpo.make_host_trainer(config)
    state = trainer.init(jax.random.key(1))
    for _ in range(config.num_updates):
        state, metrics = trainer.step(state)
    return trainer, state, metrics


@pytest.fixture(scope="module")
def in_the_same_step():
    return trained(AutoresetMode.SAME_STEP)


@pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, pytest.param(AutoresetMode.DISABLED, marks=pytest.mark.long)]
)
def test_every_mode_learns_the_same_to_the_bit(in_the_same_step, mode):
    (_, state, metrics), (_, other, theirs) = in_the_same_step, trained(mode)
    jax.tree.map(np.testing.assert_array_equal, state.policy_params, other.policy_params)
    assert float(theirs.critic.loss) == float(metrics.critic.loss)


def test_a_trained_state_is_evaluated(in_the_same_step):
    trainer, state, metrics = in_the_same_step
    assert int(metrics.timesteps) == 108
    assert metrics.policy.accepted
    returns = trainer.evaluate(state, jax.random.key(0), 3)
    assert returns.tolist() == [0 + 1 + 2 + 3, 0 + 1 + 2 + 3, 100 + 101 + 102 + 103]


def test_numbers_of_info_are_reported_and_a_cost_recorded():
    config = jtrpo.TrainConfig(
        informed((4, 4), AutoresetMode.SAME_STEP), env_metrics=("is_success", "t"), env_cost="t", **SMALL
    )
    trainer = jtrpo.make_host_trainer(config)
    state, metrics = trainer.step(trainer.init(jax.random.key(1)))
    assert jax.tree.structure(metrics) == jax.tree.structure(trainer.compile())
    told = metrics.episode.metrics  # of episodes 0 to 3 in both
    assert [float(x) for x in told["t"]] == [2.5, 10.0, 4.0]
    assert [float(x) for x in told["is_success"]] == [1.5 / 4, 1.5, 1.5]
    assert float(metrics.episode.cost_mean) == 10.0
    returns, episodes = trainer.evaluate(state, jax.random.key(0), 3, summary=True)
    assert float(episodes.return_mean) == returns.mean()
    assert [float(x) for x in episodes.metrics["t"]] == [2.5, 10.0, 4.0]
    assert float(episodes.cost_mean) == 10.0
    wrong = dataclasses.replace(config, env_metrics=("success",))
    trainer = jtrpo.make_host_trainer(wrong)
    with pytest.raises(ValueError, match=r"'success'.*gives t, is_success"):
        trainer.step(trainer.init(jax.random.key(1)))
    with pytest.raises(ValueError, match=r"'success'.*gives t, is_success"):
        trainer.evaluate(state, jax.random.key(0), 3)


def test_noise_is_held_and_actions_reach_the_environment_within_its_bounds():
    class Recorder(Counting):
        action_space = spaces.Box(-2.0, 6.0, (1,), np.float32)
        taken = []  # noqa: RUF012

        def observe(self):
            return np.ones(1, np.float32)

        def step(self, action):
            self.taken.append(float(action[0]))
            action *= 0.5  # as environments do that scale what they are given
            return super().step(action)

    vector = SyncVectorEnv([lambda: Recorder(40)], autoreset_mode=AutoresetMode.SAME_STEP)
    settings = {**SMALL, "num_envs": 1, "total_timesteps": 32, "num_steps": 32}
    config = jtrpo.TrainConfig(vector, box_distribution="gsde", gsde_interval=4, initial_log_std=1.0, **settings)
    trainer = jtrpo.make_host_trainer(config)
    trainer.step(trainer.init(jax.random.key(0)))
    blocks = np.array(Recorder.taken).reshape(8, 4)
    assert (blocks == blocks[:, :1]).all()
    assert len(set(blocks[:, 0])) > 2
    assert blocks.min() == -2.0
    assert blocks.max() == 6.0


@pytest.mark.long
def test_memory_and_reuse_train_on_the_host_too():
    _, state, metrics = trained(AutoresetMode.SAME_STEP, memory="gru", reuse=2, num_steps=16, total_timesteps=96)
    assert metrics.policy.accepted
    assert float(metrics.policy.kl) > 0
    # The episodes under way began with the collection: four steps, ended by the last one.
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(state.env_state.memory))


@pytest.mark.slow
def test_a_step_that_only_begins_an_episode_empties_the_memory_and_learning_is_the_same_to_the_bit():
    settings = {"memory": "gru", "total_timesteps": 108}
    one, other = (trained(mode, **settings)[1] for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP))
    everything = ("policy_params", "critic_params", "observation_statistics", "discounted_return", "env_state")
    for name in everything:
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(other, name))
    assert any(leaf.any() for leaf in jax.tree.leaves(one.env_state.memory))  # in the middle of an episode


def beyond(length, **settings):
    """A collection of seven steps each, in which the first environment begins three episodes, each by a step of its own.

    Meanwhile the second sees its steps 0 to 9, of which seven are samples.
    """
    both = counting((2, length), AutoresetMode.NEXT_STEP)
    config = jtrpo.TrainConfig(both, **{**SMALL, "num_steps": 7, "total_timesteps": 14, **settings})
    trainer = jtrpo.make_host_trainer(config)
    start = trainer.init(jax.random.key(0))
    return config, start, trainer.step(start)[0]


def test_an_episode_that_ends_beyond_the_samples_ends_the_return_that_rewards_are_scaled_by():
    _, _, state = beyond(10)
    assert state.discounted_return[0] > 0
    assert state.discounted_return[1] == 0


@pytest.mark.slow
def test_the_memory_knows_what_an_environment_did_beyond_its_samples():
    config, start, state = beyond(100, memory="gru")
    agent = jtrpo.make_agent(config)
    memory = agent.empty_memory(1)
    for t in range(10):
        _, memory = agent.policy_and_critic(start, jnp.full((1, 1), float(t)), memory)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[0], atol=1e-5), state.env_state.memory, memory)


def test_a_state_that_is_not_the_last_one_begins_its_environments_anew(in_the_same_step, caplog, monkeypatch):
    trainer, state, _ = in_the_same_step
    with caplog.at_level(logging.WARNING, "jtrpo"):
        following, _ = trainer.step(state)
        assert not caplog.records
        again, _ = trainer.step(state)
    assert "begins anew after update 3" in caplog.text
    caplog.clear()
    # Broken off in the middle of a collection: the environments no longer stand where the state left them.
    with monkeypatch.context() as patch:
        patch.setattr(Counting, "step", None)
        with pytest.raises(TypeError):
            trainer.step(again)
    trainer.step(again)
    assert "begins anew after update 4" in caplog.text
    # Episodes of four: the continued ones stood at two of four, the new ones at zero.
    assert float(following.observation_statistics.mean[0]) != float(again.observation_statistics.mean[0])


def test_what_cannot_be_compiled_says_which_trainer_can():
    config = jtrpo.TrainConfig("gymnasium:CartPole-v1")
    with pytest.raises(
        ValueError, match=r"gymnasium:CartPole-v1 is stepped in Python.*jtrpo.make_host_trainer\(config\)"
    ):
        jtrpo.make_train(config)
    with pytest.raises(ValueError, match=r"use jtrpo.make_train or jtrpo.make_trainer"):
        jtrpo.make_host_trainer(jtrpo.TrainConfig("CartPole-v1"))
    with pytest.raises(ValueError, match="debug_nans"):
        run_training(config, debug_nans=True)


def test_a_vector_that_cannot_be_made_again_needs_another_one_for_evaluation():
    class Mine(type(counting((2,), AutoresetMode.SAME_STEP))):
        pass

    mine = Mine(iter([lambda: Counting(2)]))
    config = jtrpo.TrainConfig(mine, **{**SMALL, "num_envs": 1})
    for call in (
        lambda: jtrpo.make_host_trainer(config).evaluate(None, jax.random.key(0)),
        lambda: run_training(config),
    ):
        with pytest.raises(ValueError, match=r"TrainConfig\(env=\(vector environment, another for evaluation\)\)"):
            call()


def test_the_same_key_begins_the_same_episodes_and_another_one_others():
    def collected(key):
        environments = LiveEnvironments(CARTPOLE.environment.make)
        environments.begin(jax.random.key(key), 2)
        seen = room(2, 60)._replace(
            **{name: np.zeros((60, 2, 4), np.float32) for name in ("observation", "final_observation")}
        )
        alternate = lambda observation, memory, step: act(observation, memory, step % 2)  # noqa: E731
        trajectory, *_ = collect_on_host(environments, alternate, seen)
        environments.close()
        assert trajectory.terminated.any()
        return trajectory.observation

    np.testing.assert_array_equal(collected(3), collected(3))
    assert not np.array_equal(collected(3)[0], collected(4)[0])


CARTPOLE = jtrpo.TrainConfig("gymnasium:CartPole-v1", total_timesteps=30_000, num_envs=16, num_steps=64)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """CartPole through Gymnasium, stopped half way and resumed by a new trainer."""
    folder = tmp_path_factory.mktemp("cartpole")
    with pytest.MonkeyPatch.context() as patch, Checkpoints(folder, CARTPOLE, seed=0) as checkpoints:
        patch.setattr(module, "EVALUATION_EPISODES", 20)
        count = itertools.count(1)
        stopped = run_training(CARTPOLE, 0, checkpoints=checkpoints, stop=lambda: next(count) > 15)
        whole = run_training(CARTPOLE, 0, checkpoints=checkpoints, restored=checkpoints.restore())
    return folder, stopped, whole


def test_cartpole_learns_through_a_stop_and_the_bound_holds(runs):
    _, stopped, whole = runs
    assert stopped.summary is None
    assert int(stopped.state.update) == 15
    assert int(whole.state.update) == CARTPOLE.num_updates == len(whole.metrics.timesteps)
    assert whole.summary["evaluation_return"] > 300
    assert whole.summary["max_kl_seen"] <= 0.005
    np.testing.assert_array_equal(whole.metrics.policy.kl[:15], stopped.metrics.policy.kl)


def test_a_saved_policy_acts_on_raw_observations(runs):
    folder, _, _ = runs
    policy = jtrpo.load_policy(folder)
    one, _ = policy(np.zeros(4, np.float32))
    many, _ = policy(np.zeros((3, 4)))
    assert one.shape == ()
    assert many.tolist() == [int(one)] * 3
