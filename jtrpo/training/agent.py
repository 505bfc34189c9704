"""The agent of a training: a policy and a critic, and what they see of observations and of whole collections."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jtrpo.core.chunked import chunked
from jtrpo.core.distributions import Distribution
from jtrpo.networks.actor_critic import CriticNetwork, Encoder, PolicyNetwork, built_in
from jtrpo.networks.heads import Head
from jtrpo.networks.network import SequenceNetwork, over_sequences
from jtrpo.networks.recurrent import Sequences
from jtrpo.networks.torso import ACTIVATIONS, numeric
from jtrpo.training.config import TrainConfig, check_config
from jtrpo.training.custom import check_critic, check_policy
from jtrpo.training.keys import one_key
from jtrpo.training.normalization import RunningStatistics, normalize, rescale
from jtrpo.training.rollout import Trajectory, flatten, reset_memory
from jtrpo.training.spaces import part_of, seen_parts


class Learned(Protocol):
    """What an agent acts on: the parts of a :class:`TrainState` that training changes."""

    @property
    def policy_params(self) -> PyTree: ...  # noqa: D102
    @property
    def critic_params(self) -> PyTree: ...  # noqa: D102
    @property
    def observation_statistics(self) -> RunningStatistics: ...  # noqa: D102
    @property
    def target_statistics(self) -> RunningStatistics: ...  # noqa: D102


class Memories(NamedTuple):
    """What recurrent networks carry from step to step; ``()`` for a network without memory.

    Attributes:
        policy: the policy's, ``[N, H]`` each.
        critic: the critic's, ``[N, H]`` each.
    """

    policy: PyTree
    critic: PyTree


@dataclass(frozen=True, eq=False)
class Agent:
    """A policy and a critic for raw observations, as functions of a training state.

    Every method is pure. ``state`` is a :class:`TrainState`, or anything with its learned parts. Observations are as the
    environment gives them.

    Attributes:
        policy_module: the policy.
        critic_module: the critic; with ``features``, one that sees those.
        features: ``(policy parameters, input) -> (features, memory)``, the policy's, for a critic that reads them instead of the
            observation, and does not shape them: its fit would leave the trust region. ``None``: the critic has its own.
        normalized: whether to centre and scale each part of an observation; ``None``: none.
        rescale_values: whether the critic's output is in units of its targets' spread.
        policy_observation: names of the parts of an observation that the policy sees; ``None``: all.
        critic_observation: names of those that the critic sees; ``None``: all.
    """

    policy_module: SequenceNetwork
    critic_module: SequenceNetwork
    features: Callable[[PyTree, PyTree], tuple[Array, PyTree]] | None = None
    normalized: PyTree | None = None
    rescale_values: bool = False
    policy_observation: tuple[str, ...] | None = None
    critic_observation: tuple[str, ...] | None = None

    @property
    def has_memory(self) -> bool:
        """Whether the policy or the critic carries something from step to step."""
        return self.policy_module.has_memory or self.critic_module.has_memory

    def init_policy(self, key: PRNGKeyArray, observation: PyTree) -> PyTree:
        """Policy parameters, from one observation."""
        seen = self._first_step(self.policy_module, self._policy_part(observation))
        return self.policy_module.init(one_key(key), seen)

    def init_critic(self, key: PRNGKeyArray, observation: PyTree) -> PyTree:
        """Critic parameters, from one observation."""
        seen = self._first_step(self.critic_module, self._critic_part(observation))
        return self.critic_module.init(one_key(key), seen)

    def empty_memory(self, batch: int) -> Memories:
        """Memory before the first step of an episode."""
        return Memories(self.policy_module.empty_memory(batch), self.critic_module.empty_memory(batch))

    def normalize(self, state: Learned, observation: PyTree) -> PyTree:
        """Observation as the networks see it, centred and scaled where the settings say so."""
        if self.normalized is None:
            return observation
        scaled = normalize(state.observation_statistics, observation)
        return jax.tree.map(lambda use, new, old: new if use else old, self.normalized, scaled, observation)

    def policy(
        self, state: Learned, observation: PyTree, memory: Memories | None = None
    ) -> tuple[Distribution, Memories]:
        """Distribution over actions, before the map into the action space, and the memory with the policy's part advanced.

        Memory comes from ``empty_memory``; ``None`` begins an episode.
        """
        memory = self._memory(memory, observation)
        seen = next_step(self.policy_module, self._policy_part(self.normalize(state, observation)), memory.policy)
        distribution, after = self.policy_module.apply(state.policy_params, seen)
        return distribution, memory._replace(policy=after)

    def value(
        self, state: Learned, observation: PyTree, memory: Memories | None = None
    ) -> tuple[Float[Array, " N"], Memories]:
        """Value in units of (scaled) return, and the memory with the critic's part advanced.

        The memory is the one that ``policy`` was given, not the one that it returned.
        """
        memory = self._memory(memory, observation)
        value, after = self._next_value(state, self.normalize(state, observation), self._value_memory(memory))
        return value, memory if self.features is not None else memory._replace(critic=after)

    def policy_and_critic(self, state: Learned, observation: PyTree, memory: Memories) -> tuple[Distribution, Memories]:
        """As :meth:`policy`, with the critic's part of the memory advanced as well."""
        distribution, after = self.policy(state, observation, memory)
        return distribution, after._replace(critic=self.value(state, observation, memory)[1].critic)

    def values(self, state: Learned, trajectory: Trajectory) -> tuple[Float[Array, "T N"], Float[Array, "T N"], PyTree]:
        """Values of the observations and of what really followed them, and the critic's memory after the last step."""
        current, carry = self._predict(state, self._value_input(state, trajectory))
        # The next value of each step goes on from the memory after it.
        following = flatten(self.normalize(state, trajectory.final_observation))
        next_value, _ = self._next_value(state, following, carry)
        num_envs = trajectory.reward.shape[1]
        unflatten = lambda x: jnp.reshape(x, (num_envs, -1)).T  # noqa: E731
        last: PyTree = ()
        if self.features is None:
            last = jax.tree.map(lambda x: jnp.reshape(x, (num_envs, -1, *x.shape[1:]))[:, -1], carry)
            last = reset_memory(last, trajectory.done[-1])
        return unflatten(current), unflatten(next_value), last

    def distribution(self, state: Learned, trajectory: Trajectory) -> Distribution:
        """Distribution over the actions of a collection's steps, ``[B]``."""
        return self.policy_network(state.policy_params, self.policy_input(state, trajectory))

    def policy_network(self, params: PyTree, seen: PyTree) -> Distribution:
        """Distribution of a batch of inputs, ``[B]``."""
        return self.policy_module.apply(params, seen)[0]

    def critic_network(self, params: PyTree, seen: PyTree) -> Float[Array, " B"]:
        """Value of a batch of inputs, before targets are scaled back."""
        return self.critic_module.apply(params, seen)[0]

    def policy_input(self, state: Learned, trajectory: Trajectory) -> PyTree:
        """What ``policy_network`` sees of a collection: a pytree with leading axis ``B``."""
        seen = self._policy_part(self.normalize(state, trajectory.observation))
        return sequences(self.policy_module, seen, trajectory, trajectory.memory.policy)

    def critic_input(self, state: Learned, trajectory: Trajectory) -> PyTree:
        """What ``critic_network`` sees of a collection: a pytree with leading axis ``B``."""
        seen = self._value_input(state, trajectory)
        return seen if self.features is None else self.features(state.policy_params, seen)[0]

    def _policy_part(self, observation: PyTree) -> PyTree:
        """The part of an observation that the policy sees."""
        names = self.policy_observation
        return observation if names is None else {name: observation[name] for name in names}

    def _critic_part(self, observation: PyTree) -> PyTree:
        """The part of an observation that the critic sees."""
        names = self.critic_observation
        return observation if names is None else {name: observation[name] for name in names}

    def _value_memory(self, memory: Memories) -> PyTree:
        """The part of a memory that values go on from."""
        return memory.critic if self.features is None else memory.policy

    def _value_input(self, state: Learned, trajectory: Trajectory) -> PyTree:
        """What values are computed from: the critic's part of a collection, or the policy's where its features are."""
        if self.features is not None:
            return self.policy_input(state, trajectory)
        seen = self._critic_part(self.normalize(state, trajectory.observation))
        return sequences(self.critic_module, seen, trajectory, trajectory.memory.critic)

    def _next_value(self, state: Learned, observation: PyTree, carry: PyTree) -> tuple[Float[Array, " B"], PyTree]:
        """Value of a normalised observation, one step after ``carry``."""
        if self.features is not None:
            return self._predict(state, next_step(self.policy_module, self._policy_part(observation), carry))
        return self._predict(state, next_step(self.critic_module, self._critic_part(observation), carry))

    def _predict(self, state: Learned, seen: PyTree) -> tuple[Float[Array, " B"], PyTree]:
        """Value of an input, and the memory that values go on from."""
        if self.features is None:
            value, carry = self.critic_module.apply(state.critic_params, seen)
        else:
            encoded, carry = self.features(state.policy_params, seen)
            value = self.critic_network(state.critic_params, encoded)
        return rescale(state.target_statistics, value) if self.rescale_values else value, carry

    def _memory(self, memory: Memories | None, observation: PyTree) -> Memories:
        return self.empty_memory(jax.tree.leaves(observation)[0].shape[0]) if memory is None else memory

    def _first_step(self, network: SequenceNetwork, observation: PyTree) -> PyTree:
        return next_step(network, jax.tree.map(lambda x: jnp.asarray(x)[None], observation), network.empty_memory(1))


