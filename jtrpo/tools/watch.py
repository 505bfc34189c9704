"""A policy at work, as an animated picture."""

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from gymnasium import spaces
from jaxtyping import Float, PRNGKeyArray, PyTree

from jtrpo.envs.actions import environment_action
from jtrpo.envs.check import check_reset, check_step
from jtrpo.envs.gymnasium import PREFIX, HostEnvironment
from jtrpo.envs.gymnax import DrawnState, GymnaxEnvironment
from jtrpo.envs.velocity import velocity_task
from jtrpo.tools.fingerprint import environment_name
from jtrpo.tools.policy import to_numpy
from jtrpo.training.agent import Learned, make_agent
from jtrpo.training.config import TrainConfig
from jtrpo.training.keys import held_keys
from jtrpo.training.normalization import RunningStatistics

_MOST_FRAMES = 200
_MILLISECONDS = 50
_SUFFIXES = (".gif", ".webp", ".png")
_CLASSIC = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")
_BY_GYMNAX = (  # drawn by gymnax's visualiser
    "Asterix-MinAtar", "Breakout-MinAtar", "Freeway-MinAtar", "SpaceInvaders-MinAtar",
    "Catch-bsuite", "FourRooms-misc", "MetaMaze-misc", "PointRobot-misc", "Pong-misc",
)  # fmt: skip
_NOT_DRAWN = (
    "{!r} cannot be drawn: its observations are no images. Give the environment a method `render(state)` that returns a picture, "
    "[height, width, 3] of uint8"
)


class Episode(NamedTuple):
    """One episode; ``T`` steps.

    Attributes:
        states: the environment's, before each step, ``[T, ...]`` each.
        observations: likewise.
        returns: undiscounted return up to and with each step, ``[T]``.
        finished: whether it came to its end.
        pictures: by step, of environments on the host, which draw themselves while they run; else none.
    """

    states: PyTree
    observations: PyTree
    returns: Float[np.ndarray, " T"]
    finished: bool
    pictures: dict[int, np.ndarray] = {}  # noqa: RUF012 # never written to


def play(
    config: TrainConfig, state: Learned, key: PRNGKeyArray, *, deterministic: bool = True, most_steps: int = 1000
) -> Episode:
    """Play one episode with the policy of a training; see :func:`player` for several.

    Args:
        config: of the training.
        state: of the training.
        key: consumed.
        deterministic: act by the distributions' modes.
        most_steps: where to cut an episode that does not end.

    Raises:
        ValueError: vector environments on the host, which cannot be drawn; only Gymnasium's ids can.
    """
    return player(config, deterministic=deterministic, most_steps=most_steps)(state, key)


def player(
    config: TrainConfig, *, deterministic: bool = True, most_steps: int = 1000
) -> Callable[[Learned, PRNGKeyArray], Episode]:
    """Build ``(state, key) -> Episode``, which compiles once for all states of a training.

    Raises:
        ValueError: as for :func:`play`.
    """
    environment, agent = config.environment, make_agent(config)
    if isinstance(environment, HostEnvironment):
        return _player_on_host(config, deterministic, most_steps)

    def step(state: Learned, carry: tuple, keys: tuple) -> tuple[tuple, tuple]:
        (observation, env_state, memory), (action_key, env_key) = carry, keys
        distribution, memory = agent.policy(state, jax.tree.map(lambda x: x[None], observation), memory)
        action = distribution.mode() if deterministic else distribution.sample(action_key)
        action = jax.tree.map(lambda x: x[0], environment_action(environment.action_space, action, config.squash))
        result = environment.step(env_key, env_state, action)
        result = check_step(environment.observation_space, env_state, observation, result)
        seen = (env_state, observation, result.reward, result.terminated | result.truncated)
        return (result.observation, result.state, memory), seen

    @jax.jit
    def rollout(state: Learned, key: PRNGKeyArray) -> tuple:
        reset_key, key = jax.random.split(key)
        action_key, env_key = jax.random.split(key)
        keys = (held_keys(action_key, most_steps, config.noise_interval), jax.random.split(env_key, most_steps))
        start = (*check_reset(environment.observation_space, environment.reset(reset_key)), agent.empty_memory(1))
        return jax.lax.scan(partial(step, state), start, keys)[1]

    def play(state: Learned, key: PRNGKeyArray) -> Episode:
        states, observations, reward, done = jax.device_get(rollout(learned(state), key))
        length = int(np.argmax(done)) + 1 if done.any() else most_steps
        states, observations = jax.tree.map(lambda x: x[:length], (states, observations))
        return Episode(states, observations, np.cumsum(reward[:length]), bool(done.any()))

    return play


