"""The agent of a training run: its networks, and how they see an observation."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jtrpo.core.distributions import Distribution
from jtrpo.core.fisher import Policy
from jtrpo.networks.actor_critic import CriticNetwork, Encoder, PolicyNetwork
from jtrpo.networks.heads import Head
from jtrpo.networks.recurrent import Sequences, empty_carry
from jtrpo.networks.torso import ACTIVATIONS, numeric
from jtrpo.training.config import TrainConfig, check_config
from jtrpo.training.critic import Critic
from jtrpo.training.keys import one_key
from jtrpo.training.normalization import RunningStatistics, normalize, rescale
from jtrpo.training.rollout import Trajectory, forget


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


class Agent(NamedTuple):
    """A policy and a critic for raw observations, as functions of a training state.

    Attributes:
        policy: ``(state, observation, memory) -> (distribution, memory)``, the distribution over actions before the map into
            the action space. Memory comes from ``empty_memory``; without recurrent networks it may be left out.
        value: ``(state, observation, memory) -> (value, memory)``, in units of (scaled) return, from the memory that ``policy``
            was given; each advances its own part.
        values: ``(state, trajectory) -> (value, next_value, critic memory)``: of the observations and of what really followed
            them, ``[T, N]`` each, in units of (scaled) return, and the critic's memory after the last step.
        see: ``(state, observation) -> observation``, normalised where the settings say so.
        empty_memory: ``(batch) -> memory`` for the first step of an episode.
        policy_sees: ``(state, trajectory) -> pytree`` with leading axis ``B`` for ``policy_network``.
        critic_sees: the same for ``critic_network``.
        distribution: ``(state, trajectory) -> distribution`` over the actions of its steps, leading axis ``B``.
        flatten: ``[T, N, ...] -> [B, ...]``, each environment's steps in sequence.
        init_policy: ``(key, observation) -> policy parameters``, from one observation.
        init_critic: ``(key, observation) -> critic parameters``.
        policy_network: ``(policy parameters, seen) -> distribution``.
        critic_network: ``(critic parameters, seen) -> value``, before targets are scaled back.
    """

    policy: Callable[..., tuple[Distribution, Memories]]
    value: Callable[..., tuple[Float[Array, " N"], Memories]]
    values: Callable[[Learned, Trajectory], tuple[Float[Array, "T N"], Float[Array, "T N"], PyTree]]
    see: Callable[[Learned, PyTree], PyTree]
    empty_memory: Callable[[int], Memories]
    policy_sees: Callable[[Learned, Trajectory], PyTree]
    critic_sees: Callable[[Learned, Trajectory], PyTree]
    distribution: Callable[[Learned, Trajectory], Distribution]
    flatten: Callable[[PyTree], PyTree]
    init_policy: Callable[[PRNGKeyArray, PyTree], PyTree]
    init_critic: Callable[[PRNGKeyArray, PyTree], PyTree]
    policy_network: Policy
    critic_network: Critic


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
    space, activation = config.environment.observation_space, ACTIVATIONS[config.activation]
    encoder = partial(Encoder, hidden_sizes=config.hidden_sizes, activation=activation)
    head = Head(config.environment.action_space, config.box_distribution, config.initial_log_std)
    policy_module = PolicyNetwork(encoder(space, memory=config.memory), head)
    if config.shared_torso:
        # The critic reads the policy's features and does not shape them, or its fit would leave the trust region.
        width = (config.hidden_sizes[-1],)
        critic_module = CriticNetwork(encoder(spaces.Box(-np.inf, np.inf, width)))
    else:
        critic_module = CriticNetwork(encoder(space, memory=config.memory))
    critic_remembers = config.memory is not None and not config.shared_torso
    policy_network, critic_network = cast(Policy, policy_module.apply), cast(Critic, critic_module.apply)
    centred = numeric(space)

    def see(state: Learned, observation: PyTree) -> PyTree:
        if not config.normalize_observations:
            return observation
        normalized = normalize(state.observation_statistics, observation)
        return jax.tree.map(lambda use, new, old: new if use else old, centred, normalized, observation)

    def step(observation: PyTree, carry: PyTree) -> PyTree:
        """What a network sees of one step in the middle of an episode, or at its start with an empty carry."""
        if config.memory is None:
            return observation
        return Sequences(observation, jnp.zeros(jax.tree.leaves(carry)[0].shape[:1], bool), carry)

    def sequences(state: Learned, trajectory: Trajectory, carry: PyTree) -> PyTree:
        """What a network sees of a whole collection, ``[B, ...]``; ``carry`` is its memory before the first step."""
        observation = flatten(see(state, trajectory.observation))
        if config.memory is None:
            return observation
        start = jnp.concatenate([jnp.zeros_like(trajectory.done[:1]), trajectory.done[:-1]])
        length = start.shape[0]
        repeated = jax.tree.map(lambda x: jnp.repeat(x, length, axis=0), carry)
        return Sequences(observation, flatten(start), repeated, length)

    def flatten(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jax.lax.collapse(jnp.swapaxes(x, 0, 1), 0, 2), tree)

    def unflatten(x: Array, like: Trajectory) -> Array:
        return jnp.reshape(x, like.reward.shape[::-1]).T

    def policy_sees(state: Learned, trajectory: Trajectory) -> PyTree:
        return sequences(state, trajectory, trajectory.memory.policy)

    def critic_sees(state: Learned, trajectory: Trajectory) -> PyTree:
        if config.shared_torso:
            return features(state, policy_sees(state, trajectory))[0]
        return sequences(state, trajectory, trajectory.memory.critic)

    def distribution(state: Learned, trajectory: Trajectory) -> Distribution:
        return policy_network(state.policy_params, policy_sees(state, trajectory))

    def features(state: Learned, seen: PyTree) -> tuple[Float[Array, "B H"], PyTree]:
        return policy_module.apply(state.policy_params, seen, method="features_and_carry")

    def empty_memory(batch: int) -> Memories:
        if config.memory is None:
            return Memories((), ())
        carry = empty_carry(config.memory, config.hidden_sizes[-1], batch)
        return Memories(carry, carry if critic_remembers else ())

    def policy(state: Learned, observation: PyTree, memory: Memories | None = None) -> tuple[Distribution, Memories]:
        if memory is None:
            memory = empty_memory(jax.tree.leaves(observation)[0].shape[0])
        seen = step(see(state, observation), memory.policy)
        actions, carry = policy_module.apply(state.policy_params, seen, method="distribution_and_carry")
        return actions, memory._replace(policy=carry)

    def predict(state: Learned, seen: PyTree) -> tuple[Float[Array, " B"], PyTree]:
        """Value, and the carry that it goes on from: the policy's where the torso is shared, otherwise the critic's."""
        if config.shared_torso:
            encoded, carry = features(state, seen)
            scaled = critic_network(state.critic_params, encoded)
        else:
            scaled, carry = critic_module.apply(state.critic_params, seen, method="value_and_carry")
        return rescale(state.target_statistics, scaled) if config.normalize_values else scaled, carry

    def value(state: Learned, observation: PyTree, memory: Memories | None = None) -> tuple[Array, Memories]:
        if memory is None:
            memory = empty_memory(jax.tree.leaves(observation)[0].shape[0])
        seen = step(see(state, observation), memory.policy if config.shared_torso else memory.critic)
        prediction, carry = predict(state, seen)
        return prediction, memory if config.shared_torso else memory._replace(critic=carry)

    def values(state: Learned, trajectory: Trajectory) -> tuple[Float[Array, "T N"], Float[Array, "T N"], PyTree]:
        before = trajectory.memory.policy if config.shared_torso else trajectory.memory.critic
        current, carry = predict(state, sequences(state, trajectory, before))
        # The next value of each step goes on from the memory after it.
        following = flatten(see(state, trajectory.final_observation))
        next_value, _ = predict(state, step(following, carry))
        last: PyTree = ()
        if critic_remembers:
            last = jax.tree.map(lambda x: jnp.reshape(x, (trajectory.reward.shape[1], -1, *x.shape[1:]))[:, -1], carry)
            last = forget(last, trajectory.done[-1])
        return unflatten(current, trajectory), unflatten(next_value, trajectory), last

    def one_step(observation: PyTree) -> PyTree:
        seen = jax.tree.map(lambda x: jnp.asarray(x)[None], observation)
        return seen if config.memory is None else step(seen, empty_memory(1).policy)

    def init_critic(key: PRNGKeyArray, observation: PyTree) -> PyTree:
        seen = jnp.zeros((1, config.hidden_sizes[-1])) if config.shared_torso else one_step(observation)
        return critic_module.init(one_key(key), seen)

    return Agent(
        policy=policy,
        value=value,
        values=values,
        see=see,
        empty_memory=empty_memory,
        policy_sees=policy_sees,
        critic_sees=critic_sees,
        distribution=distribution,
        flatten=flatten,
        init_policy=lambda key, observation: policy_module.init(one_key(key), one_step(observation)),
        init_critic=init_critic,
        policy_network=policy_network,
        critic_network=critic_network,
    )
