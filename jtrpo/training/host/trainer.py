"""The trainer for environments that are stepped in Python on the host: acting and learning are compiled, the loop is not."""

import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Array, PRNGKeyArray, PyTree

from jtrpo.envs.actions import environment_action
from jtrpo.envs.gymnasium import HostEnvironment, batch_example
from jtrpo.training.config import TrainConfig, check_config
from jtrpo.training.constrained import check_cost_shape
from jtrpo.training.custom import try_own_functions
from jtrpo.training.episodes import EpisodeTotals, summarize
from jtrpo.training.evaluation import check_evaluate
from jtrpo.training.host.collect import Act, collect_on_host, play_on_host
from jtrpo.training.host.environments import EpisodeCounts, LiveEnvironments
from jtrpo.training.host.share import share_of
from jtrpo.training.hyperparams import Hyperparams, check_hyperparams
from jtrpo.training.keys import keys_for, one_key
from jtrpo.training.learner import Learner, make_learner
from jtrpo.training.packing import Packing
from jtrpo.training.reuse import empty_window
from jtrpo.training.rollout import RolloutState, Trajectory, expand, finite, reset_memory, staggered_resets
from jtrpo.training.samples import mask_invalid
from jtrpo.training.state import Metrics, TrainState, check_state, state_shardings, step_keys
from jtrpo.training.trainer import Trainer, make_trainer


