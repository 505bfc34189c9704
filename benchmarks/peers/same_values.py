"""One batch, one set of weights: the values that mean the same in sb3-contrib's TRPO and in jtrpo agree.

    python -m benchmarks.peers.same_values --sb3 sb3/bin/python --json benchmarks/results/peers/same-values.json

Batch and weights are drawn by NumPy, for a policy over two actions (CartPole's spaces) and a Gaussian one (Pendulum's). Each
library computes its own advantages, gradient, Fisher product and update in a process of its own, in float32 and with the same
settings: fifteen products of conjugate gradients, damping 0.1, trust region 0.01. Ends with 1 where a difference is above its
tolerance.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jtrpo
from jtrpo.training.critic import explained_variance

HERE = Path(__file__).parent
STEPS, ENVS, WIDTH = 128, 8, 16
SIZES = {"CartPole-v1": (4, 2), "Pendulum-v1": (3, 1)}  # of observations, and of what the policy's last layer gives
SETTINGS = {"max_kl": 0.01, "cg_iterations": 15, "cg_damping": 0.1, "backtrack_factor": 0.8, "max_backtracks": 10}
ROUNDING = 1e-4
"""Largest relative difference of what is one formula, evaluated in float32."""
SOLVER = 1e-2
"""Of what follows from conjugate gradients: theirs begin at a random point, ours at zero."""

Arrays = dict[str, np.ndarray]


class Row(NamedTuple):
    """A value in both libraries; of an array, its norm, and the norm of the difference over it."""

    env: str
    value: str
    sb3: float
    jtrpo: float
    difference: float
    tolerance: float


def question(env: str) -> Arrays:
    """Weights by the peer's names, and a collection ``[T, N]`` with both ends of episodes; all float32."""
    random = np.random.default_rng(0)
    inputs, outputs = SIZES[env]
    weights: Arrays = {}
    for part, last, size in (("policy", "action_net", outputs), ("value", "value_net", 1)):
        layers = {f"mlp_extractor.{part}_net.0": (WIDTH, inputs), f"mlp_extractor.{part}_net.2": (WIDTH, WIDTH)}
        for name, shape in {**layers, last: (size, WIDTH)}.items():
            weights[f"{name}.weight"] = random.normal(size=shape) / np.sqrt(shape[1])
            weights[f"{name}.bias"] = 0.1 * random.normal(size=shape[0])
    if env == "Pendulum-v1":
        weights["log_std"] = np.full(outputs, -0.3)
    shape = (STEPS, ENVS)
    observation = random.normal(size=(*shape, inputs))
    terminated = random.random(shape) < 0.05
    truncated = (random.random(shape) < 0.05) & ~terminated
    following = np.concatenate([observation[1:], random.normal(size=(1, ENVS, inputs))])
    after_end = random.normal(size=following.shape)
    floats = {
        **weights,
        **{f"vector.{name}": random.normal(size=array.shape) for name, array in weights.items() if is_policy(name)},
        "observation": observation,
        "final_observation": np.where((terminated | truncated)[..., None], after_end, following),
        "reward": random.normal(size=shape),
        "advantage": random.normal(size=shape),
        "return": observation[..., 0] + random.normal(size=shape),
        "gamma": np.array(0.99),
        "gae_lambda": np.array(0.95),
    }
    arrays = {name: array.astype(np.float32) for name, array in floats.items()}
    old = policy(arrays, jnp.asarray(arrays["observation"]))
    action = np.asarray(old.sample(jax.random.key(0)))
    log_prob = np.asarray(old.log_prob(jnp.asarray(action)))
    # As of a policy a little off the present one, so that the ratio is not one.
    log_prob = log_prob + 0.1 * random.normal(size=shape).astype(np.float32)
    action = action.reshape(*shape, -1).astype(np.float32)
    return {**arrays, "action": action, "log_prob": log_prob, "terminated": terminated, "truncated": truncated}


def is_policy(name: str) -> bool:
    """Whether a weight is the policy's."""
    return name == "log_std" or "policy_net" in name or "action_net" in name


def mlp(weights: Any, part: str, last: str, x: jax.Array) -> jax.Array:
    """Two tanh layers and a linear one, by the peer's names."""

    def linear(name: str, x: jax.Array) -> jax.Array:
        product = x @ weights[f"{name}.weight"].T
        return product + jnp.broadcast_to(weights[f"{name}.bias"], product.shape)

    for layer in (f"mlp_extractor.{part}_net.0", f"mlp_extractor.{part}_net.2"):
        x = jnp.tanh(linear(layer, x))
    return linear(last, x)


def policy(weights: Any, observation: jax.Array) -> jtrpo.Distribution:
    """Categorical, or Gaussian where there is a log_std."""
    last = mlp(weights, "policy", "action_net", observation)
    return jtrpo.DiagGaussian(last, weights["log_std"]) if "log_std" in weights else jtrpo.Categorical(last)


