"""Checks of the functions of one's own that a training is given: networks, an estimator of advantages, an objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import PyTree

from jtrpo.core.check import check_callable, shown
from jtrpo.core.distributions import Categorical, check_distribution
from jtrpo.core.squashed import TanhGaussian
from jtrpo.envs.actions import environment_action
from jtrpo.envs.gymnasium import batch_example
from jtrpo.networks.network import Network

if TYPE_CHECKING:
    from jtrpo.training.agent import Agent
    from jtrpo.training.config import TrainConfig

BATCH = 3
"""Observations that networks are tried with: a number that their own sizes seldom have."""


def check_own_functions(config: TrainConfig) -> None:
    """Raise where what should be a function is none, or where settings of the built-in networks would have no effect.

    Raises:
        TypeError: not a network, or not a function.
        ValueError: a memory or a shared torso of built-in networks that are not there, or an objective with vine sampling.
    """
    networks = {"policy_network": config.policy_network, "critic_network": config.critic_network}
    for name, network in networks.items():
        if network is None:
            continue
        if not isinstance(network, Network):
            raise TypeError(f"{name} must be a jtrpo.Network(init, apply); got {shown(network)}")
        check_callable(f"{name}.init", network.init, "(key, observation) -> params")
        check_callable(f"{name}.apply", network.apply, "(params, observation) -> output")
        if network.empty_memory is not None:
            check_callable(f"{name}.empty_memory", network.empty_memory, "(batch) -> memory")
    if config.shared_torso and any(networks.values()):
        raise ValueError("shared_torso is of the built-in networks; leave it out, or policy_network and critic_network")
    if config.memory is not None and all(networks.values()):
        raise ValueError(
            f"memory={config.memory!r} is of the built-in networks; give policy_network and critic_network an empty_memory"
        )
    check_callable("advantage_estimator", config.advantage_estimator, "as jtrpo.gae")
    if config.objective is not None:
        check_callable("objective", config.objective, "(distribution, batch) -> [B]")
        if config.sampling == "vine":
            raise ValueError("sampling='vine' has an objective of its own; leave objective out")
    if config.on_batch is not None:
        check_callable("on_batch", config.on_batch, "(batch, state) -> batch")


def check_advantages(estimate: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the advantages and targets of an estimator, or raise ``ValueError`` where they are not a pair of that shape."""
    pair = estimate if isinstance(estimate, tuple) else ()
    got = [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in pair] or type(estimate).__name__
    if len(pair) != 2 or any(
        jnp.shape(x) != shape or not jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in pair
    ):
        raise ValueError(
            f"advantage_estimator must return (advantages, targets), floating-point of shape {list(shape)} each; got {got}"
        )
    return pair[0], pair[1]


def check_policy(agent: Agent, config: TrainConfig) -> None:
    """Try a policy of the user's own on shapes alone.

    Raises:
        TypeError: parameters that are no arrays, or an output that is no distribution.
        ValueError: a distribution over another batch or other actions, or a memory that changes.
    """
    network = config.policy_network
    assert network is not None
    space = config.environment.action_space
    observation = agent._policys(batch_example(config.environment.observation_space, BATCH))

    def act(key: jax.Array) -> tuple[PyTree, ...]:
        params = _params("policy_network", network, key, observation)
        distribution = check_distribution(
            _output("policy_network", network, params, observation), "policy_network.apply must return"
        )
        action = distribution.sample(key)
        choices = distribution.logits.shape[-1] if isinstance(distribution, Categorical) else None
        if choices is not None and isinstance(space, spaces.Discrete) and choices != space.n:
            raise ValueError(
                f"policy_network.apply returns a Categorical over {choices} actions; the action space is {space}"
            )
        if isinstance(distribution, TanhGaussian) != config.squash:
            raise ValueError(
                f"policy_network.apply returns a {type(distribution).__name__}, and box_distribution is "
                f"{config.box_distribution!r}; a jtrpo.TanhGaussian goes with 'tanh_gaussian', and nothing else does"
            )
        return action, distribution.log_prob(action), distribution.entropy()

    action, log_prob, entropy = jax.eval_shape(act, jax.random.key(0))
    for name, value in (("log_prob(action)", log_prob), ("entropy()", entropy)):
        if value.shape != (BATCH,):
            raise ValueError(
                f"policy_network.apply must return a distribution over the batch: for {BATCH} observations its {name} has shape "
                f"{value.shape}, wanted {(BATCH,)}"
            )
    wanted = jax.tree.map(lambda x: x.shape, batch_example(space, BATCH))
    try:
        reached = jax.eval_shape(lambda x: environment_action(space, x, config.squash), action)
        fits = jax.tree.map(lambda x: x.shape, reached) == wanted
    except (TypeError, ValueError, KeyError):
        fits = False
    if not fits:
        raise ValueError(
            f"policy_network.apply returns a distribution over actions of shape {jax.tree.map(lambda x: x.shape, action)} for "
            f"{BATCH} observations; the action space is {space}"
        )


def check_critic(agent: Agent, config: TrainConfig) -> None:
    """Try a critic of the user's own on shapes alone.

    Raises:
        TypeError: parameters that are no arrays.
        ValueError: something else than one value for each observation, or a memory that changes.
    """
    network = config.critic_network
    assert network is not None
    observation = agent._critics(batch_example(config.environment.observation_space, BATCH))

    def value(key: jax.Array) -> Any:
        params = _params("critic_network", network, key, observation)
        return _output("critic_network", network, params, observation)

    values = jax.eval_shape(value, jax.random.key(0))
    shape = getattr(values, "shape", None)
    if shape != (BATCH,) or not jnp.issubdtype(values.dtype, jnp.floating):
        got = type(values).__name__ if shape is None else f"{values.dtype}{list(shape)}"
        raise ValueError(
            f"critic_network.apply must return one floating-point value for each observation, [{BATCH}] for {BATCH}; got {got}"
        )


def _params(name: str, network: Network, key: jax.Array, observation: PyTree) -> PyTree:
    one = jax.tree.map(lambda x: jnp.asarray(x[:1]), observation)
    params = network.init(key, one)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype"):
            where = jax.tree_util.keystr(path)
            raise TypeError(
                f"{name}.init must return a pytree of arrays; got {type(leaf).__name__} at params{where}: keep what is no "
                "array in apply (flax.nnx.split, equinox.partition)"
            )
    return params


def _output(name: str, network: Network, params: PyTree, observation: PyTree) -> Any:
    batch = jax.tree.map(jnp.asarray, observation)
    if network.empty_memory is None:
        return network.apply(params, batch)
    memory = network.empty_memory(BATCH)
    result = network.apply(params, batch, memory)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{name}.apply must return (output, memory), since it has an empty_memory; got {type(result).__name__}"
        )
    output, after = result
    form = lambda tree: (jax.tree.structure(tree), [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)])  # noqa: E731
    if form(after) != form(memory) or any(jnp.shape(x)[:1] != (BATCH,) for x in jax.tree.leaves(memory)):
        raise ValueError(
            f"{name}.apply must return a memory like that of {name}.empty_memory({BATCH}), with a leading axis of {BATCH}; got "
            f"{jax.tree.map(jnp.shape, after)} after {jax.tree.map(jnp.shape, memory)}"
        )
    return output