def in_chunks(apply: Callable[[PyTree, PyTree], Any], chunk_size: int | None) -> Callable[[PyTree, PyTree], Any]:
    """``apply(params, input)`` of a network, on so many samples at a time; ``None``: all at once."""
    if chunk_size is None:
        return apply

    def chunk_by_chunk(params: PyTree, seen: PyTree) -> Any:
        length = seen.length if isinstance(seen, Sequences) else 1
        return chunked(apply, chunk_size, sequence_length=length)(params, seen)

    return chunk_by_chunk


def next_step(network: SequenceNetwork, observation: PyTree, carry: PyTree) -> PyTree:
    """Input of one step in the middle of an episode, or at its start with an empty memory."""
    if not network.has_memory:
        return observation
    return Sequences(observation, jnp.zeros(jax.tree.leaves(observation)[0].shape[:1], bool), carry)


def sequences(network: SequenceNetwork, observation: PyTree, trajectory: Trajectory, carry: PyTree) -> PyTree:
    """Input of a whole collection; ``carry`` is the memory before its first step."""
    if not network.has_memory:
        return flatten(observation)
    start = jnp.concatenate([jnp.zeros_like(trajectory.done[:1]), trajectory.done[:-1]])
    length = start.shape[0]
    repeated = jax.tree.map(lambda x: jnp.repeat(x, length, axis=0), carry)
    return Sequences(flatten(observation), flatten(start), repeated, length)


