"""A policy in one file that needs no jtrpo: StableHLO for JAX, ONNX for everything else."""

import dataclasses
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.extend.core import jaxpr_as_fun
from jaxtyping import PyTree

from jtrpo.core.check import check_choice
from jtrpo.core.distributions import Distribution
from jtrpo.envs.actions import environment_action
from jtrpo.envs.gymnasium import batch_example
from jtrpo.networks.network import Network
from jtrpo.tools.checkpoint import load
from jtrpo.tools.files import absolute, atomic_write, check_file
from jtrpo.tools.noise import sample_by, uniforms_needed
from jtrpo.training.agent import Memories, make_agent

FORMATS = ("stablehlo", "onnx")
PLATFORMS = ("cpu", "cuda", "tpu")


def export_policy(
    directory: str | Path,
    file: str | Path,
    *,
    format: str = "stablehlo",
    sample: bool = False,
    env: Any = None,
    policy_network: Network | None = None,
    critic_network: Network | None = None,
) -> dict[str, str]:
    """Write the policy of a run into one file that takes raw observations and gives the environment's actions.

    Normalisation, clipping and stretching are part of it; the number of observations is free. The policy is that of
    :func:`load_policy`.

        jtrpo.export_policy("runs/cartpole", "cartpole.stablehlo")
        policy = jax.export.deserialize(bytearray(open("cartpole.stablehlo", "rb").read()))  # needs JAX and flatbuffers
        action = policy.call(observation)                              # [N, 4] -> [N]

    The inputs are ``observation``, as the environment gives it, with a leading axis of ``N``; for a policy with a memory
    ``memory``, zeros at the start of an episode; and with ``sample``, another one for each step, ``key``, the two whole numbers
    of ``jax.random.key_data(jax.random.key(0))``, or with ``"onnx"`` ``noise``, independent uniform numbers in [0, 1). The
    outputs are ``action`` and ``next_memory``. With ``"stablehlo"`` they are arguments and results in that order, dictionaries
    and tuples where the spaces are; with ``"onnx"`` each array is an input or output of its own, by the names that this function
    returns.

    Args:
        directory: what was given as ``checkpoint_dir``.
        file: to write.
        format: ``"stablehlo"``, for CPU, CUDA and TPU, by ``jax.export``; or ``"onnx"`` (extra ``onnx``).
        sample: draw actions, instead of the most probable ones.
        env: as for :func:`load_policy`.
        policy_network: likewise.
        critic_network: likewise.

    Returns:
        Type and shape of each input and output by its name, such as ``{"observation": "float32[N, 4]", "action": "int32[N]"}``.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ImportError: ``"onnx"`` without its extra.
        TypeError: ``sample`` with ``"onnx"``, and a distribution that is none of jtrpo's.
        ValueError: as for :func:`load_policy`; another format; a memory that does not begin with zeros; or the file cannot be
            written.
    """
    check_choice("format", format, FORMATS)
    path = absolute(file, "file")
    check_file("file", path)
    if format == "onnx" and importlib.util.find_spec("jax2onnx") is None:
        raise ImportError("format='onnx' needs jax2onnx; install it with: pip install 'jtrpo[onnx]'")
    random = ("noise" if format == "onnx" else "key") if sample else None
    act, inputs = _function(directory, random, env, policy_network, critic_network)
    (batch,) = export.symbolic_shape("N")
    shaped = lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))  # noqa: E731
    symbolic = {name: jax.tree.map(shaped, value) if name != "key" else value for name, value in inputs.items()}
    results = jax.eval_shape(act, *symbolic.values())
    outputs = dict(zip(("action", "next_memory"), results if "memory" in inputs else (results,), strict=False))
    if format == "stablehlo":
        exported = export.export(jax.jit(act), platforms=PLATFORMS)(*symbolic.values())
        atomic_write(path, lambda part: part.write_bytes(exported.serialize()))
    else:
        _write_onnx(path, act, symbolic, outputs)
    return {
        name: f"{x.dtype}{list(x.shape)}".replace("'", "") for name, x in (_named(symbolic) | _named(outputs)).items()
    }


def _function(
    directory: str | Path, random: str | None, env: Any, policy_network: Network | None, critic_network: Network | None
) -> tuple[Callable[..., Any], dict[str, PyTree]]:
    """From observations to actions, and an example of its arguments for one observation, by name."""
    config, restored = load(directory, env, policy_network, critic_network)
    agent = make_agent(dataclasses.replace(config, chunk_size=None))  # whose pieces have a fixed size, and N is free
    space = config.environment.action_space
    inputs: dict[str, PyTree] = {"observation": batch_example(config.environment.observation_space, 1)}
    memory = agent.policy_module.empty_memory(1)
    if jax.tree.leaves(memory):
        if any(leaf.any() for leaf in jax.tree.leaves(memory)):
            raise ValueError("an exported policy begins an episode with a memory of zeros; empty_memory gives others")
        leaves, structure = jax.tree.flatten(memory)
        inputs["memory"] = tuple(leaves)

    def policy(observation: PyTree, memory: PyTree) -> tuple[Distribution, Memories]:
        return agent.policy(restored.state, observation, Memories(memory, ()))

    if random == "key":
        inputs["key"] = jax.random.key_data(jax.random.key(0))
    elif random == "noise":
        distribution, _ = jax.eval_shape(policy, inputs["observation"], memory)
        inputs["noise"] = jnp.zeros((1, uniforms_needed(distribution)))

    def act(observation: PyTree, *more: PyTree) -> Any:
        given = dict(zip(inputs, (observation, *more), strict=True))
        memory = jax.tree.unflatten(structure, given["memory"]) if "memory" in given else ()
        distribution, after = policy(observation, memory)
        if random == "key":
            action = distribution.sample(jax.random.wrap_key_data(given["key"]))
        else:
            action = sample_by(distribution, given["noise"]) if random else distribution.mode()
        action = environment_action(space, action, config.squash)
        return (action, tuple(jax.tree.leaves(after.policy))) if "memory" in given else action

    return act, inputs


def _write_onnx(path: Path, act: Callable[..., Any], inputs: dict[str, PyTree], outputs: dict[str, PyTree]) -> None:
    import jax2onnx
    import onnx_ir

    leaves, structure = jax.tree.flatten(tuple(inputs.values()))

    def function(*leaves: Any) -> Any:
        return tuple(jax.tree.leaves(act(*jax.tree.unflatten(structure, leaves))))

    # Traced before jax2onnx puts functions of its own in the place of JAX's.
    traced = jaxpr_as_fun(jax.make_jaxpr(function)(*leaves))
    names = {"input_names": list(_named(inputs)), "output_names": list(_named(outputs))}
    model = jax2onnx.to_onnx(traced, leaves, model_name="policy", return_mode="ir", **names)
    used = {value for node in model.graph.all_nodes() for value in node.inputs}
    for graph in model.graphs():
        for name in [name for name, value in graph.initializers.items() if value not in used]:
            del graph.initializers[name]  # onnxruntime would complain of it
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it complains of types that it could infer
    atomic_write(path, lambda part: onnx_ir.save(model, part))


def _named(trees: dict[str, PyTree]) -> dict[str, Any]:
    """Each array with its name, such as ``observation.position``, in the order of the arguments."""
    return {
        ".".join([name, *(jax.tree_util.keystr((each,), simple=True) for each in path)]): leaf
        for name, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
