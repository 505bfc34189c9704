import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jtrpo
from jtrpo.envs.actions import environment_action
from jtrpo.tools.checkpoint import Checkpoints, load
from jtrpo.tools.cli import main
from jtrpo.tools.export import export_policy
from jtrpo.tools.noise import sample_by, uniforms_needed
from jtrpo.training.agent import make_agent

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))
PARTS = spaces.Dict({"place": spaces.Box(-1.0, 3.0, (2,)), "kind": spaces.Discrete(3, start=1)})
MASKED = spaces.Dict({"place": spaces.Box(-1.0, 3.0, (2,)), "action_mask": spaces.MultiBinary(4)})
CHOICES = spaces.Dict({"turn": spaces.MultiDiscrete([2, 3]), "push": BOX})


class Shown:
    """An environment of given spaces, of which only those matter here."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, key):
        return self.observe(), jnp.int32(0)

    def observe(self):
        return jax.tree.map(jnp.asarray, example(self.observation_space, np.random.default_rng(0), ()))

    def step(self, key, state, action):
        ends = jnp.bool_(False)
        return jtrpo.EnvStep(self.observe(), state, jnp.float32(0.0), ends, ends, self.observe())


def example(space, rng, batch):
    """Observations such as an environment gives them, of numbers beyond the bounds as well."""
    if isinstance(space, spaces.Dict):
        return {name: example(child, rng, batch) for name, child in space.spaces.items()}
    shape = (*batch, *space.shape)
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.start, space.start + space.n, shape).astype(np.int32)
    if isinstance(space, spaces.MultiBinary):
        mask = rng.integers(0, 2, shape).astype(np.int8)
        mask[..., 0] = 1
        return mask
    return (
        rng.integers(0, 255, shape).astype(np.uint8) if space.dtype == np.uint8 else rng.normal(size=shape).astype("f")
    )


CASES = {
    "discrete": (spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3, start=2), {}),
    "box": (PARTS, BOX, {}),
    "beta": (spaces.Box(-1.0, 1.0, (3,)), BOX, {"box_distribution": "beta", "chunk_size": 2}),
    "several": (PARTS, CHOICES, {"box_distribution": "tanh_gaussian"}),
    "image": (spaces.Box(0, 255, (6, 6, 1), np.uint8), spaces.Discrete(3), {}),
    "memory and mask": (MASKED, spaces.Discrete(4), {"memory": "gru"}),
    "lstm": (spaces.Box(-1.0, 1.0, (3,)), BOX, {"memory": "lstm", "box_distribution": "gsde"}),
}
N = 1_000

ONNX = importlib.util.find_spec("jax2onnx") is not None and importlib.util.find_spec("onnxruntime") is not None

# What follows imports no jtrpo: observations and files in, actions out.
ELSEWHERE = """
import json, sys
from pathlib import Path
import numpy as np, jax

def tree(arrays, name):
    if name in arrays:
        return arrays[name]
    parts = {key[len(name) + 1:]: value for key, value in arrays.items() if key.startswith(name + ".")}
    return tuple(parts[key] for key in sorted(parts)) if name == "memory" else parts

for name in json.loads(sys.argv[1]):
    given = dict(np.load(f"{name}.npz"))
    arguments = [tree(given, each) for each in ("observation", "memory", "key") if any(key.startswith(each) for key in given)]
    call = jax.export.deserialize(bytearray(Path(f"{name}.stablehlo").read_bytes())).call
    out = call(*arguments)
    if any(each.startswith("memory") for each in given):
        _, memory = out
        out = call(arguments[0], memory, *arguments[2:])  # a second step
        out = (out[0], *out[1])
    np.savez(f"{name}-out.npz", *jax.tree.leaves(out))
    if Path(f"{name}.onnx").exists():
        import onnxruntime
        if "key" in given:
            del given["key"]
            given["noise"] = np.load(f"{name}-noise.npy")
        session = onnxruntime.InferenceSession(f"{name}.onnx")
        out = session.run(None, given)
        if "memory.0" in given:
            names = [each.name for each in session.get_outputs()]
            memory = {each.removeprefix("next_"): value for each, value in zip(names, out) if each.startswith("next_")}
            out = session.run(None, given | memory)
        np.savez(f"{name}-onnx.npz", *out)
