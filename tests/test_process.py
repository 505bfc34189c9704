"""What only a fresh process can show: import time, and that a large vmapped training ends."""

import json
import os
import subprocess
import sys

import jaxlib
import pytest


def python(code, timeout, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, env={**clean, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_adds_a_third_at_most_to_what_jax_flax_and_optax_take():
    # A share of the same process, because a busy machine slows both alike.
    code = """
import time
start = time.process_time()
import json, sys, jax, flax, optax
known, before = set(sys.modules), time.process_time()
import jtrpo
print(json.dumps((time.process_time() - before) / (before - start)))
early = {"gymnax", "matplotlib", "tyro", "rich"} & (set(sys.modules) - known)
assert not early, f"imported before they are needed: {early}"
"""
    assert any(json.loads(python(code, timeout=300)) < 1 / 3 for _ in range(6))


def test_late_import_warns_where_the_deadlock_threatens():
    code = """
import warnings, jax, jaxlib, os
jax.numpy.zeros(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import jtrpo
affected = tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11)
assert any("too late" in str(w.message) for w in caught) == affected, caught
"""
    python(code, timeout=300)


def test_the_users_own_xla_flags_are_kept():
    code = "import jtrpo, os; print(os.environ['XLA_FLAGS'])"
    assert "--xla_force_host_platform_device_count=2" in python(
        code, timeout=300, XLA_FLAGS="--xla_force_host_platform_device_count=2"
    )
    mine = "--xla_cpu_enable_concurrency_optimized_scheduler=true"
    assert python(code, timeout=300, XLA_FLAGS=mine).strip() == mine


# As users compile it, which takes long: in the quick tests only where it used to hang, and no longer than shows that it does not.
HANGS = tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11)


@pytest.mark.parametrize(
    ("seeds", "timesteps", "least"),
    [
        pytest.param(8, 20_000, 60, marks=() if HANGS else pytest.mark.long),
        pytest.param(20, 100_000, 450, marks=pytest.mark.long),
    ],
)
def test_seeds_with_evaluation_in_the_users_own_jit_end_and_learn_cartpole(seeds, timesteps, least):
    code = f"""
import jax, jtrpo
config = jtrpo.TrainConfig(env="CartPole-v1", total_timesteps={timesteps}, num_envs=64, num_steps=32)
train, trainer = jtrpo.make_train(config), jtrpo.make_trainer(config)

@jax.jit
@jax.vmap
def run(key):
    result = train(key)
    return trainer.evaluate(result.state, key, num_episodes=64).mean(), result.metrics.policy.kl.max()

returns, kl = run(jax.random.split(jax.random.key(0), {seeds}))
print(returns.tolist() + [float(kl.max())])
"""
    *returns, kl = json.loads(python(code, timeout=900))
    assert len(returns) == seeds
    assert sum(returns) / seeds >= least, returns
    assert kl <= 0.01
