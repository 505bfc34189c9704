"""The trainer for environments that are stepped in Python on the host: acting and learning are compiled, the loop is not."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jtrpo.envs.actions import environment_action
from jtrpo.envs.gymnasium import HostEnvironment, HostStep, HostVector, batch_example
from jtrpo.training.agent import make_agent
from jtrpo.training.config import Hyperparams, TrainConfig, check_config, check_hyperparams
from jtrpo.training.keys import keys_for, one_key
from jtrpo.training.report import undefined
from jtrpo.training.reuse import empty_window
from jtrpo.training.rollout import EpisodeSummary, RolloutState, Trajectory, finite, forget, staggered
from jtrpo.training.samples import mask_invalid
from jtrpo.training.trainer import (
    Metrics,
    Trainer,
    TrainState,
    check_evaluate,
    check_state,
    make_learner,
    make_trainer,
    step_keys,
)

Act = Callable[..., tuple[PyTree, Float[Array, " N"], PyTree, PyTree]]
"""``(*, observation, memory, step) -> (action, log_prob, action for the environment, memory)``."""


class HostTrainer(NamedTuple):
    """Three functions that train a policy, and one that compiles them ahead of time.

    ``init`` is pure. ``step`` and ``evaluate`` step environments, so they are neither jitted nor mapped; ``step`` goes on in the
    environments where the state before left them, and begins anew with any other state, such as one that was restored.

    Attributes:
        init: ``(key, hyperparams=Hyperparams()) -> TrainState``.
        step: ``(state) -> (state, Metrics)``: one update.
        evaluate: ``(state, key, num_episodes=128, *, deterministic=True) -> returns``, undiscounted, ``[num_episodes]``, in
            environments of its own.
        compile: ``() -> Metrics``: compile what ``step`` and ``evaluate`` call; return metrics that say nothing but their types.
        close: ``() -> None``: close the environments that the trainer made; those that it was given are their owner's.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState], tuple[TrainState, Metrics]]
    evaluate: Callable[..., Float[np.ndarray, " num_episodes"]]
    compile: Callable[[], Metrics]
    close: Callable[[], None]


def trainer_for(config: TrainConfig) -> Trainer | HostTrainer:
    """The trainer for where the environments are: :func:`make_trainer` or :func:`make_host_trainer`."""
    check_config(config)
    return make_host_trainer(config) if isinstance(config.environment, HostEnvironment) else make_trainer(config)


