"""Fisher-vector products by one linearisation of the policy (Gauss-Newton form).

With theta the policy's parameters, J the Jacobian of the distribution's own parameters (logits; mean and log_std) with
respect to theta, and M the Hessian of the mean KL(old || new) in those distribution parameters at new = old,

    F v = J^T M J v,

which is the Hessian of the mean KL at theta exactly, because the KL's gradient in the distribution's parameters is zero
there. J v is a forward-mode product, J^T u a reverse-mode one: the network is never differentiated twice, F is positive
semi-definite by construction, and every product after the linearisation is linear algebra only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jtrpo.core.batch import (
    AxisName,
    as_weight,
    axis_size,
    check_size,
    mean_weights,
    replace_invalid,
    sum_over,
    weighted_sum,
)
from jtrpo.core.check import as_floats, check_callable, check_number, check_same_shapes, shown
from jtrpo.core.distributions import Distribution, check_distribution

Policy = Callable[[PyTree, PyTree], Distribution]
"""Any pure function ``policy(params, observation) -> distribution``."""


class LinearizedPolicy(NamedTuple):
    """A policy and its Jacobian J at fixed parameters, on fixed observations.

    Attributes:
        distribution: pi_theta(. | observation).
        jvp: ``J v``: parameters' tangent to distribution's tangent.
        vjp: ``J^T u``: distribution's cotangent to parameters' cotangent.
    """

    distribution: Distribution
    jvp: Callable[[PyTree], PyTree]
    vjp: Callable[[PyTree], PyTree]


def linearize_policy(
    policy: Policy, params: PyTree, observation: PyTree, axis_name: AxisName = None
) -> LinearizedPolicy:
    """Run the policy forward once and keep what its Jacobian products need.

    ``J^T u`` covers this device's samples only: sum it over ``axis_name``.

    Raises:
        TypeError: the policy returned something that is not a distribution.
    """

    def apply(params: PyTree) -> Distribution:
        return check_differentiable(check_distribution(policy(params, observation)))

    return LinearizedPolicy(*linearize_function(apply, params, axis_name))


def check_differentiable(distribution: Distribution) -> Distribution:
    """Return a distribution, or raise ``TypeError`` where its leaves are not all floating-point arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(distribution):
        if not jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating):
            raise TypeError(
                "policy(params, observation) must return a distribution that is a pytree of floating-point arrays; "
                f"got {shown(leaf)} at {jax.tree_util.keystr(path) or 'its root'}: register its class with "
                "jax.tree_util.register_pytree_node_class, and put a mask into the logits, as -inf"
            )
    return distribution


