"""The trainer for environments that are stepped in Python on the host: acting and learning are compiled, the loop is not."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jtrpo.envs.actions import environment_action
from jtrpo.envs.gymnasium import HostEnvironment, batch_example
from jtrpo.training.config import TrainConfig, check_config
from jtrpo.training.custom import try_own_functions
from jtrpo.training.episodes import EpisodeSummary, summarize
from jtrpo.training.evaluation import check_evaluate
from jtrpo.training.host.collect import collect_on_host, play_on_host
from jtrpo.training.host.environments import EpisodeCounts, LiveEnvironments
from jtrpo.training.hyperparams import Hyperparams, check_hyperparams
from jtrpo.training.keys import keys_for, one_key
from jtrpo.training.learner import Learner, make_learner
from jtrpo.training.reuse import empty_window
from jtrpo.training.rollout import RolloutState, Trajectory
from jtrpo.training.samples import mask_invalid
from jtrpo.training.state import Metrics, TrainState, check_state, step_keys
from jtrpo.training.trainer import Trainer, make_trainer


class HostTrainer(NamedTuple):
    """Three functions that train a policy, and one that compiles them ahead of time.

    ``init`` is pure. ``step`` and ``evaluate`` step environments, so they are neither jitted nor mapped; ``step`` goes on in the
    environments where the state before left them, and begins anew with any other state, such as one that was restored.

    Attributes:
        init: ``(key, hyperparams=Hyperparams()) -> TrainState``.
        step: ``(state) -> (state, Metrics)``: one update.
        evaluate: ``(state, key, num_episodes=128, *, deterministic=True, summary=False) -> returns``, undiscounted,
            ``[num_episodes]``, in environments of its own; with ``summary`` ``(returns, episodes)``.
        compile: ``() -> Metrics``: compile what ``step`` and ``evaluate`` call; return metrics that say nothing but their types.
        close: ``() -> None``: close the environments that the trainer made; those that it was given are their owner's.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState], tuple[TrainState, Metrics]]
    evaluate: Callable[..., Any]
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
        ValueError: an environment that is not on the host.
    """
    check_config(config)
    environment = config.environment
    if not isinstance(environment, HostEnvironment):
        raise ValueError(f"env={config.env!r} can be compiled as a whole: use jtrpo.make_train or jtrpo.make_trainer")
    training = _HostTraining(config, environment, make_learner(config))
    try_own_functions(config, training.update)
    return HostTrainer(training.init, training.step, training.evaluate, training.compile, training.close)


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


class _HostTraining:
    """A learner, and the environments on the host that it learns in."""

    def __init__(self, config: TrainConfig, environment: HostEnvironment, learner: Learner):
        self.config, self.environment, self.learner, self.agent = config, environment, learner, learner.agent
        lent = environment.lent
        own = (config.env_metrics, config.env_cost)
        self.live = LiveEnvironments(environment.make, lent[0], *own)
        self.live_evaluation = LiveEnvironments(environment.make_evaluation, lent[1], *own)
        # One jitted function for each trainer: jit looks up a new bound method by its whole object.
        self._act = jax.jit(self.act, static_argnames="deterministic")
        self._begin, self._learn = jax.jit(self.begin), jax.jit(learner.learn)

    def act(
        self,
        state: Any,
        observation: PyTree,
        memory: PyTree,
        key: PRNGKeyArray,
        step: Any,
        *,
        deterministic: bool = False,
    ) -> tuple[PyTree, PyTree, Array, PyTree]:
        distribution, memory = self.agent.policy(state, observation, memory)
        key = jax.random.fold_in(key, step // self.config.noise_interval)
        action = distribution.mode() if deterministic else distribution.sample(key)
        to_environment = environment_action(self.environment.action_space, action, self.config.squash)
        return action, distribution.log_prob(action), to_environment, memory

    def init(self, key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> TrainState:
        return jax.tree.map(jnp.copy, self._begin(one_key(key), check_hyperparams(hyperparams)))

    def begin(self, key: PRNGKeyArray, hyperparams: Hyperparams) -> TrainState:
        # Environments on the host do not give their states, so these are not part of a training's state.
        nothing: Any = ()
        memory = self.agent.empty_memory(self.config.num_envs)
        env_state = RolloutState(nothing, nothing, nothing, nothing, memory)
        observation = batch_example(self.environment.observation_space)
        state = self.learner.init(key, hyperparams, env_state, observation)
        if self.config.reuse > 1:
            example = jax.eval_shape(lambda state: mask_invalid(self.empty_trajectory(state)), state)
            state = state._replace(window=empty_window(example, self.config.reuse))
        return state

    def empty_trajectory(self, state: TrainState) -> Trajectory:
        """Room for one collection, in NumPy."""
        observation = batch_example(self.environment.observation_space, self.config.num_envs)
        action, log_prob, *_ = jax.eval_shape(
            self._act, _acting(state), observation, state.env_state.memory, state.key, 0
        )
        room = partial(jax.tree.map, lambda x: np.zeros((self.config.num_steps, *x.shape), x.dtype))
        number, flag = jax.ShapeDtypeStruct(log_prob.shape, log_prob.dtype), jax.ShapeDtypeStruct(log_prob.shape, bool)
        steps = (observation, action, number, number, flag, flag, observation)
        cost = () if self.config.env_cost is None else room(number)
        return Trajectory(*(room(each) for each in steps))._replace(memory=state.env_state.memory, cost=cost)

    def step(self, state: TrainState) -> tuple[TrainState, Metrics]:
        check_state(state)
        state, trajectory, episodes = self.collect(state, step_keys(state)[1])
        state, metrics = self._learn(state, trajectory, episodes)
        self.live.belong_to(state)
        return state, metrics

    def collect(self, state: TrainState, key: PRNGKeyArray) -> tuple[TrainState, Trajectory, EpisodeSummary]:
        action_key, reset_key = jax.random.split(key)
        if not self.live.claimed_by(state):
            state = self.reset(state, reset_key)
        policy, update = partial(self._act, _acting(state), key=action_key), int(state.update)
        trajectory, episodes, memory, unseen_end = collect_on_host(
            self.live, policy, self.empty_trajectory(state), update, self.environment.max_episode_steps
        )
        running = jnp.where(unseen_end, 0.0, state.discounted_return)
        env_state = state.env_state._replace(memory=memory)
        return state._replace(env_state=env_state, discounted_return=running), trajectory, episodes

    def reset(self, state: TrainState, key: PRNGKeyArray) -> TrainState:
        if state.update > 0:
            logging.getLogger("jtrpo").warning(
                "environments on the host are not part of what is saved: %s begins anew after update %d",
                self.environment,
                state.update,
            )
        self.live.begin(key, self.config.num_envs, check_names=True)
        env_state = state.env_state._replace(memory=self.agent.empty_memory(self.config.num_envs))
        return state._replace(env_state=env_state, discounted_return=jnp.zeros_like(state.discounted_return))

    def evaluate(
        self,
        state: TrainState,
        key: PRNGKeyArray,
        num_episodes: int = 128,
        *,
        deterministic: bool = True,
        max_steps: int = 10_000,
        summary: bool = False,
    ) -> Any:
        check_evaluation(self.environment)
        check_evaluate(state, num_episodes, deterministic, max_steps, summary)
        action_key, reset_key = keys_for(key, "evaluation", "evaluation environments")
        self.live_evaluation.begin(reset_key, self.config.num_envs)
        policy = partial(self._act, _acting(state), key=action_key, deterministic=deterministic)
        played = play_on_host(self.live_evaluation, policy, self.agent.empty_memory, num_episodes, max_steps)
        returns = np.asarray(played.return_sum, jax.dtypes.canonicalize_dtype(float))
        return (returns, jax.device_get(summarize(played))) if summary else returns

    def compile(self) -> Metrics:
        state = self.init(jax.random.key(0))
        observation = batch_example(self.environment.observation_space, self.config.num_envs)
        for deterministic in (False, True):
            self._act(_acting(state), observation, state.env_state.memory, state.key, 0, deterministic=deterministic)
        num_envs, cost = self.config.num_envs, self.config.env_cost
        episodes = EpisodeCounts(num_envs, self.config.env_metrics, cost is not None).summary()
        return self._learn(state, self.empty_trajectory(state), episodes)[1]

    def update(self, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        """The first one, on shapes alone."""
        state, nothing = self.begin(key, Hyperparams()), ()
        return self.learner.learn(state, self.empty_trajectory(state), nothing)  # type: ignore[arg-type]

    def close(self) -> None:
        self.live.close()
        self.live_evaluation.close()


def _acting(state: TrainState) -> TrainState:
    """The parts of a state that acting needs; the rest would only cost time at every step."""
    nothing: Any = ()
    kept = ("policy_params", "critic_params", "observation_statistics", "target_statistics")
    return TrainState(**{name: getattr(state, name) if name in kept else nothing for name in TrainState._fields})