def make_host_trainer(config: TrainConfig) -> HostTrainer:
    """Build the functions of a training in Gymnasium's environments.

        config = jtrpo.TrainConfig("gymnasium:Hopper-v5", total_timesteps=1_000_000, num_envs=2, num_steps=1024)
        trainer = jtrpo.make_host_trainer(config)
        state = trainer.init(jax.random.key(0))
        for _ in range(config.num_updates):
            state, metrics = trainer.step(state)

    Every update learns from ``num_steps`` steps of each environment. A vector environment in ``NEXT_STEP`` mode takes a step to
    begin an episode; that step is no sample, so the others go on meanwhile, and what an environment does beyond its
    ``num_steps`` is neither learned from nor counted.

    Args:
        config: static settings.

    Raises:
        ValueError: an environment that is not on the host, or a memory with ``NEXT_STEP`` mode.
    """
    check_config(config)
    environment = config.environment
    if not isinstance(environment, HostEnvironment):
        raise ValueError(f"env={config.env!r} can be compiled as a whole: use jtrpo.make_train or jtrpo.make_trainer")
    if config.memory is not None and environment.mode is AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"memory={config.memory!r} needs environments that reset in the same step: make {environment} with "
            "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP"
        )
    agent, learner = make_agent(config), make_learner(config)
    hold_noise = config.gsde_interval if config.box_distribution == "gsde" else 1
    learn = jax.jit(learner.learn)
    makers = (environment.make, environment.make_evaluation)
    training, evaluation = (LiveEnvironments(*each) for each in zip(makers, environment.lent, strict=True))

    to_environment = partial(environment_action, environment.action_space, squash=config.squash)

    @partial(jax.jit, static_argnames="deterministic")
    def act(
        state: Any, observation: PyTree, memory: PyTree, key: PRNGKeyArray, step: Any, *, deterministic: bool = False
    ) -> tuple[PyTree, PyTree, Array, PyTree]:
        distribution, memory = agent.policy(state, observation, memory)
        key = jax.random.fold_in(key, step // hold_noise)
        action = distribution.mode() if deterministic else distribution.sample(key)
        return action, distribution.log_prob(action), to_environment(action), memory

    def init(key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> TrainState:
        return jax.tree.map(jnp.copy, begin(one_key(key), check_hyperparams(hyperparams)))

    @jax.jit
    def begin(key: PRNGKeyArray, hyperparams: Hyperparams) -> TrainState:
        # The environments' own states cannot be had, so they are no part of a training's state.
        nothing: Any = ()
        env_state = RolloutState(nothing, nothing, nothing, nothing, agent.empty_memory(config.num_envs))
        state = learner.init(key, hyperparams, env_state, batch_example(environment.observation_space))
        if config.reuse > 1:
            example = jax.eval_shape(lambda state: mask_invalid(empty_trajectory(state)), state)
            state = state._replace(window=empty_window(example, config.reuse))
        return state

    def empty_trajectory(state: TrainState) -> Trajectory:
        """Room for one collection, in NumPy."""
        observation = batch_example(environment.observation_space, config.num_envs)
        action, log_prob, *_ = jax.eval_shape(act, _acting(state), observation, state.env_state.memory, state.key, 0)
        room = partial(jax.tree.map, lambda x: np.zeros((config.num_steps, *x.shape), x.dtype))
        number, flag = jax.ShapeDtypeStruct(log_prob.shape, log_prob.dtype), jax.ShapeDtypeStruct(log_prob.shape, bool)
        steps = (observation, action, number, number, flag, flag, observation)
        return Trajectory(*(room(each) for each in steps))._replace(memory=state.env_state.memory)

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        check_state(state)
        state, trajectory, episodes = collect_trajectories(state, step_keys(state)[1])
        state, metrics = learn(state, trajectory, episodes)
        training.give_to(state)
        return state, metrics

    def collect_trajectories(state: TrainState, key: PRNGKeyArray) -> tuple[TrainState, Trajectory, EpisodeSummary]:
        action_key, begin_key = jax.random.split(key)
        if not training.take_from(state):
            state = begin_anew(state, begin_key)
        policy, update = partial(act, _acting(state), key=action_key), int(state.update)
        trajectory, episodes, memory, unseen_end = collect_on_host(
            training, policy, empty_trajectory(state), update, environment.max_episode_steps
        )
        running = jnp.where(unseen_end, 0.0, state.discounted_return)
        env_state = state.env_state._replace(memory=memory)
        return state._replace(env_state=env_state, discounted_return=running), trajectory, episodes

    def begin_anew(state: TrainState, key: PRNGKeyArray) -> TrainState:
        if state.update > 0:
            logging.getLogger("jtrpo").warning(
                "environments on the host are not part of what is saved: %s begins anew after update %d",
                environment,
                state.update,
            )
        training.begin(key, config.num_envs)
        env_state = state.env_state._replace(memory=agent.empty_memory(config.num_envs))
        return state._replace(env_state=env_state, discounted_return=jnp.zeros_like(state.discounted_return))

    def evaluate(
        state: TrainState,
        key: PRNGKeyArray,
        num_episodes: int = 128,
        *,
        deterministic: bool = True,
        max_steps: int = 10_000,
    ) -> Float[np.ndarray, " num_episodes"]:
        check_evaluation(environment)
        check_evaluate(state, num_episodes, deterministic, max_steps)
        action_key, begin_key = keys_for(key, "evaluation", "evaluation environments")
        evaluation.begin(begin_key, config.num_envs)
        policy = partial(act, _acting(state), key=action_key, deterministic=deterministic)
        return play_on_host(evaluation, policy, agent.empty_memory, num_episodes, max_steps)

    def compile() -> Metrics:
        state = init(jax.random.key(0))
        observation = batch_example(environment.observation_space, config.num_envs)
        for deterministic in (False, True):
            act(_acting(state), observation, state.env_state.memory, state.key, 0, deterministic=deterministic)
        return learn(state, empty_trajectory(state), Episodes(config.num_envs).summary())[1]

    def close() -> None:
        training.close()
        evaluation.close()

    return HostTrainer(init, step, evaluate, compile, close)


def check_evaluation(environment: HostEnvironment) -> None:
    """Raise where there is nothing to evaluate on.

    Raises:
        ValueError: a vector environment that cannot be made a second time.
    """
    if environment.make_evaluation is None:
        raise ValueError(
            f"{environment} cannot be made a second time for evaluation: give TrainConfig(env=(vector environment, another for "
            "evaluation))"
        )


class LiveEnvironments:
    """Environments on the host and where they stand: the one thing here that changes in place.

    Args:
        make: ``(num_envs) -> VectorEnv``, called when they are needed.
        lent: whether they are another's to close.

    Attributes:
        vector: the environments.
        observation: what the policy sees next, ``[N, ...]`` each.
        episodes: those under way.
    """

    vector: HostVector | None
    observation: PyTree
    episodes: "Episodes"

    def __init__(self, make: Callable[[int], VectorEnv] | None, lent: bool = False):
        self._make, self._lent, self.vector = make, lent, None
        self._owner: np.ndarray | None = None

    def begin(self, key: PRNGKeyArray, num_envs: int) -> None:
        """Begin an episode in every environment; the key is consumed."""
        if self.vector is None:
            assert self._make is not None
            self.vector = HostVector(self._make(num_envs))
        self.observation = self.vector.reset(int(jax.random.randint(key, (), 0, 2**30)))
        self.episodes = Episodes(self.vector.num_envs)

    def step(self, action: PyTree) -> HostStep:
        """Act once in every environment."""
        assert self.vector is not None
        result = self.vector.step(action)
        self.observation = result.observation
        return result

    def renew(self, which: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Begin new episodes in some environments; return in which they really begin."""
        assert self.vector is not None
        self.observation, which = self.vector.renew(which)
        return which

    def close(self) -> None:
        """Close what was made here; it is made again when it is needed."""
        if self.vector is not None and not self._lent:
            self.vector.env.close()
        self.vector = self._owner = None

    def give_to(self, state: TrainState) -> None:
        """Stand where this state left them."""
        self._owner = np.asarray(jax.random.key_data(state.key))

    def take_from(self, state: TrainState) -> bool:
        """Whether they stand where this state left them; from now on, and if a step is broken off, they do not."""
        owner, self._owner = self._owner, None
        return owner is not None and np.array_equal(owner, jax.random.key_data(state.key))


class Episodes:
    """Returns and lengths of the episodes under way, and of those that finished since the last summary."""

    def __init__(self, num_envs: int):
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        self._finished: list[tuple[float, int]] = []

    def add(self, result: HostStep) -> None:
        """Count a step."""
        self.returns += np.where(result.acted, result.reward, 0.0)
        self.lengths += result.acted
        done = result.terminated | result.truncated
        self._finished += zip(self.returns[done], self.lengths[done], strict=True)
        self.forget(done)

    def forget(self, which: Bool[np.ndarray, " N"]) -> None:
        """Begin to count anew in some environments."""
        self.returns[which], self.lengths[which] = 0.0, 0

    def summary(self) -> EpisodeSummary:
        """What finished since the last summary."""
        finished, self._finished = self._finished, []
        returns, lengths = np.array(finished, float).reshape(-1, 2).T
        number = jax.dtypes.canonicalize_dtype(float).type
        some = [returns.mean(), returns.min(), returns.max(), lengths.mean()] if finished else [undefined()] * 4
        return EpisodeSummary(np.int32(len(finished)), *(number(each) for each in some))  # type: ignore[arg-type]


def collect_on_host(
    live: LiveEnvironments, act: Act, trajectory: Trajectory, update: int, max_episode_steps: int | None
) -> tuple[Trajectory, EpisodeSummary, PyTree, Bool[np.ndarray, " N"]]:
    """Fill a trajectory; each environment has a row of its own to write to next, since not every step is a sample.

    Args:
        live: the environments, which step on.
        act: the policy.
        trajectory: room for it, with the memory to begin with.
        update: its number, from 0.
        max_episode_steps: the time limit, for :func:`staggered`; ``None``: no first episode is cut.

    Returns:
        ``(trajectory, episodes, memory, unseen_end)``, the last where an episode ended after the trajectory did.
    """
    num_steps, num_envs = trajectory.reward.shape
    memory, row, step = trajectory.memory, np.zeros(num_envs, int), 0
    unseen_end = np.zeros(num_envs, bool)
    while row.min() < num_steps:
        action, log_prob, to_environment, memory = act(observation=live.observation, memory=memory, step=step)
        action, log_prob, to_environment = jax.device_get((action, log_prob, to_environment))
        before = jax.tree.map(np.copy, live.observation)  # an environment may write into the same memory
        result = live.step(to_environment)
        live.episodes.add(result)
        done = result.terminated | result.truncated
        memory = _forget(memory, done | ~result.acted, (before, action, log_prob))
        unseen_end |= done & (row == num_steps)
        sample = np.flatnonzero(result.acted & (row < num_steps))
        ends = (result.terminated, result.truncated)
        record = (before, action, log_prob, result.reward, *ends, result.final_observation)
        _write(trajectory, row, sample, record)
        row[sample] += 1
        step += bool(result.acted.any())
    cut = ~np.asarray(finite(live.observation, (num_envs,)))
    if max_episode_steps is not None and num_steps < max_episode_steps:
        cut |= np.asarray(staggered(trajectory, jnp.int32(update), max_episode_steps))
    cut &= ~np.asarray(trajectory.done[-1])
    if cut.any():
        cut = live.renew(cut)
        live.episodes.forget(cut)
        memory = _forget(memory, cut)
        np.asarray(trajectory.truncated)[-1] |= cut & ~np.asarray(trajectory.done[-1])  # in place: these are NumPy's
    return trajectory, live.episodes.summary(), memory, unseen_end


def _write(trajectory: Trajectory, row: np.ndarray, env: np.ndarray, record: tuple) -> None:
    pairs = zip(jax.tree.leaves(trajectory._replace(memory=())), jax.tree.leaves(record), strict=True)
    for into, one in pairs:
        into[row[env], env] = one[env]


def play_on_host(
    live: LiveEnvironments, act: Act, empty_memory: Callable[[int], PyTree], num_episodes: int, max_steps: int
) -> Float[np.ndarray, " num_episodes"]:
    """Undiscounted returns of whole episodes in environments that have just begun.

    Each environment plays a number of episodes that is fixed beforehand, so that short ones do not count more often.

    Args:
        live: the environments.
        act: the policy.
        empty_memory: ``(batch) -> memory`` for the first step of an episode.
        num_episodes: in all.
        max_steps: an episode that is still running then counts with its return so far.

    Source: Stable-Baselines3's ``evaluate_policy``,
    https://github.com/DLR-RM/stable-baselines3/blob/master/stable_baselines3/common/evaluation.py.
    """
    num_envs = len(live.episodes.returns)
    wanted = (num_episodes + np.arange(num_envs)) // num_envs
    played: list[list[float]] = [[] for _ in range(num_envs)]
    total, length = np.zeros(num_envs), np.zeros(num_envs, int)
    memory, step = empty_memory(num_envs), 0
    while any(len(returns) < most for returns, most in zip(played, wanted, strict=True)):
        *_, to_environment, memory = act(observation=live.observation, memory=memory, step=step)
        result = live.step(jax.device_get(to_environment))
        total += np.where(result.acted, result.reward, 0.0)
        length += result.acted
        done = result.terminated | result.truncated
        endless = ~done & (length >= max_steps)
        for env in np.flatnonzero(done | endless):
            if len(played[env]) < wanted[env]:
                played[env].append(float(total[env]))
        begun = done | (live.renew(endless) if endless.any() else endless)
        total[begun], length[begun] = 0.0, 0
        memory = _forget(memory, begun | ~result.acted)
        step += 1
    return np.array([each for returns in played for each in returns], jax.dtypes.canonicalize_dtype(float))


def _acting(state: TrainState) -> TrainState:
    """The parts of a state that acting needs; the rest would only cost time at every step."""
    nothing: Any = ()
    kept = ("policy_params", "critic_params", "observation_statistics", "target_statistics")
    return TrainState(**{name: getattr(state, name) if name in kept else nothing for name in TrainState._fields})


def _forget(memory: PyTree, done: Bool[np.ndarray, " N"], seen: PyTree = ()) -> PyTree:
    return _compiled_forget(memory, done, seen) if jax.tree.leaves(memory) else memory


@jax.jit
def _compiled_forget(memory: PyTree, done: Bool[Array, " N"], seen: PyTree) -> PyTree:
    return forget(memory, done | ~finite(seen, done.shape))
