"""Critic fit: Adam on the squared error to the value targets."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jtrpo.core.batch import AxisName, largest_over, mean_weights, per_sample_keys, sum_over, weighted_sum
from jtrpo.core.fisher import per_device
from jtrpo.training.report import undefined

_ADAM = optax.scale_by_adam(eps=1e-5)

init_critic_optimizer = _ADAM.init


Critic = Callable[[PyTree, PyTree], Float[Array, " B"]]
"""Any pure function ``critic(params, observation) -> value``."""


class CriticInfo(NamedTuple):
    """What a fit reports.

    Attributes:
        loss: mean of (V - target)^2 / 2 over the minibatches of the last pass, in squared units of (scaled) return.
        explained_variance: 1 - var(target - V) / var(target) before the fit; 1 is perfect, 0 no better than a constant.
        accepted: whether loss and parameters were finite; otherwise the old parameters and moments came back.
    """

    loss: Float[Array, ""]
    explained_variance: Float[Array, ""]
    accepted: Bool[Array, ""]


@jax.named_scope("fit_critic")
def fit_critic(
    critic: Critic,
    params: PyTree,
    optimizer_state: optax.OptState,
    observation: PyTree,
    target: Float[Array, " B"],
    key: PRNGKeyArray,
    *,
    weight: Float[Array, " B"] | None = None,
    learning_rate: float | Float[Array, ""],
    epochs: int,
    minibatches: int,
    sequence_length: int = 1,
    axis_name: AxisName = None,
) -> tuple[PyTree, optax.OptState, Float[Array, ""]]:
    """Minimise mean((V - target)^2) / 2 by Adam in minibatches; the key is consumed.

    The batch is divided once, by stratified sampling: of every ``minibatches`` neighbours each minibatch gets one, at random;
    the neighbours are whole sequences. So each minibatch has samples from all over the batch. Every epoch uses the same ones.

    Args:
        critic: pure function ``(params, observation) -> value``.
        params: its parameters.
        optimizer_state: Adam's moments.
        observation: any pytree, leading axis ``B``.
        target: value targets.
        key: of the division; consumed.
        weight: of the samples, ``[B]``; zero leaves a sample out. ``None``: all equal.
        learning_rate: Adam's.
        epochs: passes over the batch.
        minibatches: steps per pass; must divide ``B / sequence_length``.
        sequence_length: steps that stay together, for a recurrent critic.
        axis_name: mapped axis over which the batch is spread, in order: every mean is taken over it. Each device's share must
            divide as ``B`` must.

    Returns:
        ``(params, optimizer_state, loss)``, the loss as in :class:`CriticInfo`.
    """

    def loss(params: PyTree, observation: PyTree, target: Array, weight: Array) -> Float[Array, ""]:
        return 0.5 * minibatches * weighted_sum(jnp.square(critic(params, observation) - target), weight)

    def step(carry: tuple, minibatch: tuple) -> tuple[tuple, Array]:
        params, optimizer_state = carry
        local = jax.value_and_grad(loss)(per_device(params, axis_name), *minibatch)
        value, gradient = sum_over(local, axis_name)
        updates, optimizer_state = _ADAM.update(gradient, optimizer_state)
        params = jax.tree.map(lambda p, u: p - (learning_rate * u).astype(p.dtype), params, updates)
        return (params, optimizer_state), value

    data = (observation, target, mean_weights(weight, target.shape[0], axis_name))
    if minibatches > 1:
        strata = target.shape[0] // (sequence_length * minibatches)
        keys = per_sample_keys(key, strata, axis_name)
        shift = jax.vmap(lambda key: jax.random.randint(key, (), 0, minibatches))(keys)
        place = (shift[None] + jnp.arange(minibatches)[:, None]) % minibatches
        sequence = place + minibatches * jnp.arange(strata)[None]
        order = (sequence[..., None] * sequence_length + jnp.arange(sequence_length)[None, None]).reshape(-1)
        data = jax.tree.map(lambda x: jnp.take(x, order, axis=0), data)
    data = jax.tree.map(lambda x: jnp.reshape(x, (minibatches, x.shape[0] // minibatches, *x.shape[1:])), data)
    (params, optimizer_state), losses = jax.lax.scan(
        lambda carry, _: jax.lax.scan(step, carry, data), (params, optimizer_state), length=epochs
    )
    return params, optimizer_state, jnp.mean(losses[-1])


def explained_variance(
    value: Float[Array, "..."],
    target: Float[Array, "..."],
    weight: Float[Array, "..."] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """1 - var(target - value) / var(target); NaN (infinite with ``jax_debug_nans``) where the targets are constant."""
    weight = jnp.reshape(mean_weights(weight, target.size, axis_name), target.shape)
    mean = lambda pair: sum_over(jnp.stack([weighted_sum(x, weight) for x in pair]), axis_name)  # noqa: E731
    size = largest_over(jnp.max(jnp.abs(jnp.stack([value, target]))), axis_name)
    exponent = jnp.frexp(size)[1]
    value, target = (jnp.ldexp(x, -exponent) for x in (value, target))  # squares of the values themselves may overflow
    pair = (target - value, target)
    centred = [x - m for x, m in zip(pair, mean(pair), strict=True)]
    residual, variance = mean([jnp.square(x) for x in centred])
    return jnp.where(variance > 0, 1.0 - residual / jnp.where(variance > 0, variance, 1.0), undefined())


def check_minibatches(minibatches: int, num_envs: int, num_steps: int, has_memory: bool, devices: int = 1) -> None:
    """Raise unless Adam's minibatches divide the batch: its sequences where there is a memory, and each device's share.

    Raises:
        ValueError: they do not.
    """
    size = num_envs * num_steps
    if has_memory and num_envs % minibatches:
        raise ValueError(
            f"critic_minibatches must divide num_envs = {num_envs} where networks have a memory, since sequences stay whole; got "
            f"{minibatches}"
        )
    if size % minibatches:
        raise ValueError(
            f"critic_minibatches must divide the batch num_envs * num_steps = {num_envs} * {num_steps} = {size}; got "
            f"{minibatches}"
        )
    share, what = (size, "samples") if not has_memory else (num_envs, "sequences")
    if share // devices % minibatches:
        raise ValueError(
            f"critic_minibatches must divide each device's share of the batch, {share // devices} {what} on each of {devices} "
            f"devices; got {minibatches}"
        )