def make_agent(config: TrainConfig) -> Agent:
    """Build the agent that ``config`` describes.

    Args:
        config: static settings.

    Examples:
        The network alone, for a pipeline of your own:

        >>> agent = jtrpo.make_agent(jtrpo.TrainConfig("CartPole-v1", hidden_sizes=(8,)))
        >>> params = jax.jit(agent.init_policy)(jax.random.key(0), jnp.zeros(4))
        >>> distribution = jax.jit(agent.policy_network)(params, jnp.zeros((2, 4)))  # two observations
        >>> type(distribution).__name__, distribution.mode().shape
        ('Categorical', (2,))
    """
    check_config(config)
    observation_space = config.environment.observation_space
    activation = ACTIVATIONS[config.activation]
    encoder = partial(
        Encoder, hidden_sizes=config.hidden_sizes, activation=activation, flatten_images=config.flatten_images
    )
    seen_by_policy = part_of(observation_space, config.seen_by_policy, masked=True)
    head = Head(config.environment.action_space, config.box_distribution, config.initial_log_std)
    policy = PolicyNetwork(encoder(seen_by_policy, memory=config.memory), head)
    if config.shared_torso:
        width = config.hidden_sizes[-1]
        critic = CriticNetwork(encoder(spaces.Box(-np.inf, np.inf, (width,))))
        critic_module = built_in(critic)._replace(init=lambda key, seen: critic.init(key, jnp.zeros((1, width))))
    elif config.critic_network is None:
        seen_by_critic = part_of(observation_space, config.critic_observation)
        critic_module = built_in(CriticNetwork(encoder(seen_by_critic, memory=config.memory)))
    else:
        critic_module = over_sequences(config.critic_network)
    policy_module = built_in(policy) if config.policy_network is None else over_sequences(config.policy_network)
    features = partial(policy.apply, method="features_and_carry")
    size = config.chunk_size
    agent = Agent(
        policy_module=policy_module._replace(apply=in_chunks(policy_module.apply, size)),
        critic_module=critic_module._replace(apply=in_chunks(critic_module.apply, size)),
        features=in_chunks(features, size) if config.shared_torso else None,
        normalized=numeric(observation_space) if config.normalize_observations else None,
        rescale_values=config.normalize_values,
        policy_observation=seen_parts(observation_space, config.seen_by_policy, masked=True),
        critic_observation=seen_parts(observation_space, config.critic_observation),
    )
    if config.policy_network is not None:
        check_policy(agent, config)
    if config.critic_network is not None:
        check_critic(agent, config)
    return agent
