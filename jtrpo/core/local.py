"""A policy on a batch, linearised at its parameters: what every stage of an update is computed from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jtrpo.core.batch import (
    AxisName,
    Batch,
    axis_size,
    check_batch,
    largest_over,
    mean_weights,
    normalize_advantages,
    replace_invalid,
    stratified,
    sum_over,
    weighted_sum,
)
from jtrpo.core.check import as_floats, check_callable, check_count, check_number, check_same_shapes, check_static
from jtrpo.core.distributions import Distribution, check_alike, check_distribution
from jtrpo.core.fisher import (
    LinearizedPolicy,
    Policy,
    fisher_operator,
    linearize_policy,
    per_device,
)
from jtrpo.core.line_search import Evaluation
from jtrpo.core.objective import Objective, behavior_log_prob, per_sample
from jtrpo.core.vine import normalize_values

Normalization = Callable[[Array, Array, AxisName], Array]
"""``(advantage, weight, axis_name) -> advantage``."""


class LocalPolicy(NamedTuple):
    """A policy and its Jacobian at fixed parameters, on the samples of a batch. Made by :func:`linearize`.

    Attributes:
        policy: pure function ``(params, observation) -> distribution``.
        params: where it was linearised.
        batch: the samples, with ``log_prob`` filled in.
        weight: of the samples, ``[B]``; sums to one over the whole batch (and over ``axis_name``).
        linear: pi_theta(. | observation), ``J v`` and ``J^T u``.
        acting: the distribution that the KL is measured from; ``None``: that at ``params``.
        sequence_length: samples that belong together.
        axis_name: mapped axis, or axes, over which the batch is spread.
    """

    policy: Policy
    params: PyTree
    batch: Batch
    weight: Float[Array, " B"]
    linear: LinearizedPolicy
    acting: Distribution | None = None
    sequence_length: int = 1
    axis_name: AxisName = None

    @property
    def distribution(self) -> Distribution:
        """pi_theta(. | observation), leading axis ``B``."""
        return self.linear.distribution

    def value_and_gradient(self, objective: Objective, **more: Objective) -> tuple[Evaluation, PyTree]:
        """Measure the policy at ``params``, and differentiate the mean of ``objective`` with respect to them.

        Args:
            objective: pure function ``(distribution, batch) -> [B]``.
            **more: further ones, whose means are measured as well.

        Returns:
            ``(evaluation, gradient)``, the second shaped like ``params``.
        """
        local_value = lambda distribution: self._local_mean(objective, distribution)  # noqa: E731
        value, slope = jax.value_and_grad(local_value)(self.distribution)
        return self._evaluation(self.distribution, value, more, self.linear.vjp(slope))

    def gradient(self, objective: Objective) -> PyTree:
        """Gradient of the mean of ``objective`` at ``params``."""
        return self.value_and_gradient(objective)[1]

    def measure(self, params: PyTree, objective: Objective, **more: Objective) -> Evaluation:
        """Measure the policy at other parameters; arguments as those of :meth:`value_and_gradient`."""
        check_same_shapes("params", params, "those that the policy was linearised at", self.params)
        new: Distribution = check_distribution(self.policy(params, self.batch.observation))
        return self._evaluation(new, self._local_mean(objective, new), more)[0]

    def mean(self, values: Float[Array, " B"]) -> Float[Array, ""]:
        """Weighted mean over the whole batch."""
        return sum_over(weighted_sum(values, self.weight), self.axis_name)

    def largest(self, values: Float[Array, " B"]) -> Float[Array, ""]:
        """Largest over the whole batch, and at least zero."""
        return largest_over(self._local_largest(values), self.axis_name)

    def fisher_operator(self) -> Callable[[PyTree], PyTree]:
        """``v -> F v`` at ``params``, see :func:`jtrpo.fisher_vector_product`."""
        return fisher_operator(self.linear, self.weight, self.axis_name)

    def subset(self, fraction: float) -> "LocalPolicy":
        """The same policy on a share of the samples, spread over the batch, for Fisher products that cost less."""
        check_static("fraction", fraction, float)
        check_number("fraction", fraction, above=0, at_most=1, scalar=True)
        if fraction == 1:
            return self
        (batch, acting), weight = stratified(
            (self.batch._replace(weight=None), self.acting),
            self.batch.weight,
            self.weight.shape[0],
            fraction,
            self.sequence_length,
            self.axis_name,
        )
        linear = linearize_policy(self.policy, self.params, batch.observation, self.axis_name)
        mean = mean_weights(weight, batch.advantage.shape[0], self.axis_name)
        return self._replace(batch=batch._replace(weight=weight), weight=mean, linear=linear, acting=acting)

    def _evaluation(
        self, new: Distribution, value: Float[Array, ""], more: dict[str, Objective], gradient: PyTree = ()
    ) -> tuple[Evaluation, PyTree]:
        """Measurements and gradient over all devices, summed in one message."""
        others = {name: self._local_mean(objective, new) for name, objective in more.items()}
        divergence = self._kl(new).astype(value.dtype)
        sums = value, weighted_sum(divergence, self.weight), weighted_sum(new.entropy(), self.weight), others, gradient
        value, kl, entropy, others, gradient = sum_over(sums, self.axis_name)
        return Evaluation(value, kl, self._local_largest(divergence), entropy, others), gradient

    def _local_mean(self, objective: Objective, distribution: Distribution) -> Float[Array, ""]:
        return weighted_sum(per_sample(objective, distribution, self.batch), self.weight)

    def _kl(self, new: Distribution) -> Float[Array, " B"]:
        if self.acting is None and new is self.distribution:  # exactly zero; a computed KL may be off by rounding
            return per_device(jnp.zeros(self.weight.shape), self.axis_name)
        return (self.distribution if self.acting is None else self.acting).kl(new)

    def _local_largest(self, values: Float[Array, " B"]) -> Float[Array, ""]:
        return jnp.max(jnp.where(self.weight == 0, 0.0, values))


def linearize(
    policy: Policy,
    params: PyTree,
    batch: Batch,
    *,
    acting: Distribution | None = None,
    normalize: Normalization | None = normalize_advantages,
    sequence_length: int = 1,
    axis_name: AxisName = None,
) -> LocalPolicy:
    """Run a policy forward once on a batch, and keep what the stages of an update need.

    The first sample that counts takes the place of those of weight zero; a ``log_prob`` that is missing becomes the acting
    policy's own; advantages are normalised.

    Args:
        policy: pure function ``(params, observation) -> distribution``, from any network library.
        params: any pytree of floating-point arrays.
        batch: samples with leading axis ``B``, see :class:`Batch`.
        acting: as for :func:`trpo_update`.
        normalize: ``(advantage, weight, axis_name) -> advantage``; ``None`` takes the advantages as they are. With several
            actions per state the default is :func:`jtrpo.core.vine.normalize_values`. Static.
        sequence_length: as for :func:`trpo_update`. Static.
        axis_name: as for :func:`trpo_update`. Static.

    Raises:
        ValueError: a batch whose leading axes differ, a distribution that has other axes than ``[B]``, or no parameters at all.
        TypeError: parameters that are not floating-point, or a policy that returned something that is not a distribution.

    Examples:
        The natural gradient of a policy over two actions that is the same in every state:

        >>> policy = lambda params, observation: jtrpo.Categorical(observation @ params)
        >>> batch = jtrpo.Batch(jnp.ones((2, 1)), action=jnp.array([0, 1]), advantage=jnp.array([1.0, -1.0]))
        >>> local = jtrpo.linearize(policy, jnp.zeros((1, 2)), batch)
        >>> gradient = local.gradient(jtrpo.likelihood_ratio)
        >>> direction, info = jtrpo.natural_gradient(local, gradient, damping=0.0)
        >>> gradient.round(4).tolist(), direction.round(4).tolist()
        ([[0.5, -0.5]], [[1.0, -1.0]])
    """
    check_callable("policy", policy, "(params, observation) -> distribution", takes=2)
    if normalize is not None:
        check_callable("normalize", normalize, "(advantage, weight, axis_name) -> advantage", takes=3)
    params, batch = as_floats("params", params), check_batch(batch, branched=True)
    axis_size(axis_name)
    size = batch.advantage.shape[0]
    check_static("sequence_length", sequence_length, int)
    check_count("sequence_length", sequence_length, at_least=1)
    if size % sequence_length:
        raise ValueError(f"sequence_length must divide the batch of {size} samples; got {sequence_length}")
    observation = replace_invalid(batch.observation, batch.weight, keep_finite=sequence_length > 1)
    entries = replace_invalid(batch._replace(observation=(), weight=None), batch.weight)
    batch = entries._replace(observation=observation, weight=batch.weight)
    linear = linearize_policy(policy, params, observation, axis_name)
    acted = linear.distribution if acting is None else check_distribution(acting, "acting must be")
    for name, distribution in (("policy must return", linear.distribution), ("acting must be", acted)):
        shape = distribution.entropy().shape
        if shape != (size,):
            raise ValueError(
                f"{name} a distribution over the batch axis alone, [B] = [{size}]; its entropy has shape {shape}"
            )
    check_alike("acting", acted, "policy(params, observation)", linear.distribution)
    mean = mean_weights(batch.weight, size, axis_name)
    log_prob = behavior_log_prob(acted, batch)
    # A stored log_prob of +inf would pass as a ratio of zero.
    batch = batch._replace(log_prob=jnp.where(jnp.isfinite(log_prob), log_prob, jnp.nan))
    if normalize is normalize_advantages and batch.advantage.ndim > 1:
        normalize = normalize_values
    if normalize is not None:
        advantage = normalize(batch.advantage, mean, axis_name)
        if jnp.shape(advantage) != batch.advantage.shape:
            raise ValueError(
                f"normalize must return advantages of shape {list(batch.advantage.shape)}; got {list(jnp.shape(advantage))}"
            )
        batch = batch._replace(advantage=advantage)
    return LocalPolicy(policy, params, batch, mean, linear, acting, sequence_length, axis_name)