def learned(state: Learned) -> Learned:
    """What an agent acts on, on the host: the rest of a training's state may be large, or on other hosts."""
    return _Learned(*jax.device_get([getattr(state, name) for name in _Learned._fields]))


class _Learned(NamedTuple):
    policy_params: PyTree
    critic_params: PyTree
    observation_statistics: RunningStatistics
    target_statistics: RunningStatistics


def _player_on_host(
    config: TrainConfig, deterministic: bool, most_steps: int
) -> Callable[[Learned, PRNGKeyArray], Episode]:
    if not isinstance(config.env, str) or not config.env.startswith(PREFIX):
        raise ValueError(
            f"{environment_name(config)} cannot be drawn; watch its policy in an environment by an id of Gymnasium with the same "
            "spaces, env='gymnasium:...'"
        )
    env_id = config.env.removeprefix(PREFIX)
    env_id, cost = velocity_task(env_id) or (env_id, None)
    agent, space = make_agent(config), config.environment.action_space
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")  # without it MuJoCo needs a screen

    @jax.jit
    def act(state: Learned, observation: PyTree, memory: PyTree, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        distribution, memory = agent.policy(state, jax.tree.map(lambda x: x[None], observation), memory)
        action = environment_action(
            space, distribution.mode() if deterministic else distribution.sample(key), config.squash
        )
        return jax.tree.map(lambda x: x[0], action), memory

    def play(state: Learned, key: PRNGKeyArray) -> Episode:
        state = learned(state)
        with warnings.catch_warnings():
            if cost is not None:  # the task is of that version
                warnings.filterwarnings("ignore", ".*is out of date")
            environment: Any = gymnasium.make(env_id, render_mode="rgb_array")
        reset_key, key = jax.random.split(key)
        observation, _ = environment.reset(seed=int(jax.random.randint(reset_key, (), 0, 2**30)))
        memory, returns, pictures, every, done = agent.empty_memory(1), [0.0], {}, 1, False
        while not done and len(returns) <= most_steps:
            step = len(returns) - 1
            if step % every == 0:
                pictures[step] = environment.render()
            if len(pictures) > _MOST_FRAMES:  # an episode's length is not known beforehand
                every *= 2
                pictures = {step: picture for step, picture in pictures.items() if step % every == 0}
            noise_key = jax.random.fold_in(key, step // config.noise_interval)
            action, memory = act(state, jax.tree.map(np.asarray, observation), memory, noise_key)
            observation, reward, terminated, truncated, _ = environment.step(to_numpy(space, action))
            returns.append(returns[-1] + float(reward))
            done = terminated or truncated
        environment.close()
        return Episode((), (), np.array(returns[1:]), done, pictures)

    return play


def check_drawable(config: TrainConfig) -> None:
    """Raise where :func:`save_animation` could not draw the environment.

    Raises:
        ImportError: classic control, and its drawing package is missing.
        ValueError: nothing draws it.
    """
    environment = config.environment
    if isinstance(environment, HostEnvironment):
        _player_on_host(config, deterministic=True, most_steps=1)
        return
    name = environment.env.name if isinstance(environment, GymnaxEnvironment) else None
    space = environment.observation_space
    images = isinstance(space, spaces.Box) and len(space.shape) in (2, 3)
    if callable(getattr(environment, "render", None)) or name in _BY_GYMNAX:
        return
    if name in _CLASSIC:
        _import_pygame()
    elif not images:
        raise ValueError(_NOT_DRAWN.format(environment))


def check_animation(name: str, file: Path) -> None:
    """Raise ``ValueError`` where the file's suffix is not that of an animated picture."""
    if file.suffix not in _SUFFIXES:
        raise ValueError(f"{name}={str(file)!r} must end with {', '.join(_SUFFIXES)}")


def save_animation(config: TrainConfig, episode: Episode, file: Path) -> None:
    """Write an episode as an animated picture of at most 200 frames, evenly spread, 20 a second.

    Drawn by the environment's own ``render(state) -> [H, W, 3]`` (``uint8``) where it has one; classic control, and Gymnasium's
    ids, as Gymnasium draws them; what gymnax's visualiser knows by that; and else from observations that are images.

    Args:
        config: of the training.
        episode: what to draw.
        file: ``.gif``, ``.webp`` or ``.png``.

    Raises:
        ImportError: classic control, and its drawing package is missing.
        ValueError: the environment cannot be drawn, or the file's suffix is of another kind.
    """
    from PIL import Image

    check_animation("file", file)
    draw = _renderer(config.environment, episode)
    length = len(episode.returns)
    steps = episode.pictures or range(0, length, -(-length // _MOST_FRAMES))
    first, *rest = [Image.fromarray(draw(step)) for step in steps]
    first.save(file, save_all=True, append_images=rest, duration=_MILLISECONDS, loop=0)


def _renderer(environment: Any, episode: Episode) -> Callable[[int], np.ndarray]:
    """``(step) -> [H, W, 3]``."""

    def state(step: int) -> PyTree:
        at = jax.tree.map(lambda x: x[step], episode.states)
        return at.state if isinstance(at, DrawnState) else at

    if episode.pictures:
        return _with_title(episode.pictures.__getitem__, episode)
    if callable(getattr(environment, "render", None)):
        return _with_title(lambda step: np.asarray(environment.render(state(step))), episode)
    name = environment.env.name if isinstance(environment, GymnaxEnvironment) else None
    drawn = isinstance(episode.states, DrawnState)
    params = jax.tree.map(lambda x: x[0], episode.states.params) if drawn else getattr(environment, "params", None)
    if name in _CLASSIC:
        return _with_title(_classic_control(name, params, state), episode)
    if name in _BY_GYMNAX:
        return _by_gymnax(environment, params, state, episode)
    if isinstance(episode.observations, np.ndarray) and episode.observations.ndim in (3, 4):
        images = _images(episode.observations)
        return _with_title(lambda step: images[step], episode)
    raise ValueError(_NOT_DRAWN.format(environment))


def _classic_control(name: str, params: Any, state: Callable[[int], PyTree]) -> Callable[[int], np.ndarray]:
    """As gymnax's visualiser does it, but with one gymnasium environment for all frames: it makes one for each."""
    _import_pygame()
    from gymnax.visualize.vis_gym import get_gym_state, set_gym_params

    gymnasium_env: Any = gymnasium.make(name, render_mode="rgb_array")
    gymnasium_env.reset()
    set_gym_params(gymnasium_env.unwrapped, name, params)

    def draw(step: int) -> np.ndarray:
        at = state(step)
        gymnasium_env.unwrapped.state = get_gym_state(at, name)
        if name == "Pendulum-v1":
            gymnasium_env.unwrapped.last_u = float(at.last_u)
        return gymnasium_env.render()

    return draw


def _import_pygame() -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # SDL warns on machines without sound
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        import pygame  # noqa: F401
    except ImportError as error:
        raise ImportError("classic control is drawn by pygame: pip install 'jtrpo[watch]'") from error


def _by_gymnax(
    environment: GymnaxEnvironment, params: Any, state: Callable[[int], PyTree], episode: Episode
) -> Callable[[int], np.ndarray]:
    import matplotlib.pyplot as plt
    from gymnax.visualize import Visualizer

    states = [state(step) for step in range(len(episode.returns))]
    visualizer = Visualizer(environment.env, params, states, episode.returns)
    plt.close(visualizer.fig)  # no window is shown
    visualizer.init()

    def draw(step: int) -> np.ndarray:
        visualizer.update(step)
        return _pixels(visualizer.fig)

    return draw


def _images(observations: np.ndarray) -> np.ndarray:
    """Of observations ``[T, H, W]`` or ``[T, H, W, C]``; of many channels, which one is highest."""
    channels = observations.shape[-1] if observations.ndim == 4 else 1
    if observations.ndim == 4 and channels not in (3, 4):
        observations = (observations * np.arange(1, channels + 1)).max(axis=-1)
    return observations if observations.dtype == np.uint8 else observations / max(observations.max(), 1e-12)


def _with_title(picture: Callable[[int], np.ndarray], episode: Episode) -> Callable[[int], np.ndarray]:
    from matplotlib.figure import Figure

    first = picture(0)
    figure = Figure(figsize=(4.8, 4.8 * first.shape[0] / first.shape[1] + 0.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    image = axes.imshow(first, vmin=0, vmax=255 if first.dtype == np.uint8 else 1, interpolation="none")

    def draw(step: int) -> np.ndarray:
        image.set_data(picture(step))
        axes.set_title(f"step {step + 1}, return {episode.returns[step]:.2f}")
        return _pixels(figure)

    return draw


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
