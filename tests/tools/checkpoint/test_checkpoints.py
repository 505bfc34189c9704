import dataclasses
import pickle

import jax
import numpy as np
import pytest

import jtrpo
from jtrpo.tools.checkpoint import Checkpoints, load
from jtrpo.tools.checkpoint.state import to_arrays
from tests import probes

CONFIG = jtrpo.TrainConfig(
    "CartPole-v1", total_timesteps=640, num_envs=4, num_steps=16, hidden_sizes=(4,), memory="gru", critic_minibatches=2
)


@pytest.fixture(scope="module")
def states():
    """As if after 0, 1, 2, ... updates: other numbers, of other bits, in every array, and another key."""

    @jax.jit
    def follow(state):
        other = lambda x: x / 3 if jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x  # noqa: E731
        key, update = jax.random.split(state.key)[0], state.update + 1
        state = state._replace(policy_params=jax.tree.map(lambda x: x + 0.1, state.policy_params))
        return jax.tree.map(other, state)._replace(key=key, update=update, hyperparams=state.hyperparams)

    states = [jax.jit(jtrpo.make_trainer(CONFIG).init)(jax.random.key(0))]
    for _ in range(5):
        states.append(follow(states[-1]))
    return states


def assert_same(a, b):
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)  # noqa: E731
    assert described(a) == described(b)
    arrays, others = to_arrays(a), to_arrays(b)
    assert all(arrays[name].tobytes() == others[name].tobytes() for name in arrays)


def test_a_state_comes_back_bit_for_bit_with_its_types_and_its_key(tmp_path, states):
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(states[3], score=7.5)
        restored = checkpoints.restore()
    assert_same(restored.state, states[3])
    assert (restored.update, restored.score) == (3, 7.5)
    assert restored.versions["jtrpo"] == jtrpo.__version__


def test_a_donated_state_does_not_change_what_is_saved(tmp_path, states):
    overwrite = jax.jit(lambda params: jax.tree.map(lambda x: x + 1, params), donate_argnums=0)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        copy = jax.tree.map(lambda x: x.copy(), states[2])
        checkpoints.save(copy)
        overwrite((copy.policy_params, copy.critic_params, copy.env_state.observation))
        assert_same(checkpoints.restore().state, states[2])


def test_the_newest_are_kept_and_the_best_by_score(tmp_path, states):
    scores = [1.0, 9.0, None, 2.0, None, 3.0]
    with Checkpoints(tmp_path, CONFIG, keep=2) as checkpoints:
        for state, score in zip(states, scores, strict=True):
            checkpoints.save(state, score)
        assert checkpoints.updates() == [1, 4, 5]
    with Checkpoints(tmp_path, CONFIG, keep=2) as again:  # another process finds the same
        assert again.updates() == [1, 4, 5]
    config, best = load(tmp_path)
    assert (config, best.update, best.score) == (CONFIG, 1, 9.0)
    assert_same(best.state, states[1])


def test_other_settings_are_refused_with_the_differences_listed(tmp_path, states):
    numbers = jtrpo.Hyperparams(max_kl=0.01)
    with Checkpoints(tmp_path, CONFIG, numbers, seed=1) as checkpoints:
        checkpoints.save(states[1])
    other = dataclasses.replace(CONFIG, num_envs=8, memory=None)
    checkpoints = Checkpoints(tmp_path, other, numbers._replace(max_kl=0.02), seed=2)
    with checkpoints, pytest.raises(ValueError, match="other settings") as caught:
        checkpoints.restore()
    for words in (
        "num_envs is 4 there and 8 here",
        "memory is 'gru' there and None here",
        "seed is 1 there and 2 here",
    ):
        assert words in str(caught.value)
    assert "max_kl is 0.01 there and 0.02 here" in str(caught.value)
    assert "hidden_sizes" not in str(caught.value)


def test_a_run_may_be_made_longer_unless_something_is_annealed(tmp_path, states):
    with Checkpoints(tmp_path / "a", CONFIG) as checkpoints:
        checkpoints.save(states[1])
    with Checkpoints(tmp_path / "a", dataclasses.replace(CONFIG, total_timesteps=6400)) as longer:
        assert longer.restore().update == 1
    shorter = Checkpoints(tmp_path / "a", dataclasses.replace(CONFIG, total_timesteps=320))
    with shorter, pytest.raises(ValueError, match="total_timesteps is 640 there and 320 here"):
        shorter.restore()
    annealed = dataclasses.replace(CONFIG, anneal=("max_kl",))
    with Checkpoints(tmp_path / "b", annealed) as checkpoints:
        checkpoints.save(states[1])
    longer = Checkpoints(tmp_path / "b", dataclasses.replace(annealed, total_timesteps=6400))
    with longer, pytest.raises(ValueError, match="total_timesteps"):
        longer.restore()


