"""The agent of a training run: its networks, and how they see an observation."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jtrpo.core.distributions import Distribution
from jtrpo.core.fisher import Policy
from jtrpo.networks.actor_critic import CriticNetwork, PolicyNetwork
from jtrpo.networks.torso import ACTIVATIONS, numeric
from jtrpo.training.config import TrainConfig
from jtrpo.training.critic import Critic
from jtrpo.training.normalization import RunningStatistics, normalize


class Learned(Protocol):
    """What an agent acts on: the parts of a :class:`TrainState` that training changes."""

    @property
    def policy_params(self) -> PyTree: ...  # noqa: D102
    @property
    def critic_params(self) -> PyTree: ...  # noqa: D102
    @property
    def observation_statistics(self) -> RunningStatistics: ...  # noqa: D102


class Agent(NamedTuple):
    """A policy and a critic for raw observations, as functions of a training state.

    Attributes:
        policy: ``(state, observation) -> distribution`` over actions before the map into the action space.
        value: ``(state, observation) -> value``, in units of (scaled) return.
        see: ``(state, observation) -> observation`` as the networks get it (normalised, where the settings say so).
        init_policy: ``(key, observation) -> policy parameters``.
        init_critic: ``(key, observation) -> critic parameters``.
        policy_network: ``(policy parameters, seen observation) -> distribution``.
        critic_network: ``(critic parameters, seen observation) -> value``.
    """

    policy: Callable[[Learned, PyTree], Distribution]
    value: Callable[[Learned, PyTree], Float[Array, "..."]]
    see: Callable[[Learned, PyTree], PyTree]
    init_policy: Callable[[PRNGKeyArray, PyTree], PyTree]
    init_critic: Callable[[PRNGKeyArray, PyTree], PyTree]
    policy_network: Policy
    critic_network: Critic


def make_agent(config: TrainConfig) -> Agent:
    """Build the agent that ``config`` describes.

    Args:
        config: static settings.
    """
    environment, activation = config.environment, ACTIVATIONS[config.activation]
    space = environment.observation_space
    policy_module = PolicyNetwork(
        space,
        environment.action_space,
        config.hidden_sizes,
        activation,
        config.box_distribution,
        config.initial_log_std,
    )
    critic_module = CriticNetwork(space, config.hidden_sizes, activation)
    centred = numeric(space)
    policy_network, critic_network = cast(Policy, policy_module.apply), cast(Critic, critic_module.apply)

    def see(state: Learned, observation: PyTree) -> PyTree:
        if not config.normalize_observations:
            return observation
        normalized = normalize(state.observation_statistics, observation)
        return jax.tree.map(lambda use, new, old: new if use else old, centred, normalized, observation)

    return Agent(
        policy=lambda state, observation: policy_network(state.policy_params, see(state, observation)),
        value=lambda state, observation: critic_network(state.critic_params, see(state, observation)),
        see=see,
        init_policy=policy_module.init,
        init_critic=critic_module.init,
        policy_network=policy_network,
        critic_network=critic_network,
    )
