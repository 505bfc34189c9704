import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import jtrpo
from jtrpo.envs.gymnasium import batch_example
from jtrpo.envs.host_vector import HostVector, autoreset_mode
from tests.probes import Counting, counting

MODES = list(AutoresetMode)


@pytest.mark.parametrize("mode", MODES)
def test_final_observations_are_what_followed_and_no_reset_step_is_an_action(mode):
    vector = HostVector(counting((2, 3), mode))
    assert vector.reset(0).tolist() == [[0.0], [0.0]]
    acted = np.zeros(2, int)
    for _ in range(9):
        result = vector.step(np.zeros(2, int))
        episode, t = np.divmod(acted, (2, 3))
        last = t + 1 == (2, 3)
        for i in np.flatnonzero(result.acted):
            assert result.final_observation[i, 0] == 10 * episode[i] + t[i] + 1
            assert result.reward[i] == 100 * episode[i] + t[i]
            assert result.terminated[i] == (last[i] and episode[i] % 2 == 1)
            assert result.truncated[i] == (last[i] and episode[i] % 2 == 0)
            if mode is not AutoresetMode.NEXT_STEP and last[i]:
                assert result.observation[i, 0] == 10 * (episode[i] + 1)
        assert result.acted.all() or mode is AutoresetMode.NEXT_STEP
        assert not (result.terminated | result.truncated)[~result.acted].any()
        acted += result.acted
    assert acted.tolist() == ([6, 7] if mode is AutoresetMode.NEXT_STEP else [9, 9])


class Informed(Counting):
    """Tells its step, and at an episode's end the number of the episode."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"t": -100.0}

    def step(self, action):
        *result, terminated, truncated, _ = super().step(action)
        end = {"is_success": self.episode} if terminated or truncated else {}
        return *result, terminated, truncated, {"t": float(self.t), "name": "x", "pair": np.zeros(2), **end}


def informed(lengths, mode):
    return SyncVectorEnv([lambda length=length: Informed(length) for length in lengths], autoreset_mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_info_are_those_of_the_step_and_at_an_end_of_the_last_one(mode):
    vector = HostVector(informed((2, 3), mode), ("is_success", "t"), "t")
    vector.check_names(0)
    vector.reset(0)
    acted = np.zeros(2, int)
    for _ in range(9):
        result = vector.step(np.zeros(2, int))
        episode, t = np.divmod(acted, (2, 3))
        wanted = {"t": t + 1, "is_success": np.where(t + 1 == (2, 3), episode, 0)}
        for name, value in {**result.metrics, "t": result.cost}.items():
            assert value[result.acted].tolist() == wanted[name][result.acted].tolist()
        acted += result.acted


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_info_keep_their_digits_whatever_type_another_environment_gives(mode):
    class Costly(Counting):
        """The first environment's cost is a whole number, as that of others is where nothing happened."""

        def step(self, action):
            *result, _ = super().step(action)
            return *result, {"cost": 0.7 if self.length == 3 else 0, "is_success": np.bool_(self.length == 3)}

    functions = [lambda: Costly(2), lambda: Costly(3)]
    vector = HostVector(SyncVectorEnv(functions, autoreset_mode=mode), ("is_success",), "cost")
    vector.check_names(0)
    vector.reset(0)
    result = vector.step(np.zeros(2, int))
    assert result.cost.tolist() == [0.0, 0.7]
    assert result.metrics["is_success"].tolist() == [0.0, 1.0]


def test_a_look_for_names_takes_actions_that_the_mask_allows():
    class Masked(Counting):
        observation_space = spaces.Dict({"t": Counting.observation_space, "action_mask": spaces.MultiBinary(5)})
        action_space = spaces.MultiDiscrete([2, 3])

        def observe(self):
            return {"t": super().observe(), "action_mask": np.array([0, 1, 0, 0, 1], np.int8)}

        def step(self, action):
            assert action.tolist() == [1, 2]
            *result, _ = super().step(0)
            return *result, {"late": 1.0} if self.t == 5 else {}

    HostVector(SyncVectorEnv([lambda: Masked(9)] * 2), ("late",)).check_names(0)


@pytest.mark.parametrize("mode", MODES)
def test_a_name_that_info_does_not_give_is_told_with_those_that_it_gives(mode):
    with pytest.raises(ValueError, match=r"env_metrics names 'succes', .* it gives t, is_success$"):
        HostVector(informed((2, 2), mode), ("succes",)).check_names(0)
    with pytest.raises(ValueError, match=r"env_cost names 'cost', .* it gives none"):
        HostVector(counting((2, 2), mode), cost="cost").check_names(0)


@pytest.mark.parametrize("mode", MODES)
def test_some_environments_can_begin_anew_while_the_others_go_on(mode):
    vector = HostVector(counting((5, 5), mode))
    vector.reset(0)
    vector.step(np.zeros(2, int))
    observation, begun = vector.reset_where(np.array([True, False]))
    assert (observation.tolist(), begun.tolist()) == ([[10.0], [1.0]], [True, False])
    assert vector.step(np.zeros(2, int)).observation.tolist() == [[11.0], [2.0]]


def test_the_mode_is_that_of_the_environment_and_not_of_another_of_its_class():
    first = counting((2,), AutoresetMode.NEXT_STEP)
    counting((2,), AutoresetMode.SAME_STEP)  # writes into the metadata of both
    assert autoreset_mode(first) is AutoresetMode.NEXT_STEP