def test_an_environment_object_is_given_again_where_a_run_is_loaded(tmp_path):
    env = probes.TruncatedOnly(probes.CONTINUOUS)
    config = jtrpo.TrainConfig(env, num_envs=4, num_steps=8, hidden_sizes=(4,), critic_minibatches=1)
    with Checkpoints(tmp_path, config) as checkpoints:
        checkpoints.save(jtrpo.make_trainer(config).init(jax.random.key(0)))
    with pytest.raises(ValueError, match="give env="):
        load(tmp_path)
    assert load(tmp_path, env)[0] == config


def test_a_folder_that_cannot_be_used_is_named_with_the_remedy(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"checkpoint_dir=.*file.* is a file; name a folder"):
        Checkpoints(file, CONFIG)

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", read_only)
        with pytest.raises(
            ValueError, match=r"cannot be written to .Read-only file system.; choose a folder of your own"
        ):
            Checkpoints(tmp_path / "folder", CONFIG)
    with pytest.raises(ValueError, match="keep must be a whole number of at least 1"):
        Checkpoints(tmp_path / "folder", CONFIG, keep=0)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_write_that_fails_is_told_and_leaves_the_ones_before(tmp_path, states, monkeypatch):
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(states[1])
        checkpoints.wait()

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("orbax.checkpoint.Checkpointer.save", full)
        checkpoints.save(states[2])
        with pytest.raises(ValueError, match=r"No space left on device.*Make room"):
            checkpoints.wait()
        monkeypatch.undo()
        assert checkpoints.restore().update == 1


def test_a_newer_format_and_a_foreign_checkpoint_are_refused(tmp_path, states, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jtrpo.tools.checkpoint.checkpoints.FORMAT", 2)
        with Checkpoints(tmp_path / "newer", CONFIG) as checkpoints:
            checkpoints.save(states[1])
    with Checkpoints(tmp_path / "newer", CONFIG) as checkpoints:
        with pytest.raises(ValueError, match="has format 2; this version of jtrpo reads up to 1: upgrade"):
            checkpoints.restore()
        assert checkpoints.updates() == [1]
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path / "foreign") as foreign:
        foreign.save(1, args=ocp.args.Composite(params=ocp.args.StandardSave({"w": np.ones(3)})))
    with Checkpoints(tmp_path / "foreign", CONFIG) as checkpoints:
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            checkpoints.restore()
        checkpoints.save(states[1])
        assert checkpoints.updates() == [1]
    assert sorted(path.name for path in (tmp_path / "foreign").iterdir() if path.name[0] != ".") == ["1", "1-jtrpo"]
    assert not (tmp_path / "foreign" / "1" / "jtrpo.json").exists()  # it is left as it was


def test_nothing_is_unpickled(tmp_path, states, monkeypatch):
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(states[1])

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert load(tmp_path)[1].update == 1


def test_a_policy_is_loaded_ready_to_act(tmp_path, states):
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(states[4])
    policy, agent = jtrpo.load_policy(tmp_path), jtrpo.make_agent(CONFIG)
    batch = jax.random.normal(jax.random.key(0), (3, 4))
    distribution, carry = agent.policy(states[4], batch)
    action, memory = policy(batch)
    np.testing.assert_array_equal(action, distribution.mode())
    later, _ = policy(batch, memory, key=jax.random.key(1))
    np.testing.assert_array_equal(later, agent.policy(states[4], batch, carry)[0].sample(jax.random.key(1)))
    alone, _ = policy(np.asarray(batch[1]))  # one observation, one action
    assert alone == action[1]


def test_a_loaded_policy_stays_within_the_bounds_of_a_box(tmp_path):
    config = jtrpo.TrainConfig("Pendulum-v1", num_envs=4, num_steps=8, hidden_sizes=(4,))
    with Checkpoints(tmp_path, config) as checkpoints:
        checkpoints.save(jtrpo.make_trainer(config).init(jax.random.key(0)))
    actions, _ = jtrpo.load_policy(tmp_path)(np.zeros((512, 3), np.float32), key=jax.random.key(0))
    assert actions.shape == (512, 1)
    assert float(np.abs(actions).max()) == 2.0
