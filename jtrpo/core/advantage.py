"""Generalised advantage estimation with terminations and truncations kept apart."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtrpo.core.batch import as_numbers
from jtrpo.core.check import check_number


def gae(
    reward: Float[Array, "T ..."],
    value: Float[Array, "T ..."],
    next_value: Float[Array, "T ..."],
    terminated: Bool[Array, "T ..."],
    truncated: Bool[Array, "T ..."],
    *,
    gamma: float | Float[Array, ""],
    gae_lambda: float | Float[Array, ""],
    ratio: Float[Array, "T ..."] | None = None,
) -> tuple[Float[Array, "T ..."], Float[Array, "T ..."]]:
    """Generalised advantage estimates and the value targets that go with them.

        delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - terminated_t)(1 - truncated_t) A_{t+1},   target_t = A_t + V(s_t)

    With ``ratio``, from samples of other policies (V-trace): with c_t = min(1, ratio_t), c_{t+1} A_{t+1} takes the place of
    A_{t+1}, and the target is V(s_t) + c_t A_t.

    Args:
        reward: r_t, ``[T, ...]``.
        value: V(s_t).
        next_value: V of the observation that really followed, before any reset. Where the episode was truncated it is
            the bootstrap; where it terminated it is ignored.
        terminated: the episode ended by itself: no value follows.
        truncated: the episode was cut off (time limit): the value that follows counts, the rewards after it do not.
        gamma: discount per step, in [0, 1].
        gae_lambda: bias-variance trade-off lambda, in [0, 1].
        ratio: pi(a_t | s_t) / mu(a_t | s_t), with mu the policy that acted; ``None``: the two are the same.

    Returns:
        ``(advantage, value_target)``, each ``[T, ...]``, in units of (discounted) return.

    Raises:
        TypeError: what is not an array of numbers.
        ValueError: the arrays differ in shape, or gamma or lambda is out of range; where they are traced, all is NaN instead.

    Examples:
        The same two steps, cut off by a time limit and ended by themselves: only what was cut off has a future.

        >>> reward, value, next_value = jnp.ones(2), jnp.zeros(2), jnp.array([0.0, 8.0])
        >>> never, at_the_end = jnp.array([False, False]), jnp.array([False, True])
        >>> cut_off, _ = jtrpo.gae(reward, value, next_value, never, at_the_end, gamma=0.5, gae_lambda=1.0)
        >>> ended, _ = jtrpo.gae(reward, value, next_value, at_the_end, never, gamma=0.5, gae_lambda=1.0)
        >>> cut_off.tolist(), ended.tolist()
        ([3.5, 5.0], [1.5, 1.0])

    Source: Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation,
    https://arxiv.org/abs/1506.02438, equation 16; Pardo et al. 2018, https://arxiv.org/abs/1712.00378, for time limits; Espeholt
    et al. 2018, IMPALA, https://arxiv.org/abs/1802.01561, equation 1, for V-trace.
    """
    named = {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "truncated": truncated,
    }
    if ratio is not None:
        named["ratio"] = ratio
    arrays = {name: as_numbers(name, array) for name, array in named.items()}
    for name, array in arrays.items():
        if array.shape != arrays["reward"].shape:
            raise ValueError(f"{name} must have the shape of reward, {arrays['reward'].shape}; got {array.shape}")
    if arrays["reward"].ndim == 0:
        raise ValueError(f"reward must have a leading axis of time, [T, ...]; got {reward!r}")
    reward, value, next_value, terminated, truncated = (arrays[name] for name in tuple(named)[:5])
    in_range = check_number("gamma", gamma, at_least=0, at_most=1, scalar=True)
    in_range &= check_number("gae_lambda", gae_lambda, at_least=0, at_most=1, scalar=True)
    gamma = jnp.where(in_range, gamma, jnp.nan)

    terminated, truncated = terminated.astype(bool), truncated.astype(bool)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    decay = jnp.where(terminated | truncated, 0.0, gamma * gae_lambda).astype(delta.dtype)

    trace = jnp.ones_like(delta) if ratio is None else jnp.minimum(arrays["ratio"], 1.0).astype(delta.dtype)

    def accumulate(next_term: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        delta_t, decay_t, trace_t = step
        advantage = delta_t + decay_t * next_term
        return trace_t * advantage, advantage

    steps = (delta, decay, trace)
    zero = jnp.sum(delta[:0], axis=0)  # zero on delta's devices, even if T is 0
    _, advantage = jax.lax.scan(accumulate, zero, steps, reverse=True, unroll=8)
    return advantage, trace * advantage + value
