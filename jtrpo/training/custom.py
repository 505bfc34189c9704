"""Checks of the functions of one's own that a training is given: networks, an estimator of advantages, an objective, a hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import PRNGKeyArray, PyTree

from jtrpo.core.advantage import gae
from jtrpo.core.beta import Beta
from jtrpo.core.check import check_callable, check_same_form, kind_of, shown
from jtrpo.core.composite import Bernoulli, MultiCategorical, Product
from jtrpo.core.distributions import Categorical, DiagGaussian, Distribution
from jtrpo.core.gsde import StateDependentNoise
from jtrpo.core.squashed import TanhGaussian
from jtrpo.envs.actions import environment_action
from jtrpo.envs.check import parts
from jtrpo.envs.gymnasium import batch_example
from jtrpo.networks.heads import Head
from jtrpo.networks.network import Network

if TYPE_CHECKING:
    from jtrpo.training.agent import Agent
    from jtrpo.training.config import TrainConfig

BATCH = 3
"""Observations that networks are tried with: a number that their own sizes seldom have."""


def check_own_functions(config: TrainConfig) -> None:
    """Raise where what should be a function is none, or where settings of the built-in networks would have no effect.

    Raises:
        TypeError: not a network, not a function, or one of other arguments.
        ValueError: a memory or a shared torso of built-in networks that are not there, or an objective with vine sampling.
    """
    networks = {"policy_network": config.policy_network, "critic_network": config.critic_network}
    for name, network in networks.items():
        if network is None:
            continue
        if not isinstance(network, Network):
            raise TypeError(f"{name} must be a jtrpo.Network(init, apply); got {shown(network)}")
        check_callable(f"{name}.init", network.init, "(key, observation) -> params", takes=2)
        if network.empty_memory is None:
            form = "(params, observation) -> output, since the network has no empty_memory"
            check_callable(f"{name}.apply", network.apply, form, takes=2)
        else:
            form = "(params, observation, memory) -> (output, memory), since the network has an empty_memory"
            check_callable(f"{name}.apply", network.apply, form, takes=3)
            check_callable(f"{name}.empty_memory", network.empty_memory, "(batch) -> memory", takes=1)
    if config.shared_torso and any(networks.values()):
        raise ValueError("shared_torso is of the built-in networks; leave it out, or policy_network and critic_network")
    if config.memory is not None and all(networks.values()):
        raise ValueError(
            f"memory={config.memory!r} is of the built-in networks; give policy_network and critic_network an empty_memory"
        )
    keywords = ("gamma", "gae_lambda", *(("ratio",) if config.reuse > 1 else ()))
    form = f"(reward, value, next_value, terminated, truncated, *, {', '.join(keywords)}) -> (advantages, targets)"
    check_callable("advantage_estimator", config.advantage_estimator, form, takes=5, keywords=keywords)
    if config.objective is not None:
        check_callable("objective", config.objective, "(distribution, batch) -> [B]", takes=2)
        if config.sampling == "vine":
            raise ValueError("sampling='vine' has an objective of its own; leave objective out")
    if config.on_batch is not None:
        check_callable("on_batch", config.on_batch, "(batch, state) -> batch", takes=2)


def try_own_functions(config: TrainConfig, update: Callable[[PRNGKeyArray], Any]) -> None:
    """Try an update on shapes alone where it calls an estimator, an objective or a hook of the user's own.

    What they return is checked where it is used; this is so that it is told before a training is compiled.

    Args:
        config: static settings.
        update: ``(key) -> anything``: an update of a new training.
    """
    if config.advantage_estimator is not gae or config.objective is not None or config.on_batch is not None:
        jax.eval_shape(update, jax.random.key(0))


def check_advantages(estimate: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the advantages and targets of an estimator, or raise ``ValueError`` where they are not a pair of that shape."""
    pair = tuple(estimate) if isinstance(estimate, tuple | list) else ()
    fit = [getattr(x, "shape", None) == shape and jnp.issubdtype(x.dtype, jnp.floating) for x in pair]
    if fit != [True, True]:
        got = f"({', '.join(map(kind_of, pair))})" if pair else kind_of(estimate)
        raise ValueError(
            f"advantage_estimator must return (advantages, targets), floating-point of shape {list(shape)} each; got {got}"
        )
    return pair


def check_policy(agent: Agent, config: TrainConfig) -> None:
    """Try a policy of the user's own on shapes alone.

    Raises:
        TypeError: parameters that are no floating-point arrays, or an output that is no distribution.
        ValueError: a distribution over another batch or other actions, or a memory that changes.
    """
    network = config.policy_network
    assert network is not None
    space = config.environment.action_space
    observation = agent._policy_part(batch_example(config.environment.observation_space, BATCH))

    def act(key: jax.Array) -> tuple[PyTree, ...]:
        params = _params("policy_network", network, key, observation)
        given = _output("policy_network", network, params, observation)
        built_in, _ = Head(space, config.box_distribution).init_with_output(key, jnp.zeros((BATCH, 1)))
        if not isinstance(given, Distribution) or isinstance(given, type):
            raise TypeError(
                f"policy_network.apply must return a distribution, {_form(built_in)} for the action space {space}; got "
                f"{kind_of(given)}"
            )
        _check_kind(given, built_in, space, config.box_distribution)
        action = given.sample(key)
        return action, given.log_prob(action), given.entropy()

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


