import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtrpo
from jtrpo.envs.metrics import own_numbers
from jtrpo.training.episodes import summarize
from jtrpo.training.evaluation import play_episodes
from jtrpo.training.rollout import collect, reset
from tests import probes


class Told(probes.Probe):
    """Episodes of one to four steps, told of by a metric, a flag and two costs, all of which the observation shows."""

    observation_space = probes.spaces.Box(-100.0, 100.0, (2,), np.float32)

    def reset(self, key):
        state = jnp.stack([jnp.int32(0), jax.random.randint(key, (), 1, 5)])
        return state.astype(float), state

    def step(self, key, state, action):
        following = state + jnp.array([1, 0])
        ended = following[0] >= following[1]
        start, start_state = self.reset(key)
        return jtrpo.EnvStep(
            observation=jnp.where(ended, start, following.astype(float)),
            state=jnp.where(ended, start_state, following),
            reward=jnp.float32(1.0),
            terminated=ended,
            truncated=jnp.bool_(False),
            final_observation=following.astype(float),
            metrics={"speed": state[1] * (1 + state[0]), "is_success": ended & (state[1] == 3)},
            cost=self.cost(state),
        )

    def cost(self, state):
        return jnp.stack([state[0], 10 * state[1]])


class Scalar(Told):
    def cost(self, state):
        return state[0]


def uniform(observation, memory):
    return jtrpo.Categorical(jnp.zeros((*observation.shape[:-1], 2))), memory


def collections(env, names=(), number=2):
    state = reset(env, jax.random.key(0), 3, (), *own_numbers(env, names))
    run = jax.jit(lambda state, key: collect(env, uniform, state, key, 5))
    for update in range(number):
        state, trajectory, summary = run(state, jax.random.key(update + 1))
        yield trajectory, summary
    assert run._cache_size() == 1


def test_means_sums_last_values_and_costs_are_those_of_a_plain_loop_over_the_episodes():
    under_way = [[] for _ in range(3)]
    for trajectory, summary in collections(Told(probes.DISCRETE)):
        ended = []
        for t, env in np.ndindex(5, 3):
            step, length = np.asarray(trajectory.observation)[t, env]
            under_way[env].append((length * (1 + step), step + 1 == length == 3, step, 10 * length))
            np.testing.assert_array_equal(trajectory.cost[t, env], [step, 10 * length])
            if trajectory.done[t, env]:
                ended.append(np.array(under_way[env], float))
                under_way[env] = []
        assert int(summary.finished) == len(ended) > 3
        for column, name in enumerate(("speed", "is_success")):
            metric = summary.metrics[name]
            np.testing.assert_allclose(metric.mean, np.mean([each[:, column].mean() for each in ended]), rtol=1e-6)
            np.testing.assert_allclose(metric.sum, np.mean([each[:, column].sum() for each in ended]), rtol=1e-6)
            np.testing.assert_allclose(metric.last, np.mean([each[-1, column] for each in ended]), rtol=1e-6)
        for number, mean in enumerate(summary.cost_mean):
            np.testing.assert_allclose(mean, np.mean([each[:, 2 + number].sum() for each in ended]), rtol=1e-6)
        assert all(x.shape == () for x in jax.tree.leaves(summary))


def test_an_evaluation_has_the_same_numbers_and_no_more_steps_than_each_episode():
    env = Told(probes.DISCRETE)
    act = lambda observation, memory, key: (jnp.zeros(observation.shape[:1], int), memory)  # noqa: E731
    played = jax.jit(lambda key: play_episodes(env, act, key, 6, 10, (), False, 1, *own_numbers(env)))(
        jax.random.key(0)
    )
    length = np.asarray(played.length_sum)
    assert len(set(length.tolist())) > 2
    np.testing.assert_array_equal(played.return_sum, length)
    np.testing.assert_allclose(played.metrics["speed"].sum, length * length * (length + 1) / 2)
    np.testing.assert_allclose(played.metrics["speed"].mean, length * (length + 1) / 2)
    np.testing.assert_array_equal(played.metrics["speed"].last, length**2)
    np.testing.assert_array_equal(played.metrics["is_success"].last, length == 3)
    np.testing.assert_array_equal(played.cost_sum, np.stack([length * (length - 1) / 2, 10 * length**2], axis=1))
    summary = summarize(played)
    assert int(summary.finished) == 6
    np.testing.assert_allclose(summary.metrics["is_success"].last, np.mean(length == 3))


