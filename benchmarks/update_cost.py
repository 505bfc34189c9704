"""What the pieces of an update cost, in units of one full-batch policy gradient at the same shapes.

    python -m benchmarks.update_cost --num-envs 64 --num-steps 32 --json update_cost.json

Every piece runs many times inside one jitted loop, as in training, each time from slightly other parameters; a figure is the
median over repeats, the pieces taken in turn. FLOPs are those of the matrix products, counted from the shapes; the machine's
rate is that of a large float32 matrix product in the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

import jtrpo
from jtrpo.core.objective import surrogate
from jtrpo.training.critic import fit_critic, init_critic_optimizer
from jtrpo.training.gauss_newton import fit_gauss_newton

MATRIX = 1024
SAMPLES = 200_000  # in a timed run of a piece


def pieces(num_envs: int, num_steps: int, hidden_sizes: tuple[int, ...], iterations: int) -> dict[str, Callable]:
    """Functions of the policy's parameters (and of the critic's for its fits) on one CartPole batch."""
    config = jtrpo.TrainConfig("CartPole-v1", num_envs=num_envs, num_steps=num_steps, hidden_sizes=hidden_sizes)
    trainer, agent = jtrpo.make_trainer(config), jtrpo.make_agent(config)
    state = jax.jit(trainer.init)(jax.random.key(0))
    size = config.batch_size
    keys = jax.random.split(jax.random.key(1), 4)
    observation = jax.random.normal(keys[0], (size, 4))
    policy, critic = agent.policy_network, agent.critic_network
    distribution = policy(state.policy_params, observation)
    action = distribution.sample(keys[1])
    batch = jtrpo.Batch(observation, action, jax.random.normal(keys[2], (size,)), distribution.log_prob(action))
    target = jax.random.normal(keys[3], (size,))
    reward = target.reshape(num_steps, num_envs)
    optimizer = init_critic_optimizer(state.critic_params)
    never = jnp.zeros((num_steps, num_envs), bool)

    def gradient(params: Any) -> Any:
        return jax.grad(lambda p: surrogate(policy(p, observation), batch))(params)

    def products(params: Any) -> Any:
        product = jtrpo.linearize(policy, params, batch, normalize=None).fisher_operator()
        return jax.lax.fori_loop(0, iterations, lambda _, v: product(v), params)

    def update(params: Any, fraction: float, iterations: int = iterations, **settings: Any) -> Any:
        numbers = {"cg_iterations": iterations, "cg_tolerance": 0.0, "fisher_fraction": fraction}
        return jtrpo.trpo_update(policy, params, batch, **numbers, **settings)[0]

    def adam(params: Any) -> Any:
        settings = {"learning_rate": 1e-3, "epochs": 10, "minibatches": 4}
        return fit_critic(critic, params, optimizer, observation, target, keys[0], **settings)[0]

    def gauss_newton(params: Any, steps: int) -> Any:
        settings = {"max_change": 0.3, "damping": 0.01, "steps": steps, "cg_iterations": iterations}
        return fit_gauss_newton(critic, params, observation, target, **settings)[0]

    def advantages(value: Any) -> Any:
        return jtrpo.gae(reward, value, value, never, never, gamma=0.99, gae_lambda=0.95)[0]

    params, critic_params = state.policy_params, state.critic_params
    return {
        "gradient": partial(repeated, gradient, params),
        f"{iterations} Fisher products": partial(repeated, products, params),
        "policy step, Fisher products on the whole batch": partial(repeated, partial(update, fraction=1.0), params),
        "policy step, Fisher products on a tenth": partial(repeated, partial(update, fraction=0.1), params),
        "policy step without its products": partial(repeated, partial(update, fraction=0.1, iterations=1), params),
        "critic, ten epochs of Adam in four minibatches": partial(repeated, adam, critic_params),
        "critic, one Gauss-Newton step": partial(repeated, partial(gauss_newton, steps=1), critic_params),
        "critic, two Gauss-Newton steps": partial(repeated, partial(gauss_newton, steps=2), critic_params),
        "generalised advantages": partial(repeated, advantages, reward),
    }


def repeated(piece: Callable, start: Any, times: int) -> Any:
    """``piece`` over and over from parameters that differ in the last bits, so that no run can be shared or left out."""
    near = lambda _, x: jax.tree.map(lambda a, b: a + 1e-6 * (b - a), x, piece(x))  # noqa: E731
    return jax.lax.fori_loop(0, times, near, start)


def matrix_product(start: jax.Array, times: int) -> jax.Array:
    """A chain of large matrix products."""
    return jax.lax.fori_loop(0, times, lambda _, x: x @ start, start)


def measure(
    num_envs: int, num_steps: int, hidden_sizes: tuple[int, ...], iterations: int, repeats: int
) -> dict[str, Any]:
    """Median seconds and costs in gradients of every piece, and the roofline."""
    times = max(5, SAMPLES // (num_envs * num_steps))
    functions = pieces(num_envs, num_steps, hidden_sizes, iterations)
    functions["matrix"] = partial(matrix_product, jnp.eye(MATRIX) * 0.5)
    compiled = {name: jax.jit(partial(run, times=times)).lower().compile() for name, run in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for repeat in range(repeats + 1):
        for name, run in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:  # the first is a warm-up
                seconds[name].append((time.perf_counter() - began) / times)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        name: sorted(piece / gradient for piece, gradient in zip(values, seconds["gradient"], strict=True))
        for name, values in seconds.items()
        if name != "matrix"
    }
    size = num_envs * num_steps
    widths = (4, *hidden_sizes, 2)
    forward = sum(2 * size * a * b for a, b in pairwise(widths))
    first = 2 * size * widths[0] * widths[1]  # the inputs need no derivative
    flops = {"gradient": 3 * forward - first, f"{iterations} Fisher products": (4 * forward - 2 * first) * iterations}
    rate = 2 * MATRIX**3 / medians["matrix"]
    return {
        "num_envs": num_envs,
        "num_steps": num_steps,
        "hidden_sizes": hidden_sizes,
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "in_gradients": {
            name: {"median": statistics.median(values), "least": values[0], "most": values[-1]}
            for name, values in ratios.items()
        },
        "share_of_matmul_rate": {name: count / medians[name] / rate for name, count in flops.items()},
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=32)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--cg-iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error("--repeats must be at least 5: a median of fewer says little")
    result = measure(
        options.num_envs, options.num_steps, tuple(options.hidden_sizes), options.cg_iterations, options.repeats
    )
    print(
        f"| {result['device']}, jax {result['jax']}, {options.num_envs} x {options.num_steps} | in gradients | least to most |"
    )
    print("|---|---|---|")
    for name, figure in result["in_gradients"].items():
        print(f"| {name} | {figure['median']:.2f} | {figure['least']:.2f} to {figure['most']:.2f} |")
    for name, share in result["share_of_matmul_rate"].items():
        print(f"{name}: {share:.0%} of the rate of a {MATRIX} x {MATRIX} matrix product")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
