"""Steps per second of Rejax's PPO on CartPole, and the return it ends with; runs where Rejax is installed.

    rejax/bin/python benchmarks/peers/rejax_speed.py '{"num_envs": 64, "num_steps": 128, "steps": 500000, "settings": {}}'

prints one line of JSON. Only training iterations are timed, not Rejax's evaluations; compilation is apart.
"""

import json
import sys
import time


def main() -> None:
    """Train once and print the rate and the return."""
    import jax
    import rejax

    asked = json.loads(sys.argv[1])
    batch = asked["num_envs"] * asked["num_steps"]
    updates = -(-asked["steps"] // batch)
    algorithm = rejax.PPO.create(
        env="CartPole-v1", num_envs=asked["num_envs"], num_steps=asked["num_steps"], **asked["settings"]
    )
    state = jax.jit(algorithm.init_state)(jax.random.key(asked.get("seed", 0)))

    def iterate(state: object, _: None) -> tuple:
        return algorithm.train_iteration(state), None

    compiled = jax.jit(lambda s: jax.lax.scan(iterate, s, length=updates)[0]).lower(state).compile()
    jax.block_until_ready(compiled(state))
    began = time.perf_counter()
    state = jax.block_until_ready(compiled(state))
    seconds = time.perf_counter() - began
    _, returns = algorithm.eval_callback(algorithm, state, jax.random.key(1))
    print(json.dumps({"steps_per_second": updates * batch / seconds, "return": float(returns.mean())}))


if __name__ == "__main__":
    main()