def _check_kind(given: Any, built_in: Any, space: spaces.Space, box_distribution: str, where: str = "") -> None:
    """Raise unless each part of a distribution is of the kind that the built-in policy gives, or of another library's."""
    returns = f"policy_network.apply{where and f', for the part {where},'} returns"
    wanted = f"the action space {space} goes with {_form(built_in)}"
    given, built_in = (x.parts if isinstance(x, Product) else x for x in (given, built_in))
    own = isinstance(given, Distribution)
    if isinstance(space, spaces.Dict | spaces.Tuple) and isinstance(given, dict | tuple) and not own:
        children, some = parts(space), given if isinstance(given, dict) else dict(enumerate(given))
        if set(some) != set(children):
            raise ValueError(
                f"{returns} distributions of {list(some)}; the action space has the parts {list(children)}"
            )
        for name, child in children.items():
            _check_kind(some[name], built_in[name], child, box_distribution, f"{where}[{name!r}]")
        return
    if not own:
        raise TypeError(f"{returns} {kind_of(given)}; {wanted}")
    # Whether actions are squashed and keys are held depends on the setting, and whether that is right on the distribution.
    exact = isinstance(given, DiagGaussian | TanhGaussian | Beta | StateDependentNoise)
    exact |= isinstance(built_in, TanhGaussian | Beta | StateDependentNoise)
    if exact and not isinstance(given, type(built_in)):
        setting = f" where box_distribution is {box_distribution!r}" if isinstance(space, spaces.Box) else ""
        raise ValueError(f"{returns} a {type(given).__name__}; {wanted}{setting}")
    if isinstance(given, Categorical | MultiCategorical | Bernoulli) and isinstance(given, type(built_in)):
        sizes, right = ([n for x in jax.tree.leaves(each) for n in x.shape[-1:]] for each in (given, built_in))
        if sizes != right:
            raise ValueError(
                f"{returns} a {type(given).__name__} over {' x '.join(map(str, sizes))} choices; the action space is {space}"
            )


def _form(distribution: Any) -> str:
    """How a distribution is made, for messages."""
    if not isinstance(distribution, Product):
        return f"jtrpo.{type(distribution).__name__}({', '.join(distribution._fields)})"
    some = distribution.parts
    if isinstance(some, dict):
        return f"jtrpo.Product({{{', '.join(f'{name!r}: {_form(part)}' for name, part in some.items())}}})"
    return f"jtrpo.Product(({', '.join(map(_form, some))}))"


def check_critic(agent: Agent, config: TrainConfig) -> None:
    """Try a critic of the user's own on shapes alone.

    Raises:
        TypeError: parameters that are no floating-point arrays.
        ValueError: something else than one value for each observation, or a memory that changes.
    """
    network = config.critic_network
    assert network is not None
    observation = agent._critic_part(batch_example(config.environment.observation_space, BATCH))

    def value(key: jax.Array) -> jax.Array:
        params = _params("critic_network", network, key, observation)
        values = _output("critic_network", network, params, observation)
        if getattr(values, "shape", None) != (BATCH,) or not jnp.issubdtype(values.dtype, jnp.floating):
            raise ValueError(
                f"critic_network.apply must return one floating-point value for each observation, [{BATCH}] for {BATCH}; got "
                f"{kind_of(values)}"
            )
        return values

    jax.eval_shape(value, jax.random.key(0))


def _params(name: str, network: Network, key: jax.Array, observation: PyTree) -> PyTree:
    params = network.init(key, jax.tree.map(lambda x: jnp.asarray(x[:1]), observation))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    wrong = [
        f"{kind_of(leaf)} at params{jax.tree_util.keystr(path)}"
        for path, leaf in leaves
        if not jnp.issubdtype(getattr(leaf, "dtype", object), jnp.floating)
    ]
    if wrong or not leaves:
        raise TypeError(
            f"{name}.init must return a pytree of floating-point arrays, one at least; got {(*wrong, repr(params))[0]}: keep "
            "what is not learned in apply (flax.nnx.split, equinox.partition)"
        )
    return params


def _output(name: str, network: Network, params: PyTree, observation: PyTree) -> Any:
    batch = jax.tree.map(jnp.asarray, observation)
    if network.empty_memory is None:
        return network.apply(params, batch)
    memory = network.empty_memory(BATCH)
    if any(jnp.shape(x)[:1] != (BATCH,) for x in jax.tree.leaves(memory)):
        raise ValueError(
            f"{name}.empty_memory(batch) must return arrays with a leading axis of batch; for {BATCH} got "
            f"{jax.tree.map(kind_of, memory)}"
        )
    result = network.apply(params, batch, memory)
    if isinstance(result, Distribution) or not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{name}.apply must return (output, memory), since it has an empty_memory; got {kind_of(result)}"
        )
    output, after = result
    check_same_form(f"{name}.apply must return a memory like that of {name}.empty_memory({BATCH})", after, memory)
    return output