assert "jtrpo" not in sys.modules
"""


def named(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Of each case: its policy as jtrpo loads it, what it was given, and what came out in a process without jtrpo."""
    folder, kept, names = tmp_path_factory.mktemp("export"), {}, {}
    for case, (observation_space, action_space, settings) in CASES.items():
        env = Shown(observation_space, action_space)
        config = jtrpo.TrainConfig(env, num_envs=4, num_steps=4, hidden_sizes=(8,), total_timesteps=16, **settings)
        state = jax.jit(jtrpo.make_trainer(config).init)(jax.random.key(0))
        noise = lambda x: x + 0.3 * jnp.cos(jnp.arange(1.0, x.size + 1)).reshape(x.shape)  # noqa: E731 # no layer is zero
        statistics = state.observation_statistics
        state = state._replace(
            policy_params=jax.tree.map(noise, state.policy_params),
            observation_statistics=statistics._replace(mean=jax.tree.map(lambda x: x + 0.2, statistics.mean)),
        )
        with Checkpoints(folder / case, config) as checkpoints:
            checkpoints.save(state)
        observation = example(observation_space, np.random.default_rng(1), (N,))
        for sample in (False, True):
            name = f"{case}{' sampled' * sample}"
            arrays = export_policy(folder / case, folder / f"{name}.stablehlo", sample=sample, env=env)
            if ONNX:
                onnx = export_policy(folder / case, folder / f"{name}.onnx", format="onnx", sample=sample, env=env)
                assert {**arrays, "key": 0, "noise": 0} == {**onnx, "key": 0, "noise": 0}
                names[f"{name} onnx"] = onnx
            given = {"observation": observation}
            if memory := [each for each in arrays if each.startswith("memory")]:
                given["memory"] = [np.zeros((N, 8), np.float32) for _ in range(len(memory))]
            if sample:
                given["key"] = jax.random.key_data(jax.random.key(5))
                columns = int(onnx["noise"].split()[1].strip("]")) if ONNX else 0
                np.save(folder / f"{name}-noise.npy", np.random.default_rng(2).random((N, columns), np.float32))
            np.savez(folder / f"{name}.npz", **named(given))
            names[name] = arrays
        kept[case] = jtrpo.load_policy(folder / case, env=env), observation, env
    command = [sys.executable, "-c", ELSEWHERE, json.dumps([each for each in names if not each.endswith(" onnx")])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, kept, names


FORMS = {"mode": "-out", "sample": " sampled-out", "onnx": "-onnx", "onnx sample": " sampled-onnx"}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_actions_are_those_of_the_loaded_policy(exported, case, form):
    if form.startswith("onnx") and not ONNX:
        pytest.skip("jax2onnx is not installed")
    folder, kept, _ = exported
    policy, observation, env = kept[case]
    if form == "onnx sample":
        policy = by_noise(folder / case, env, np.load(folder / f"{case} sampled-noise.npy"))
    key = jax.random.key(5) if form == "sample" else None
    action, memory = policy(observation, key=key)
    if "memory" in CASES[case][2]:
        action, memory = policy(observation, memory, key=key)
    out = np.load(folder / f"{case}{FORMS[form]}.npz")
    expected = jax.tree.leaves((action, memory.policy))
    assert len(out.files) == len(expected)
    for file, value in zip(out.files, expected, strict=True):
        if np.issubdtype(out[file].dtype, np.integer):
            assert (out[file] == value).mean() > 0.998  # but for ties within rounding
        else:
            np.testing.assert_allclose(out[file], value, rtol=1e-4, atol=1e-5)
    assert len(np.unique(out[out.files[0]].round(3), axis=0)) > 1


def by_noise(directory, env, noise):
    """Like a loaded policy, with actions drawn from uniform numbers."""
    config, restored = load(directory, env)
    agent = make_agent(config)

    def policy(observation, memory=None, key=None):
        memory = agent.empty_memory(N) if memory is None else memory
        distribution, memory = agent.policy(restored.state, observation, memory)
        assert uniforms_needed(distribution) == noise.shape[1]
        action = sample_by(distribution, noise)
        return environment_action(config.environment.action_space, action, config.squash), memory

    return policy


@pytest.mark.slow
def test_inputs_and_outputs_are_told_by_name(exported):
    names = exported[2]
    assert names["discrete"] == {"observation": "float32[N, 3]", "action": "int32[N]"}
    assert list(names["memory and mask sampled"].items()) == [
        ("observation.action_mask", "int8[N, 4]"),
        ("observation.place", "float32[N, 2]"),
        ("memory.0", "float32[N, 8]"),
        ("key", "uint32[2]"),
        ("action", "int32[N]"),
        ("next_memory.0", "float32[N, 8]"),
    ]
    if ONNX:
        assert names["discrete sampled onnx"]["noise"] == "float32[N, 3]"


def test_the_command_writes_the_file_and_says_what_goes_in_and_out(runs, tmp_path, capsys):
    file = tmp_path / "policy.bin"
    main(["export", str(runs[0]), "--out", str(file)])
    assert capsys.readouterr().out.split("\n") == ["observation: float32[N, 4]", "action: int32[N]", f"see {file}", ""]
    observation = np.random.default_rng(0).normal(size=(7, 4)).astype("f")
    out = jax.export.deserialize(bytearray(file.read_bytes())).call(observation)
    np.testing.assert_array_equal(out, jtrpo.load_policy(runs[0])(observation)[0])


def test_what_cannot_be_exported_is_refused_before_anything_is_written(runs, tmp_path, monkeypatch):
    file = tmp_path / "policy"
    for settings, error, message in (
        ({"format": "tflite"}, ValueError, r"format must be one of 'stablehlo', 'onnx'; got 'tflite'"),
    ):
        with pytest.raises(error, match=message):
            export_policy(runs[0], file, **settings)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'jtrpo\[onnx\]'"):
        export_policy(runs[0], file, format="onnx")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        export_policy(tmp_path, file)
    with pytest.raises(ValueError, match="does not exist; make it first"):
        export_policy(runs[0], tmp_path / "missing" / "policy")
    assert not list(tmp_path.iterdir())
