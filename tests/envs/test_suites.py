"""Suites in JAX with adapters of their own, each against its real package; skipped where that is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.check import canonical
from jtrpo.envs.resetting import ResettingEnvironment
from jtrpo.envs.resolve import SUITES, resolve
from jtrpo.tools.settings import config_of, describe

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own deprecations are not ours to mend

# What ends an episode where actions are drawn at random: the game, the time, or either; None: neither within STEPS.
STEPS = 120
ENDS = {
    "xminigrid:MiniGrid-Empty-5x5": "either",
    "xminigrid:MiniGrid-EmptyRandom-5x5": "either",
    "xminigrid:MiniGrid-FourRooms": "either",
    "xminigrid:MiniGrid-DoorKey-5x5": None,
    "xminigrid:MiniGrid-MemoryS8": None,
    "xminigrid:MiniGrid-Unlock": None,
    "xminigrid:MiniGrid-LockedRoom": None,
    "xminigrid:MiniGrid-BlockedUnlockPickUp": None,
    "xminigrid:MiniGrid-Playground": None,
    "xminigrid:XLand-MiniGrid-R1-9x9": None,
    "xminigrid:XLand-MiniGrid-R4-13x13": None,
    "jumanji:Snake-v1": None,
    "jumanji:BinPack-v2": "game",
    "jumanji:JobShop-v0": "game",
    "jumanji:Game2048-v1": None,
    "jumanji:Maze-v0": "game",
    "jumanji:Sudoku-v0": "game",
    "jumanji:Minesweeper-v0": "game",
    "jumanji:Tetris-v0": "game",
    "jumanji:Knapsack-v1": "game",
    "jumanji:RubiksCube-partly-scrambled-v0": "game",
    "jumanji:Connector-v3": "either",
    "jumanji:LevelBasedForaging-v0": "either",
    "jumanji:MultiCVRP-v0": "game",
    "jumanji:SearchAndRescue-v0": None,
    "jumanji:CVRP-v1": "game",
    "jumanji:Cleaner-v0": "game",
    "jumanji:FlatPack-v0": "game",
    "jumanji:GraphColoring-v1": "game",
    "jumanji:MMST-v0": "game",
    "jumanji:PacMan-v1": "game",
    "jumanji:RobotWarehouse-v0": None,
    "jumanji:RubiksCube-v0": None,
    "jumanji:SlidingTilePuzzle-v0": None,
    "craftax:Craftax-Classic-Symbolic-v1": None,
    "craftax:Craftax-Symbolic-v1": None,
    "playground:CartpoleBalance": None,
    "playground:PendulumSwingup": None,
    "playground:PointMass": None,
}
NOTHING_LEGAL = {"jumanji:FlatPack-v0", "jumanji:MMST-v0"}  # before the end, at times
PACKAGES = {"playground": "mujoco_playground"}
CASES = [
    pytest.param(each, marks=pytest.mark.slow if each == "xminigrid:MiniGrid-Empty-5x5" else pytest.mark.long)
    for each in ENDS
]


def needs(env_id):
    suite = env_id.split(":")[0]
    pytest.importorskip(PACKAGES.get(suite, suite))


def legal(space, observation, rng):
    """An action at random among those that the mask, if any, allows, and whether there is any."""
    if isinstance(space, spaces.Box):
        return rng.uniform(space.low, space.high).astype(space.dtype), True
    sizes = [space.n] if isinstance(space, spaces.Discrete) else list(space.nvec)
    mask = np.ones(sum(sizes), bool)
    if isinstance(observation, dict) and "action_mask" in observation:
        mask = np.asarray(observation["action_mask"], bool)
    parts = np.split(mask, np.cumsum(sizes)[:-1])
    chosen = [rng.choice(np.flatnonzero(part)) if part.any() else 0 for part in parts]
    action = np.int32(chosen[0]) if isinstance(space, spaces.Discrete) else np.array(chosen, np.int32)
    return action, all(part.any() for part in parts)


def same(x, y):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), x, y)))


@pytest.mark.parametrize("env_id", CASES)
def test_an_episode_from_its_start_to_the_next_ones(env_id):
    needs(env_id)
    with jax.numpy_rank_promotion("allow"):
        environment, rng = resolve(env_id), np.random.default_rng(0)
        space = environment.observation_space
        reset, step, free = map(jax.jit, (environment.reset, environment.step, environment.step_without_reset))
        seen = lambda observation: jax.device_get(canonical(space, observation, "observation"))  # noqa: E731
        observation, state = reset(jax.random.key(0))
        observation, ends = seen(observation), set()
        for number in range(STEPS):
            assert space.contains(as_space(space, observation)), observation
            action, possible = legal(environment.action_space, observation, rng)
            assert possible or (number and env_id in NOTHING_LEGAL)
            assert environment.action_space.contains(as_space(environment.action_space, action))
            key = jax.random.key(number)
            result, alone = step(key, state, action), free(jax.random.split(key)[0], state, action)
            final, observation = seen(result.final_observation), seen(result.observation)
            assert same(final, seen(alone.observation))
            assert same((result.reward, result.terminated, result.truncated), alone[2:5])
            assert np.isfinite(result.reward)
            assert not (result.terminated & result.truncated)
            done = bool(result.terminated | result.truncated)
            begun = reset(jax.random.split(key)[1]) if done else (alone.observation, alone.state)
            assert same(observation, seen(begun[0]))
            assert same(*(jax.tree.leaves(plain(each)) for each in (result.state, begun[1])))
            ends |= {name for name in ("terminated", "truncated") if getattr(result, name)}
            state = result.state
        wanted = {None: [set()], "game": [{"terminated"}], "time": [{"truncated"}]}
        assert ends in wanted.get(ENDS[env_id], [{"terminated"}, {"truncated"}, {"terminated", "truncated"}]), ends
        assert step._cache_size() <= 2  # reset may return weaker types than a step


def plain(state):
    """Keys as their numbers."""
    is_key = lambda x: isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)


def as_space(space, value):
    if isinstance(space, spaces.Dict):
        return {name: as_space(child, value[name]) for name, child in space.spaces.items()}
    return np.asarray(value).astype(space.dtype) if space.shape else space.dtype.type(value)


@pytest.mark.parametrize("env_id", CASES)
def test_two_updates(env_id):
    needs(env_id)
    with jax.numpy_rank_promotion("allow"):
        settings = {"num_envs": 4, "num_steps": 8, "hidden_sizes": (8,), "critic": "gauss_newton", "critic_epochs": 1}
        trainer = jtrpo.make_trainer(jtrpo.TrainConfig(env_id, **settings))
        step = jax.jit(trainer.step)
        state = jax.jit(trainer.init)(jax.random.key(0))
        for _ in range(2):
            state, metrics = step(state)
        assert step._cache_size() == 1
        assert metrics.samples.invalid == 0
        assert float(metrics.policy.kl) <= float(metrics.hyperparams.max_kl)


@pytest.mark.slow
def test_what_is_there_already_is_adapted_alone_or_with_its_parameters():
    xminigrid = pytest.importorskip("xminigrid")
    env, params = xminigrid.make("XLand-MiniGrid-R1-9x9")
    assert resolve(env).max_episode_steps == 243
    assert resolve((env, params.replace(max_steps=7))).max_episode_steps == 7
    drawn = resolve((env, lambda key: params.replace(max_steps=5)))
    assert drawn.reset(jax.random.key(0))[0].shape == (5, 5, 25)
    jumanji = pytest.importorskip("jumanji")
    assert resolve(jumanji.make("Snake-v1", time_limit=9)).max_episode_steps == 9


def test_rule_sets_are_drawn_for_each_episode():
    xminigrid = pytest.importorskip("xminigrid")
    env, params = xminigrid.make("XLand-MiniGrid-R1-9x9", max_steps=3)
    goals = jnp.tile(params.ruleset.goal, (2, 1)).at[1, 0].add(1)

    def draw(key):
        goal = goals[jax.random.bernoulli(key).astype(int)]
        return params.replace(ruleset=params.ruleset.replace(goal=goal))

    environment = resolve((env, draw))
    step, (_, state), seen = jax.jit(environment.step), environment.reset(jax.random.key(0)), []
    for number in range(40):
        before, result = state, step(jax.random.key(number), state, np.int32(0))
        state = result.state
        changed = not np.array_equal(before.state.goal_encoding, state.state.goal_encoding)
        assert not changed or bool(result.truncated | result.terminated)  # never within an episode
        seen.append(int(state.state.goal_encoding[0]))
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("xminigrid:MiniGrid-Empty-5x6", "is not an environment of XLand-MiniGrid; did you mean MiniGrid-Empty-"),
        ("jumanji:Snak-v1", "is not an environment of Jumanji; did you mean Snake-v1"),
        ("craftax:Craftax-v1", "is not an environment of Craftax; did you mean Craftax-"),
        ("playground:CartpoleBalanc", "is not an environment of MuJoCo Playground; did you mean CartpoleBalance"),
    ],
)
def test_the_nearest_names_are_told(env_id, words):
    needs(env_id)
    with pytest.raises(ValueError, match=words):
        jtrpo.TrainConfig(env_id)


def test_a_suite_that_is_not_known_is_told_with_those_that_are():
    with pytest.raises(ValueError, match="'jumanij:Snake-v1' is of no suite that jtrpo knows; there are atari:, brax:"):
        jtrpo.TrainConfig("jumanij:Snake-v1")


@pytest.mark.parametrize("suite", ["brax", "craftax", "jumanji", "playground", "xminigrid", "atari"])
def test_a_suite_that_is_not_installed_is_told_with_its_extra(suite, monkeypatch):
    package = {"playground": "mujoco_playground", "atari": "ale_py.vector_env", "craftax": "craftax.craftax_env"}
    monkeypatch.setitem(__import__("sys").modules, package.get(suite, suite), None)
    names = {"craftax": "Craftax-Symbolic-v1"}
    with pytest.raises(ValueError, match=rf'needs .*: pip install "jtrpo\[{suite}\]"'):
        jtrpo.TrainConfig(f"{suite}:{names.get(suite, 'any')}")


def test_craftax_that_resets_itself_is_refused():
    pytest.importorskip("craftax")
    from craftax.craftax_env import make_craftax_env_from_name

    with pytest.raises(ValueError, match="must not reset itself: make it with auto_reset=False"):
        jtrpo.TrainConfig(make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=True))


def test_wrappers_that_reset_are_refused():
    xminigrid, jumanji = pytest.importorskip("xminigrid"), pytest.importorskip("jumanji")
    from jumanji.wrappers import AutoResetWrapper
    from xminigrid.wrappers import GymAutoResetWrapper

    env, params = xminigrid.make("MiniGrid-Empty-5x5")
    for given in ((GymAutoResetWrapper(env), params), AutoResetWrapper(jumanji.make("Snake-v1"))):
        with pytest.raises(ValueError, match="must not reset itself: leave the wrapper out"):
            jtrpo.TrainConfig(given)


def test_pictures_of_a_grid_are_refused():
    xminigrid = pytest.importorskip("xminigrid")
    from xminigrid.experimental.img_obs import RGBImgObservationWrapper

    env, params = xminigrid.make("MiniGrid-Empty-5x5")
    with pytest.raises(ValueError, match=r"must show a grid of cells; .* use no wrapper"):
        jtrpo.TrainConfig((RGBImgObservationWrapper(env), params))


@pytest.mark.long
def test_death_ends_a_world_of_craftax_and_time_cuts_it_off():
    pytest.importorskip("craftax")
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    environment = resolve((env, env.default_params.replace(max_timesteps=3)))
    assert isinstance(environment, ResettingEnvironment)
    step, (_, state) = jax.jit(environment.step_without_reset), environment.reset(jax.random.key(0))
    for _ in range(3):
        result = step(jax.random.key(1), state, np.int32(0))
        state = result.state
    assert (bool(result.terminated), bool(result.truncated)) == (False, True)
    dying = environment.reset(jax.random.key(0))[1].replace(player_health=jnp.int32(0))
    result = step(jax.random.key(1), dying, np.int32(0))
    assert (bool(result.terminated), bool(result.truncated)) == (True, False)


@pytest.mark.parametrize("prefix", SUITES)
def test_a_saved_run_names_its_suite_without_importing_what_a_file_says(prefix):
    settings = describe(jtrpo.TrainConfig("CartPole-v1"))
    for name, words in (
        (f"{prefix}nothing-v99", "nothing-v99.*(is not an environment|needs)"),
        (f"{prefix}os:Id", "module"),
    ):
        with pytest.raises(ValueError, match=words):
            config_of(settings | {"env": name}, None, {})