def measure(asked: Arrays, normalize: bool) -> Arrays:
    """What jtrpo makes of the question, by the peer's names where it has one."""
    weights = {name: jnp.asarray(array) for name, array in asked.items() if is_policy(name) and "vector" not in name}
    values = lambda x: mlp(asked, "value", "value_net", jnp.asarray(x))[..., 0]  # noqa: E731
    ends = (asked["terminated"], asked["truncated"])
    advantage, target = jtrpo.gae(
        jnp.asarray(asked["reward"]), values(asked["observation"]), values(asked["final_observation"]), *ends,
        gamma=float(asked["gamma"]), gae_lambda=float(asked["gae_lambda"]),
    )  # fmt: skip
    flat = lambda name: jnp.asarray(asked[name].reshape(STEPS * ENVS, *asked[name].shape[2:]))  # noqa: E731
    action = flat("action") if "log_std" in asked else flat("action")[:, 0].astype(jnp.int32)
    batch = jtrpo.Batch(flat("observation"), action, flat("advantage"), flat("log_prob"))
    objective, gradient = jax.value_and_grad(lambda w: jtrpo.surrogate(policy(w, batch.observation), batch))(weights)
    vector = {name: jnp.asarray(asked[f"vector.{name}"]) for name in weights}
    product = jtrpo.fisher_vector_product(policy, weights, batch.observation, vector, damping=SETTINGS["cg_damping"])
    update = jax.jit(partial(jtrpo.trpo_update, policy, normalize_advantage=normalize, **SETTINGS))
    updated, info = update(weights, batch)
    old, new = (policy(w, batch.observation) for w in (weights, updated))
    found = {
        "gae advantage": advantage,
        "gae return": target,
        "objective before": objective,
        "gradient": gradient,
        "fisher product": product,
        "train/policy_objective": info.objective_after,
        "train/kl_divergence_loss": jtrpo.mean_kl(new, old),
        "train/is_line_search_success": info.accepted,
        "train/explained_variance": explained_variance(values(asked["observation"]), jnp.asarray(asked["return"])),
        "kl": info.kl,
        **updated,
    }
    if "log_std" in updated:
        found["train/std"] = jnp.exp(updated["log_std"]).mean()
    return {name: np.asarray(x) if hasattr(x, "shape") else x for name, x in found.items()}


def compare(env: str, asked: Arrays, theirs: Arrays, normalized: Arrays) -> list[Row]:
    """Rows of one environment; ``normalized`` is the peer's answer where each library normalises the advantages by itself."""
    ours, names = measure(asked, False), [str(name) for name in theirs["names"]]

    def flat(tree: Any) -> np.ndarray:
        return np.concatenate([np.ravel(tree[name]) for name in names]) if isinstance(tree, dict) else np.ravel(tree)

    def row(value: str, a: Any, b: Any, tolerance: float) -> Row:
        a, b = flat(a).astype(float), flat(b).astype(float)
        size = [float(x[0]) if x.size == 1 else float(np.linalg.norm(x)) for x in (a, b)]
        difference = float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30))
        return Row(env, value, *size, difference, tolerance)

    exact = (
        "gae advantage",
        "gae return",
        "objective before",
        "gradient",
        "fisher product",
        "train/explained_variance",
    )
    rows = [row(name, theirs[name], ours[name], ROUNDING) for name in exact]
    solved = ("train/policy_objective", "train/kl_divergence_loss", "train/is_line_search_success", "train/std")
    rows += [row(name, theirs[name], ours[name], SOLVER) for name in solved if name in theirs]
    before, after = flat(asked), flat(theirs)
    rows.append(row("step", after - before, flat(ours) - before, SOLVER))

    # Both directions of the KL of one and the same step, theirs.
    observation = jnp.asarray(asked["observation"].reshape(STEPS * ENVS, -1))
    old, new = (policy(w, observation) for w in ({name: asked[name] for name in names}, theirs))
    logged = theirs["train/kl_divergence_loss"]
    rows.append(row("KL(new || old) of their step", logged, jtrpo.mean_kl(new, old), ROUNDING))
    label = "KL(old || new) of their step, beside their KL(new || old)"  # shown, not held to a tolerance
    rows.append(row(label, logged, jtrpo.mean_kl(old, new), np.inf))
    # They divide by the standard deviation over n - 1 samples, jtrpo over n.
    shrink = np.sqrt(1.0 - 1.0 / (STEPS * ENVS))
    objective = shrink * measure(asked, True)["train/policy_objective"]
    label = "train/policy_objective, advantages normalised by each, times sqrt(1 - 1/n)"
    rows.append(row(label, normalized["train/policy_objective"], objective, SOLVER))
    return rows


def main() -> None:
    """Ask both, print the rows, and end with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3", required=True, metavar="PYTHON", help="interpreter with sb3-contrib")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    questions = {env: question(env) for env in SIZES}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "question.npz", Path(folder) / "answer.npz"
        np.savez(
            asked, **{f"{env}/{name}": array for env, arrays in questions.items() for name, array in arrays.items()}
        )
        subprocess.run([options.sb3, str(HERE / "sb3_values.py"), str(asked), str(answered)], check=True)
        with np.load(answered) as file:
            answers = dict(file)
    rows = []
    for env, arrays in questions.items():
        theirs, normalized = (
            {name.removeprefix(head): array for name, array in answers.items() if name.startswith(head)}
            for head in (f"{env}/False/", f"{env}/True/")
        )
        rows += compare(env, arrays, theirs, normalized)
    print("| environment | value | sb3-contrib | jtrpo | relative difference |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.env} | {row.value} | {row.sb3:.6g} | {row.jtrpo:.6g} | {row.difference:.1e} |")
    if options.json:
        # Infinity is no JSON: a row that is shown and not held to a tolerance has none.
        entries = [row._asdict() | {"tolerance": row.tolerance if np.isfinite(row.tolerance) else None} for row in rows]
        library = f"sb3-contrib {answers['version']}"
        content = {"library": library, "jax": jax.__version__, "samples": STEPS * ENVS, "rows": entries}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    wrong = [row for row in rows if not row.difference <= row.tolerance]
    if wrong:
        sys.exit("above their tolerance: " + ", ".join(f"{row.value} on {row.env}" for row in wrong))


if __name__ == "__main__":
    main()
