"""Networks of three libraries behind one contract: what a user would write."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx

import jtrpo


def of_nnx(sizes):
    """A multilayer perceptron of flax.nnx."""

    class MLP(nnx.Module):
        def __init__(self, rngs):
            pairs = itertools.pairwise(sizes)
            self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = nnx.tanh(layer(x))
            return self.layers[-1](x)

    structure = nnx.graphdef(MLP(nnx.Rngs(0)))
    return (
        lambda key, observation: nnx.to_pure_dict(nnx.state(MLP(nnx.Rngs(key)))),
        lambda params, observation: nnx.merge(structure, params)(observation),
    )


def of_equinox(sizes):
    """A multilayer perceptron of equinox."""
    make = lambda key: eqx.nn.MLP(sizes[0], sizes[-1], sizes[1], len(sizes) - 2, jnp.tanh, key=key)  # noqa: E731
    static = eqx.partition(make(jax.random.key(0)), eqx.is_array)[1]
    return (
        lambda key, observation: eqx.filter(make(key), eqx.is_array),
        lambda params, observation: jax.vmap(eqx.combine(params, static))(observation),
    )


def attention(sizes, width=16):
    """Attention between the numbers of an observation, by hand."""
    size, outputs = sizes[0], sizes[-1]

    def init(key, observation):
        shapes = {"place": (size, width), "query": (width, width), "key": (width, width), "value": (width, width)}
        keys = dict(zip([*shapes, "scale"], jax.random.split(key, 5), strict=True))
        drawn = {name: jax.random.normal(keys[name], shape) / width**0.5 for name, shape in shapes.items()}
        return {**drawn, "scale": jax.random.normal(keys["scale"], (width,)), "out": jnp.zeros((size * width, outputs))}

    def apply(params, observation):
        tokens = observation[..., None] * params["scale"][None, None] + params["place"][None]
        query, key, value = (tokens @ params[name] for name in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bqw,bkw->bqk", query, key) / width**0.5)
        mixed = jnp.tanh(tokens + weights @ value)
        return mixed.reshape(mixed.shape[0], -1) @ params["out"]

    return init, apply


def averaging(sizes, rate=0.5):
    """A perceptron with a memory: a running mean of its features, which begins at one."""
    init, apply = of_equinox([2 * sizes[0], *sizes[1:]])

    def with_memory(params, observation, memory):
        memory = memory + rate * (observation - memory)
        return apply(params, jnp.concatenate([observation, memory], axis=-1)), memory

    return init, with_memory, lambda batch: jnp.ones((batch, sizes[0]))


def networks(make, observation_size=4, actions=2, hidden=(32, 32)):
    """A policy over ``actions`` choices, and a critic."""
    init, apply, *empty = make([observation_size, *hidden, actions])
    init_critic, value, *_ = make([observation_size, *hidden, 1])
    if empty:

        def policy(params, observation, memory):
            logits, memory = apply(params, observation, memory)
            return jtrpo.Categorical(logits), memory

        def critic(params, observation, memory):
            values, memory = value(params, observation, memory)
            return values[:, 0], memory
    else:
        policy = lambda params, observation: jtrpo.Categorical(apply(params, observation))  # noqa: E731
        critic = lambda params, observation: value(params, observation)[:, 0]  # noqa: E731
    return {
        "policy_network": jtrpo.Network(init, policy, *empty),
        "critic_network": jtrpo.Network(init_critic, critic, *empty),
    }


KINDS = {"nnx": of_nnx, "equinox": of_equinox, "attention": attention, "memory": averaging}