class HostTrainer(NamedTuple):
    """Three functions that train a policy, one that compiles them ahead of time, and one that closes environments.

    ``init`` is pure. ``step`` and ``evaluate`` step environments, so they are neither jitted nor mapped; ``step`` goes on in the
    environments where the state before left them, and begins anew with any other state, such as one that was restored.

    Attributes:
        init: ``(key, hyperparams=Hyperparams()) -> TrainState``.
        step: ``(state) -> (state, Metrics)``: one update.
        evaluate: ``(state, key, num_episodes=128, *, deterministic=True, max_steps=10_000, summary=False) ->
            returns``, undiscounted, ``[num_episodes]``, in environments of its own; with ``summary`` ``(returns, episodes)``. An
            episode that is not over after ``max_steps`` counts as far as it came.
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

    On a mesh over several processes each steps an equal share of the ``num_envs`` environments, which is made here or is the
    vector that the process gives. ``step`` and ``evaluate`` are called in all of them.

    Args:
        config: static settings.

    Raises:
        ValueError: an environment that is not on the host.
    """
    check_config(config)
    environment = config.environment
    if not isinstance(environment, HostEnvironment):
        raise ValueError(f"env={config.env!r} can be compiled as a whole: use jtrpo.make_train or jtrpo.make_trainer")
    check_cost_shape(config, None if config.env_cost is None and environment.cost is None else ())
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
        self.share = share_of(config.mesh)
        self.num_envs = config.num_envs // self.share.count  # of this process
        lent = environment.lent
        self.cost = environment.cost if config.env_cost is None else config.env_cost
        own = (config.env_metrics, self.cost)
        self.live = LiveEnvironments(environment.make, lent[0], *own, config.max_episode_steps)
        self.live_evaluation = LiveEnvironments(environment.make_evaluation, lent[1], *own)
        # One jitted function for each trainer: jit looks up a new bound method by its whole object.
        self._begin, self._learn, self._prepare = jax.jit(self.begin), jax.jit(self.learn), jax.jit(self.prepare)
        self._pack = jax.jit(self.pack)
        self._act, self._act_greedily = jax.jit(partial(self.act, False)), jax.jit(partial(self.act, True))

    @cached_property
    def start(self) -> TrainState:
        """Shapes of the first state, without a window."""
        return jax.eval_shape(self.begin_without_window, jax.eval_shape(lambda: jax.random.key(0)), Hyperparams())

    @cached_property
    def acting(self) -> Packing:
        """Of what acting needs of a state."""
        return Packing(self.needed(jax.eval_shape(lambda state: state._replace(key=quick_key(state.key)), self.start)))

    @cached_property
    def answer(self) -> Packing:
        """Of an action, its log-probability and the action as the environment takes it."""
        observation = batch_example(self.environment.observation_space, self.config.num_envs)
        shapes = jax.eval_shape(partial(self.decide, False), self.start, observation, self.start.env_state.memory, 0)
        return Packing(shapes[0], batch=1)

    def needed(self, state: TrainState) -> TrainState:
        """Of a state, what acting needs."""
        nothing: Any = ()
        kept = ["policy_params", "observation_statistics", "key"]
        kept += ["critic_params", "target_statistics"] if self.follows_critic else []
        return TrainState(**{name: getattr(state, name) if name in kept else nothing for name in TrainState._fields})

    @property
    def follows_critic(self) -> bool:
        """Whether the critic's memory must be had from acting: where environments go on beyond the samples."""
        memory = self.start.env_state.memory
        return self.environment.mode is AutoresetMode.NEXT_STEP and bool(jax.tree.leaves(memory.critic))

    def prepare(self, state: TrainState) -> tuple[list[Array], PRNGKeyArray]:
        """What a collection acts on, in few arrays, and a key to begin the environments with."""
        action_key, reset_key = jax.random.split(step_keys(state)[1])
        return self.pack(state._replace(key=action_key)), reset_key

    def pack(self, state: TrainState) -> list[Array]:
        return self.acting.pack(self.needed(state._replace(key=quick_key(state.key))))

    def decide(
        self, deterministic: bool, state: TrainState, observation: PyTree, memory: PyTree, step: Any
    ) -> tuple[tuple[PyTree, Array, PyTree], PyTree]:
        act = partial(self.agent.policy_and_critic if self.follows_critic else self.agent.policy, state)
        seen = (observation, memory)
        distribution, memory = act(*seen)
        key = jax.random.fold_in(state.key, step // self.config.noise_interval)
        policy = lambda seen: act(*seen)[0]  # noqa: E731
        action = distribution.mode() if deterministic else self.share.sample(distribution, key, policy, seen)
        log_prob = distribution.log_prob(action)
        to_environment = environment_action(self.environment.action_space, action, self.config.squash)
        memory = reset_memory(memory, ~finite((observation, action, log_prob), log_prob.shape))
        return (action, log_prob, to_environment), memory

    def act(
        self, deterministic: bool, packed: list[Array], observation: PyTree, memory: PyTree, step: Any
    ) -> tuple[list[Array], PyTree]:
        answer, memory = self.decide(deterministic, self.acting.unpack(packed), observation, memory, step)
        return self.answer.pack(answer), memory

    def policy(self, packed: list[Array], deterministic: bool = False) -> Act:
        """Acting on the host; actions and log-probabilities stay packed together, in the place of the action."""
        compiled = self._act_greedily if deterministic else self._act

        def act(observation: PyTree, memory: PyTree, step: int) -> tuple[PyTree, Any, PyTree, PyTree]:
            answer, memory = compiled(packed, observation, memory, np.int32(step))
            answer = [np.asarray(x) for x in answer]
            action = jax.tree.map(np.array, self.answer.unpack(answer)[2])  # an environment may write into it
            return answer, (), action, memory

        return act

    def init(self, key: PRNGKeyArray, hyperparams: Hyperparams = Hyperparams()) -> TrainState:
        return jax.tree.map(jnp.copy, self._begin(one_key(key), check_hyperparams(hyperparams)))

    def begin(self, key: PRNGKeyArray, hyperparams: Hyperparams) -> TrainState:
        state = self.begin_without_window(key, hyperparams)
        if self.config.reuse > 1:
            example = jax.eval_shape(lambda state: mask_invalid(self.empty_trajectory(state)), state)
            state = state._replace(window=empty_window(example, self.config.reuse))
        where = state_shardings(self.config.mesh, state)
        return state if where is None else jax.lax.with_sharding_constraint(state, where)

    def begin_without_window(self, key: PRNGKeyArray, hyperparams: Hyperparams) -> TrainState:
        # Environments on the host do not give their states, so these are not part of a training's state.
        nothing: Any = ()
        memory = self.agent.empty_memory(self.config.num_envs)
        env_state = RolloutState(nothing, nothing, nothing, nothing, memory)
        observation = batch_example(self.environment.observation_space)
        return self.learner.init(key, hyperparams, env_state, observation)

    def empty_trajectory(self, state: TrainState) -> Trajectory:
        """One collection of all environments, of zeros in NumPy."""
        return self.unpacked(self.room(self.config.num_envs, state.env_state.memory))

    def room(self, num_envs: int, memory: PyTree) -> Trajectory:
        """Room for a collection of so many, with actions and log-probabilities as :meth:`policy` has them."""
        observation = batch_example(self.environment.observation_space, num_envs)
        room = partial(jax.tree.map, lambda x: np.zeros((self.config.num_steps, *x.shape), x.dtype))
        number = jax.ShapeDtypeStruct((num_envs,), jax.dtypes.canonicalize_dtype(float))
        flag = jax.ShapeDtypeStruct((num_envs,), bool)
        answer = [jax.ShapeDtypeStruct((num_envs, *x.shape[1:]), x.dtype) for x in self.answer.packed]
        steps = (observation, answer, (), number, flag, flag, observation)
        cost = () if self.cost is None else room(number)
        return Trajectory(*(room(each) for each in steps))._replace(memory=memory, cost=cost)

    def unpacked(self, trajectory: Trajectory) -> Trajectory:
        action, log_prob, _ = self.answer.unpack(trajectory.action)
        return trajectory._replace(action=action, log_prob=log_prob)

    def step(self, state: TrainState) -> tuple[TrainState, Metrics]:
        check_state(state)
        state, metrics = self._learn(*self.collect(state))
        self.live.belong_to(state)
        return state, metrics

    def collect(self, state: TrainState) -> tuple[TrainState, Trajectory, EpisodeTotals, Array, Array]:
        packed, reset_key = self.share.here(self._prepare(state))
        if not self.live.claimed_by(state):
            state = self.reset(state, reset_key)
        room = self.room(self.num_envs, self.share.here(state.env_state.memory))
        collected = collect_on_host(self.live, self.policy(packed), room, self.staggered(int(state.update)))
        return self.joined(state, *collected)

    def staggered(self, update: int) -> np.ndarray | None:
        """Which first episodes of this process's environments to cut after a collection."""
        limit, num_steps = self.config.time_limit, self.config.num_steps
        if limit is None or (update + 1) * num_steps >= limit:  # the last cut comes before
            return None
        cut = staggered_resets(self.config.num_envs, num_steps, jnp.int32(update), limit)
        return np.asarray(cut)[self.share.rows(self.num_envs)]

    def joined(
        self,
        state: TrainState,
        trajectory: Trajectory,
        episodes: EpisodeTotals,
        memory: PyTree,
        beyond: np.ndarray,
        unseen_end: np.ndarray,
    ) -> tuple[TrainState, Trajectory, EpisodeTotals, Array, Array]:
        """What :meth:`learn` takes, of all processes, from what this one collected and the state that it began in."""
        steps = self.share.join(self.unpacked(trajectory)._replace(memory=()), axis=1)
        trajectory = steps._replace(memory=state.env_state.memory)
        memory, *of_environments = self.share.join((memory, episodes, beyond, unseen_end))
        state = state._replace(env_state=state.env_state._replace(memory=memory))
        return state, trajectory, *of_environments

    def learn(
        self, state: TrainState, trajectory: Trajectory, episodes: EpisodeTotals, beyond: Array, unseen_end: Array
    ) -> tuple[TrainState, Metrics]:
        acted = state.env_state.memory
        state, metrics = self.learner.learn(state, trajectory, summarize(episodes))
        # What followed the last sample, nothing was learned from; but the memory has seen it.
        running = jnp.where(unseen_end, 0.0, state.discounted_return)
        seen = lambda acted, learned: jnp.where(expand(beyond, acted.ndim), acted, learned)  # noqa: E731
        critic = jax.tree.map(seen, acted.critic, state.env_state.memory.critic)
        memory = state.env_state.memory._replace(critic=critic)
        return state._replace(env_state=state.env_state._replace(memory=memory), discounted_return=running), metrics

    def reset(self, state: TrainState, key: PRNGKeyArray) -> TrainState:
        if state.update > 0:
            logging.getLogger("jtrpo").warning(
                "environments on the host are not part of what is saved: %s begins anew after update %d",
                self.environment,
                state.update,
            )
        self.live.begin(key, self.num_envs, self.share.index)
        memory, nothing = self.share.join((self.agent.empty_memory(self.num_envs), jnp.zeros(self.num_envs)))
        return state._replace(env_state=state.env_state._replace(memory=memory), discounted_return=nothing)

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
        self.live_evaluation.begin(reset_key, self.num_envs, self.share.index)
        policy = self.policy(self.share.here(self._pack(state._replace(key=action_key))), deterministic)
        played = self.play(num_episodes, policy, max_steps)
        returns = np.asarray(played.return_sum, jax.dtypes.canonicalize_dtype(float))
        return (returns, jax.device_get(summarize(played))) if summary else returns

    def play(self, num_episodes: int, policy: Act, max_steps: int) -> EpisodeTotals:
        """Whole episodes of all environments: each process plays those of its own."""
        own = len(self.live_evaluation.episodes.returns)
        num_envs = own * self.share.count
        wanted = (num_episodes + np.arange(num_envs)) // num_envs
        mine = wanted[self.share.rows(own)]
        played = play_on_host(self.live_evaluation, policy, self.agent.empty_memory, mine, max_steps)
        return self.share.gather(played, wanted.reshape(-1, own).sum(axis=1))

    def compile(self) -> Metrics:
        state = self.init(jax.random.key(0))
        observation = batch_example(self.environment.observation_space, self.num_envs)
        packed, memory = self.share.here((self._prepare(state)[0], state.env_state.memory))
        for deterministic in (False, True):
            self.policy(packed, deterministic)(observation, memory, 0)
        none = EpisodeCounts(self.num_envs, self.config.env_metrics, self.cost is not None).take()
        nothing = (self.room(self.num_envs, memory), none, memory, *np.zeros((2, self.num_envs), bool))
        return self._learn(*self.joined(state, *nothing))[1]

    def update(self, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        """The first one, on shapes alone."""
        state, nothing = self.begin(key, Hyperparams()), ()
        return self.learner.learn(state, self.empty_trajectory(state), nothing)  # type: ignore[arg-type]

    def close(self) -> None:
        self.live.close()
        self.live_evaluation.close()


def quick_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """A key whose numbers are cheap: Threefry's, drawn at every step of the environments, would take half of acting's time."""
    return jax.random.wrap_key_data(jax.random.bits(key, (4,), jnp.uint32), impl="unsafe_rbg")