def linearize_function(
    function: Callable[[PyTree], Any], params: PyTree, axis_name: AxisName = None
) -> tuple[Any, Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
    """Value, ``J v`` and ``J^T u`` of a function of parameters; ``J^T u`` is this device's part of a sum over ``axis_name``."""
    params = per_device(params, axis_name)
    value, jvp = jax.linearize(function, params)
    transpose = jax.linear_transpose(jvp, params)
    return value, lambda vector: jvp(per_device(vector, axis_name)), lambda cotangent: transpose(cotangent)[0]


def fisher_operator(
    linear: LinearizedPolicy, weight: Float[Array, " B"], axis_name: AxisName = None
) -> Callable[[PyTree], PyTree]:
    """``v -> F v`` at the linearisation point; ``weight`` sums to one over all samples (and over ``axis_name``)."""
    old = linear.distribution

    def local_mean_kl(new: Distribution) -> Float[Array, ""]:
        return weighted_sum(old.kl(new), weight)

    _, hessian_product = jax.linearize(jax.grad(local_mean_kl), old)
    return lambda vector: sum_over(linear.vjp(hessian_product(linear.jvp(vector))), axis_name)


def sample_curvature(linear: LinearizedPolicy, vector: PyTree) -> Float[Array, " B"]:
    """``v^T F_s v`` of each sample s: the second derivative of KL(old || new) along ``v``; their mean is ``v^T F v``."""
    old, tangent = linear.distribution, linear.jvp(vector)

    def slope(t: Float[Array, ""]) -> Float[Array, " B"]:
        along = lambda t: old.kl(jax.tree.map(lambda p, u: p + t * u, old, tangent))  # noqa: E731
        return jax.jvp(along, (t,), (jnp.ones_like(t),))[1]

    zero = jnp.zeros_like(old.entropy(), shape=())
    return jax.jvp(slope, (zero,), (jnp.ones_like(zero),))[1]


def fisher_vector_product(
    policy: Policy,
    params: PyTree,
    observation: PyTree,
    vector: PyTree,
    *,
    damping: float | Float[Array, ""] = 0.0,
    weight: Float[Array, " B"] | None = None,
    sequence_length: int = 1,
    axis_name: AxisName = None,
) -> PyTree:
    """Product of the policy's Fisher information matrix with a vector.

        (F + damping I) v,   F = mean over samples of J^T M J = mean E_a[grad log pi(a|s) grad log pi(a|s)^T]

    Args:
        policy: pure function ``(params, observation) -> distribution``.
        params: pytree of floating-point arrays.
        observation: any pytree, leading axis ``B``.
        vector: pytree shaped like ``params``.
        damping: added to the diagonal.
        weight: weight of each sample in the mean, ``[B]``; zero leaves a sample out. ``None``: all equal.
        sequence_length: as for :func:`trpo_update`.
        axis_name: mapped axis over which the mean is taken as well.

    Returns:
        A pytree shaped like ``params``.

    Raises:
        TypeError: the policy returned something that is not a distribution, or parameters that are not floating-point.
        ValueError: ``vector`` is not shaped like ``params``, ``weight`` not like the batch, or there is nothing in it.

    Examples:
        With one state and logits as parameters, F is diag(p) - p p^T:

        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> product = jax.jit(lambda *arrays: jtrpo.fisher_vector_product(policy, *arrays))
        >>> product(jnp.zeros((1, 2)), jnp.ones((1, 1)), jnp.array([[1.0, -1.0]])).round(4).tolist()
        [[0.5, -0.5]]

    Source: Schulman et al. 2015, https://arxiv.org/abs/1502.05477, appendix C.1. For repeated products at the same
    parameters, as in conjugate gradients, :func:`trpo_update` linearises once and reuses it.
    """
    check_callable("policy", policy, "(params, observation) -> distribution", takes=2)
    check_number("damping", damping, at_least=0, scalar=True)
    params = as_floats("params", params)
    check_same_shapes("vector", vector, "params", params)
    axis_size(axis_name)
    vector = jax.tree.map(lambda v, p: jnp.asarray(v, p.dtype), vector, params)
    for leaf in jax.tree.leaves(observation):
        weight = as_weight(weight, jnp.shape(leaf)[:1])
    observation = replace_invalid(observation, weight, keep_finite=sequence_length > 1)
    linear = linearize_policy(policy, params, observation, axis_name)
    size = check_size(linear.distribution.entropy().shape)
    product = fisher_operator(linear, mean_weights(weight, size, axis_name), axis_name)(vector)
    return jax.tree.map(lambda f, v: f + damping * v, product, vector)


def per_device(tree: PyTree, axis_name: AxisName) -> PyTree:
    """Mark replicated arrays as this device's own, so that derivatives stay local until they are summed by name.

    Inside ``jax.shard_map`` the transpose of a replicated input sums over the devices by itself; a second sum would count
    every sample once per device. Elsewhere (``axis_name`` of a vmap, or none) there is nothing to mark.
    """
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    manual = tuple(name for name in names if name in jax.sharding.get_abstract_mesh().manual_axes)
    return jax.lax.pcast(tree, manual, to="varying") if manual else tree
