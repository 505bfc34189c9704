"""A vector of environments on the host, whichever way it begins its next episodes."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from jaxtyping import Bool, Float, PyTree

from jtrpo.envs import envpool
from jtrpo.envs.check import canonical
from jtrpo.envs.resetting import comes_from
from jtrpo.envs.velocity import SpeedCost


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """How a vector environment begins its next episodes.

    Raises:
        ValueError: it does not say.
    """
    # The attribute first: Gymnasium writes the metadata into a dictionary that all environments of a class share.
    mode = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        raise ValueError(
            f"env: {env} must say how it resets, by metadata['autoreset_mode'], a gymnasium.vector.AutoresetMode; got {mode!r}"
        ) from error


def renews_some(env: VectorEnv) -> bool:
    """Whether a vector environment can begin some of its episodes anew while the others go on."""
    return (
        autoreset_mode(env) is AutoresetMode.DISABLED
        or isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        or envpool.is_envpool(env)
        or comes_from(env.unwrapped, "ale_py")
    )


class HostStep(NamedTuple):
    """One step of ``N`` environments.

    Attributes:
        observation: what the policy sees next, ``[N, ...]`` each.
        reward: ``[N]``.
        terminated: the episode ended by itself.
        truncated: the episode was cut off.
        final_observation: what really followed the action, before any reset.
        acted: whether the environment took the action; not where it only began its next episode.
        metrics: the numbers of ``info`` that are asked for, ``[N]`` each; zero where an environment gave none.
        cost: likewise; ``()`` unless asked for.
    """

    observation: PyTree
    reward: Float[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]
    final_observation: PyTree
    acted: Bool[np.ndarray, " N"]
    metrics: Mapping[str, Float[np.ndarray, " N"]] = {}  # never written to
    cost: Any = ()


class HostVector:
    """A vector environment whose three autoreset modes look the same, but for ``acted``.

    ``SAME_STEP``: the final observation comes in ``info["final_obs"]``. ``NEXT_STEP``: it comes by itself, and the step after it
    ignores its action and only begins the next episode. ``DISABLED``: it comes by itself, and the environments that ended are
    reset through ``options={"reset_mask": ...}`` at once.

    Args:
        env: the vector environment.
        metrics: names of the numbers of ``info`` to hand over.
        cost: name of the one that is a cost, or what makes one of some; ``None``: there is none.

    Attributes:
        seeded_when_made: whether ``reset`` takes no seed: for another, the environments must be made anew.
    """

    def __init__(self, env: VectorEnv, metrics: tuple[str, ...] = (), cost: "str | SpeedCost | None" = None):
        self.env, self.mode = env, autoreset_mode(env)
        self.metrics, self.cost = metrics, cost
        self.num_envs = env.num_envs
        self.seeded_when_made = envpool.is_envpool(env.unwrapped)
        self._renews_some = renews_some(env)
        self._observation: PyTree = ()
        self._plain = _plain_numbers(env.single_observation_space)
        self._begins = np.zeros(env.num_envs, bool)
        self._has_lives = comes_from(env.unwrapped, "ale_py")
        _keep_digits(env.unwrapped, self._asked())

    def _asked(self) -> set[str]:
        """Names of the numbers of ``info`` that are asked for."""
        return {*self.metrics, *self._costs()}

    def _costs(self) -> tuple[str, ...]:
        return self.cost.of if isinstance(self.cost, SpeedCost) else () if self.cost is None else (self.cost,)

    def check_names(self, seed: int) -> None:
        """Play at random until each number that is asked for has come; before training, which resets the environments.

        Raises:
            ValueError: one that had not come when an episode had ended, or after 1,000 steps.
        """
        asked = self._asked()
        seen: dict[str, None] = {}
        one = copy.deepcopy(self.env.single_action_space)
        one.seed(seed)
        observation = self.reset(seed) if asked else ()
        for _ in range(1000 if asked else 0):
            each = [_sample(one, _mask_of(observation, i)) for i in range(self.num_envs)]
            action = concatenate(one, each, create_empty_array(one, self.num_envs))
            observation, _, terminated, truncated, info = self.env.step(action)
            observation = self._canonical(observation)
            every = {**info, **info.get("final_info", {})}
            seen |= {name: None for name, x in every.items() if name[:1] != "_" and _is_numbers(x, self.num_envs)}
            if asked <= set(seen) or (np.any(terminated) or np.any(truncated)):
                break
        for name in sorted(asked - set(seen)):
            setting = "env_cost" if name in self._costs() else "env_metrics"
            given = ", ".join(seen) or "none"
            raise ValueError(f"{setting} names {name!r}, which the info of {self.env} does not give; it gives {given}")

    @property
    def acts(self) -> Bool[np.ndarray, " N"]:
        """Which environments take the next action; the others only begin an episode."""
        return ~self._begins

    def reset(self, seed: int) -> PyTree:
        """Begin an episode in every environment; return the observations.

        Raises:
            ValueError: observations that are not of the observation space.
        """
        observation, _ = self.env.reset() if self.seeded_when_made else self.env.reset(seed=seed)
        self._begins[:] = False
        self._observation = self._canonical(observation, "observation at reset")
        return self._observation

    def step(self, action: PyTree) -> HostStep:
        """Act once in every environment.

        Raises:
            ValueError: an episode's end in ``SAME_STEP`` mode without ``info["final_obs"]``, or numbers of another shape than one
                for each environment.
        """
        acted = self.acts
        given, *numbers, info = self.env.step(action)
        observation = final = self._canonical(given)
        reward, terminated, truncated = map(np.asarray, numbers)
        for name, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            if value.shape != acted.shape:
                raise ValueError(
                    f"{name} of {self.env} must have shape {acted.shape}, one number each; got {value.shape}"
                )
        terminated, truncated = terminated.astype(bool) & acted, truncated.astype(bool) & acted
        done = terminated | truncated
        self._begins = np.zeros_like(done)
        if self.mode is AutoresetMode.NEXT_STEP:
            self._begins = done
            if self._has_lives and "lives" in info:  # the game goes on after a lost life: the next step acts
                self._begins = done & (truncated | (np.asarray(info["lives"]) <= 0))
        elif done.any() and self.mode is AutoresetMode.SAME_STEP:
            final = self._with_final(observation, done, info)
        elif done.any():
            final = jax.tree.map(np.copy, observation)  # the reset may write into the same memory
            observation, _ = self.reset_where(done)
        self._observation = observation
        metrics = {name: self._number(name, info, done) for name in self.metrics}
        cost: Any = ()
        if isinstance(self.cost, SpeedCost):
            cost = self.cost(*(self._number(name, info, done) for name in self.cost.of))
        elif self.cost is not None:
            cost = self._number(self.cost, info, done)
        return HostStep(observation, reward, terminated, truncated, final, acted, metrics, cost)

    def _number(self, name: str, info: dict, done: Bool[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        number = _number_in(info, name, self.num_envs)
        if self.mode is AutoresetMode.SAME_STEP:  # where an episode ended, info is already that of the next one
            number = np.where(done, _number_in(info.get("final_info", {}), name, self.num_envs), number)
        return number

    def reset_where(self, which: Bool[np.ndarray, " N"]) -> tuple[PyTree, Bool[np.ndarray, " N"]]:
        """Begin new episodes in some environments, or in all where the vector cannot do so in some.

        Returns:
            ``(observation, which)``, the observations of all and the environments that begin anew.
        """
        if not self._renews_some:
            which = np.ones_like(which)
        self._begins = self._begins & ~which
        options = {"reset_mask": which.copy()} if self._renews_some else None
        observation = self._canonical(self.env.reset(options=options)[0])
        if envpool.is_envpool(self.env):  # which shows only those that begin anew
            some, observation = observation, jax.tree.map(np.copy, self._observation)
            jax.tree.map(lambda into, part: into.__setitem__(which, part), observation, some)
        self._observation = observation
        return observation, which

    def _with_final(self, observation: PyTree, done: Bool[np.ndarray, " N"], info: dict) -> PyTree:
        if "final_obs" not in info:
            raise ValueError(
                f"{self.env} resets in the same step, so an episode's end must come with info['final_obs']"
            )
        final = jax.tree.map(np.copy, observation)
        given = info["final_obs"]
        for i in np.flatnonzero(done):
            one = jax.tree.map(lambda x, i=i: x[i], given) if isinstance(given, Mapping) else given[i]
            one = canonical(self.env.single_observation_space, one, "info['final_obs']", np)
            jax.tree.map(lambda into, one, i=i: into.__setitem__(i, one), final, one)
        return final

    def _canonical(self, observation: PyTree, name: str = "observation") -> PyTree:
        # What `canonical` would say, for what is most frequent and as it should be.
        if self._plain is not None and isinstance(observation, np.ndarray):
            shape, kind = self._plain
            if observation.dtype.kind == "f" and observation.shape[1:] == shape:
                return observation.astype(kind, copy=False)
        return canonical(self.env.single_observation_space, observation, name, np, batch=1)


def _plain_numbers(space: spaces.Space) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape, and type among JAX's, of observations that are one array of floating-point numbers."""
    if not isinstance(space, spaces.Box) or np.dtype(space.dtype).kind != "f":
        return None
    return space.shape, np.dtype(jax.dtypes.canonicalize_dtype(space.dtype))