def test_a_scalar_cost_is_one_number_and_named_metrics_are_all_that_is_reported():
    ((trajectory, summary),) = collections(Scalar(probes.DISCRETE), ("is_success",), number=1)
    assert trajectory.cost.shape == (5, 3)
    assert summary.cost_mean.shape == ()
    assert list(summary.metrics) == ["is_success"]


def test_an_environment_without_numbers_of_its_own_has_nothing_more():
    trajectory, summary = next(collections(probes.TruncatedOnly(probes.DISCRETE), number=1))
    assert jax.tree.leaves((trajectory.cost, summary.cost_mean, summary.metrics)) == []


def test_the_numbers_of_gymnax_come_by_name_under_vmap_and_a_wrong_name_is_told_with_the_right_ones():
    config = jtrpo.TrainConfig(
        "CartPole-v1", total_timesteps=64, num_envs=2, num_steps=32, hidden_sizes=(4,), env_metrics=("discount",)
    )
    finished = 0
    for _, episode in collections(config.environment, config.env_metrics, number=8):
        if episode.finished > 0:
            discount = episode.metrics["discount"]  # 1, and 0 where the pole falls
            np.testing.assert_allclose(discount.sum, episode.length_mean - 1, rtol=1e-6)
            assert discount.last == 0.0
            finished += int(episode.finished)
    assert finished >= 3
    evaluated = jax.eval_shape(
        jax.vmap(jtrpo.make_train(config, evaluate_every=2)), jax.random.split(jax.random.key(0), 3)
    )
    assert evaluated.metrics.episode.metrics["discount"].sum.shape == (3, 1)
    assert evaluated.episodes.metrics["discount"].last.shape == evaluated.returns.shape == (3, 1)
    with pytest.raises(ValueError, match=r"env_metrics names 'sucess', which GymnaxEnv.*CartPole.*gives discount"):
        jtrpo.make_train(jtrpo.TrainConfig("CartPole-v1", env_metrics=("sucess",)))
    with pytest.raises(ValueError, match=r"env_cost='cost' is for environments of Gymnasium.*EnvStep\.cost"):
        jtrpo.make_train(jtrpo.TrainConfig("CartPole-v1", env_cost="cost"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"env_metrics": "is_success"}, TypeError, r"must be a tuple of names such as.*got 'is_success'"),
        ({"env_metrics": ("a,b",)}, ValueError, r"without spaces, commas.*'a,b'"),
        ({"env_metrics": ("a", "a")}, ValueError, r"each once; got 'a'"),
        ({"env_cost": 3}, TypeError, r"env_cost must be the name of a number.*got 3"),
    ],
)
def test_names_that_cannot_be_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        jtrpo.TrainConfig("CartPole-v1", **settings)


class Named(Told):
    def __init__(self, action_space, *names):
        super().__init__(action_space)
        self.names = names

    def step(self, key, state, action):
        return super().step(key, state, action)._replace(metrics=dict.fromkeys(self.names, 1.0))


@pytest.mark.parametrize("name", ["x velocity", "", "a,b", 1])
def test_names_of_an_environment_that_cannot_be_columns_are_told_as_its_own(name):
    with pytest.raises((TypeError, ValueError), match=rf"the environment's EnvStep.metrics must have .*got {name!r}"):
        own_numbers(Named(probes.DISCRETE, "fine", name))


def test_names_that_change_are_told():
    state = jax.eval_shape(lambda: reset(Named(probes.DISCRETE), jax.random.key(0), 3, (), ("speed", "success")))
    run = lambda state: collect(Named(probes.DISCRETE, "speed"), uniform, state, jax.random.key(0), 5)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"EnvStep.metrics .* same names .*\['success'\] .* missing in one that has \['speed'\]"
    ):
        jax.eval_shape(run, state)


def test_no_episode_gives_nan_under_every_name():
    totals = jtrpo.training.episodes.no_episodes(2, np, np.zeros((2, 3)), {"x": None})
    summary = summarize(totals)
    assert len(summary.cost_mean) == 3
    assert np.isnan([*summary.cost_mean, *summary.metrics["x"]]).all()