def test_parts_of_an_observation_keep_their_own_final_values():
    class Parts(Counting):
        observation_space = spaces.Dict(
            {"count": spaces.Discrete(100), "pair": spaces.Tuple([Counting.observation_space, spaces.MultiBinary(2)])}
        )

        def observe(self):
            return {"count": int(self.t), "pair": (super().observe(), np.array([self.t % 2, 1], np.int8))}

    vector = HostVector(SyncVectorEnv([lambda: Parts(2), lambda: Parts(3)], autoreset_mode=AutoresetMode.SAME_STEP))
    vector.reset(0)
    vector.step(np.zeros(2, int))
    result = vector.step(np.zeros(2, int))
    assert result.final_observation["count"].tolist() == [2, 2]
    assert result.observation["count"].tolist() == [0, 2]
    assert result.final_observation["pair"][0].tolist() == [[2.0], [2.0]]
    assert result.observation["pair"][1].tolist() == [[0, 1], [0, 1]]
    example = batch_example(Parts.observation_space, 4)
    assert (example["count"].shape, example["pair"][1].shape) == ((4,), (4, 2))


def test_spaces_and_time_limit_come_from_the_id():
    config = jtrpo.TrainConfig("gymnasium:Pendulum-v1", num_envs=2)
    assert config.environment.max_episode_steps == 200
    assert config.environment.action_space == spaces.Box(-2.0, 2.0, (1,), np.float32)
    assert config.environment.make(3, 0).num_envs == 3
    assert repr(config.environment) == "gymnasium:Pendulum-v1"


def test_evaluation_is_on_environments_of_its_own_wherever_they_can_be_made():
    mine = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    again = jtrpo.TrainConfig(mine, num_envs=2).environment.make_evaluation(2, 0)
    assert again is not mine
    assert (again.num_envs, again.single_observation_space) == (2, mine.single_observation_space)
    listed = counting((2, 3), AutoresetMode.NEXT_STEP)
    assert jtrpo.TrainConfig(listed, num_envs=2).environment.make_evaluation(2, 0).envs[1].length == 3
    wrapped = RecordEpisodeStatistics(mine)
    assert jtrpo.TrainConfig(wrapped, num_envs=2).environment.make_evaluation is None
    assert jtrpo.TrainConfig((wrapped, again), num_envs=2).environment.make_evaluation(2, 0) is again


def test_bad_environments_are_told_of_with_the_remedy(monkeypatch):
    one = gymnasium.make("CartPole-v1")
    two = counting((2, 3), AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=r"CartPole-v9.*is not an environment of Gymnasium: .*v1"):
        jtrpo.TrainConfig("gymnasium:CartPole-v9")
    with pytest.raises(ValueError, match="not an environment of Gymnasium"):
        jtrpo.TrainConfig("gymnasium:Nonsense-v0")
    with pytest.raises(ValueError, match="num_envs must be that of the vector environment, 2; got 64"):
        jtrpo.TrainConfig(two)
    with pytest.raises(TypeError, match="one environment of Gymnasium; give a vector"):
        jtrpo.TrainConfig(one)
    with pytest.raises(ValueError, match="the evaluation's spaces must be those of"):
        jtrpo.TrainConfig((two, gymnasium.make_vec("CartPole-v1", 2)), num_envs=2)
    with pytest.raises(ValueError, match="evaluation would disturb the training"):
        jtrpo.TrainConfig((two, two), num_envs=2)
    monkeypatch.setattr(two, "autoreset_mode", "sometimes")
    with pytest.raises(ValueError, match=r"must say how it resets.*'sometimes'"):
        jtrpo.TrainConfig(two, num_envs=2)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)  # which another test may have imported
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ValueError, match=r"needs MuJoCo: pip install 'jtrpo\[mujoco\]'"):
        jtrpo.TrainConfig("gymnasium:Hopper-v5")


def test_an_end_without_its_final_observation_is_an_error():
    vector = counting((1,), AutoresetMode.SAME_STEP)
    host = HostVector(vector)
    host.reset(0)
    step = vector.step
    vector.step = lambda action: (*step(action)[:4], {})
    with pytest.raises(ValueError, match=r"must come with info\['final_obs'\]"):
        host.step(np.zeros(1, int))


def test_final_observations_of_a_dictionary_may_come_as_one_batch():
    class Shown(Counting):
        observation_space = spaces.Dict({"t": Counting.observation_space})

        def observe(self):
            return {"t": super().observe()}

    vector = SyncVectorEnv([lambda: Shown(2), lambda: Shown(3)], autoreset_mode=AutoresetMode.SAME_STEP)
    host, step = HostVector(vector), vector.step
    host.reset(0)
    host.step(np.zeros(2, int))
    vector.step = lambda action: (*step(action)[:4], {"final_obs": {"t": np.array([[2.0], [0.0]])}})
    assert host.step(np.zeros(2, int)).final_observation["t"].tolist() == [[2.0], [2.0]]


def test_observations_of_another_shape_than_the_space_says_are_an_error():
    vector = counting((1,), AutoresetMode.SAME_STEP)
    vector.reset = lambda **_: (np.zeros((1, 2)), {})
    with pytest.raises(ValueError, match=r"observation at reset has shape \(2,\)"):
        HostVector(vector).reset(0)