def _keep_digits(env: VectorEnv, names: set[str]) -> None:
    """Let Gymnasium keep numbers of ``info`` as float64.

    It makes an array of the type of the first environment's number, so that 0.7 becomes 0 beside the 0 of another environment,
    and of objects for a ``numpy.bool_``.
    """
    add_info: Any = getattr(type(env), "_add_info", None)
    kinds = (bool, int, float, np.number, np.bool_)

    def add(infos: dict, info: dict, number: int) -> dict:
        exact = {name: float(info[name]) for name in names & info.keys() if isinstance(info[name], kinds)}
        return add_info(env, infos, info | exact, number)

    if names and add_info is not None:
        setattr(env, "_add_info", add)  # noqa: B010


def _mask_of(observation: PyTree, number: int) -> PyTree:
    """The action mask of one environment; ``None`` where there is none."""
    mask = observation.get("action_mask") if isinstance(observation, Mapping) else None
    return jax.tree.map(lambda x: np.asarray(x[number], np.int8), mask)


def _sample(space: spaces.Space, mask: PyTree) -> PyTree:
    """A random action that the mask allows."""
    if isinstance(space, spaces.Dict):
        return {name: _sample(child, (mask or {}).get(name)) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(
            _sample(child, part) for child, part in zip(space.spaces, mask or [None] * len(space), strict=True)
        )
    if isinstance(mask, np.ndarray) and isinstance(space, spaces.Discrete):
        return space.sample(mask)
    if isinstance(mask, np.ndarray) and isinstance(space, spaces.MultiDiscrete):
        parts = np.split(mask, np.cumsum(space.nvec.ravel())[:-1])
        return np.reshape([spaces.Discrete(len(part)).sample(part) for part in parts], space.shape)
    return space.sample()


def _is_numbers(value: Any, num_envs: int) -> bool:
    array = np.asarray(value)
    return array.shape == (num_envs,) and array.dtype.kind in "biuf"


def _number_in(info: dict, name: str, num_envs: int) -> Float[np.ndarray, " N"]:
    if name not in info or not _is_numbers(info[name], num_envs):
        return np.zeros(num_envs)
    return np.where(info.get(f"_{name}", True), np.asarray(info[name], float), 0.0)
