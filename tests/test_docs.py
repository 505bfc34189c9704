"""The documentation builds without a warning, leaves nothing out, names nothing that does not exist, and its code runs."""

import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jtrpo
from jtrpo.tools.options import _parse

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

# sb3-contrib 2.9.2: inspect.signature of TRPO and of its learn, and the names that a run's logger got; Spinning Up's trpo, 2020.
SB3_ARGUMENTS = """policy env learning_rate n_steps batch_size gamma cg_max_steps cg_damping line_search_shrinking_factor
    line_search_max_iter n_critic_updates gae_lambda use_sde sde_sample_freq rollout_buffer_class rollout_buffer_kwargs
    normalize_advantage target_kl sub_sampling_factor stats_window_size tensorboard_log policy_kwargs verbose seed device
    _init_setup_model total_timesteps callback log_interval tb_log_name reset_num_timesteps progress_bar"""
SB3_LOGS = """train/policy_objective train/value_loss train/kl_divergence_loss train/explained_variance
    train/is_line_search_success train/std train/n_updates train/learning_rate
    rollout/ep_rew_mean rollout/ep_len_mean rollout/success_rate
    time/iterations time/total_timesteps time/fps time/time_elapsed"""
SPINNING_UP_ARGUMENTS = """env_fn actor_critic ac_kwargs seed steps_per_epoch epochs gamma delta vf_lr train_v_iters damping_coeff
    cg_iters backtrack_iters backtrack_coeff lam max_ep_len logger_kwargs save_freq"""
SPINNING_UP_LOGS = (
    "Epoch EpRet EpLen VVals TotalEnvInteracts LossPi LossV DeltaLossPi DeltaLossV KL BacktrackIters Time"
)


def page(name):
    return (DOCS / f"{name}.md").read_text()


def test_the_readme_is_a_page():
    text = (ROOT / "README.md").read_text()
    lines = text.splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120] == []
    named = {name.split("#")[0] for name in re.findall(r"(?:\]\(|src=\")([^)\"]+)", text) if "://" not in name}
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_pictures_are_small():
    limits = {".png": 80_000, ".gif": 300_000, ".svg": 20_000}
    pictures = [file for file in (DOCS / "images").iterdir() if file.suffix != ".py"]
    assert len(pictures) >= 5
    assert [file.name for file in pictures if file.stat().st_size > limits[file.suffix]] == []
    text = "".join(file.read_text() for file in DOCS.glob("*.md"))
    assert [file.name for file in pictures if f"](images/{file.name})" not in text] == []  # each is shown


def first_cells(text):
    """Names in backticks in the first column of a page's tables."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def metric_names():
    config = jtrpo.TrainConfig("CartPole-v1", num_envs=4, num_steps=4, total_timesteps=16)
    trainer = jtrpo.make_trainer(config)
    metrics = jax.eval_shape(trainer.step, jax.eval_shape(trainer.init, jax.random.key(0)))[1]
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(metrics)
    ]


@pytest.mark.parametrize("names", [SB3_ARGUMENTS, SB3_LOGS, SPINNING_UP_ARGUMENTS, SPINNING_UP_LOGS])
def test_every_name_of_the_others_is_in_the_migration_table(names):
    assert set(names.split()) <= first_cells(page("migration"))


def test_what_the_migration_table_leads_to_exists():
    ours = {*jtrpo.TrainConfig.__dataclass_fields__, *jtrpo.Hyperparams._fields, *metric_names(), *jtrpo.__all__}
    ours |= {*inspect.signature(jtrpo.trpo_update).parameters, "steps_per_second", "run_seconds", "make_collect"}
    ours |= {"TensorBoard", "Progress", "WandB", "on_update", "steps_per_epoch", "step", "jax"}
    cells = [line.split("|")[2] for line in page("migration").splitlines() if line.startswith("| `")]
    named = {re.match(r"[\w.]+", name)[0] for cell in cells for name in re.findall(r"`([\w.][^`]*)`", cell)}
    roots = {name for name in named if name not in ours and name.split(".")[0] not in ours and name != "JAX_PLATFORMS"}
    assert not roots


def test_every_metric_is_explained():
    text = page("metrics")
    assert set(metric_names()) - first_cells(text) == set()
    named = set(re.findall(r"`((?:episode|policy|critic|hyperparams)\.\w+)`", text))
    assert named <= {*metric_names(), "episode.cost_mean"}  # which only some environments have


def test_every_dotted_name_exists():
    text = "".join(file.read_text() for file in DOCS.rglob("*.md"))
    names = set(re.findall(r"`(jtrpo\.[\w.]*\w)[`(]", text))
    assert len(names) >= 5
    for name in sorted(names):
        pkgutil.resolve_name(name)  # raises where there is none


def test_every_command_is_understood():
    text = "".join(file.read_text() for file in DOCS.rglob("*.md"))
    text += (ROOT / "README.md").read_text().replace(".venv/bin/", "")
    commands = set(re.findall(r"(?:^ *|&& )jtrpo (.*)", text, re.MULTILINE)) | set(
        re.findall(r"`jtrpo (\w+ [^`]*)`", text)
    )
    assert len(commands) >= 5
    for command in commands - {"train --help"}:
        _parse(shlex.split(command.replace("$seed", "0").replace("$RANK", "0"), comments=True), {})


def test_every_public_name_is_in_the_reference():
    text = "".join(file.read_text() for file in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"^::: jtrpo\.(\w+)$", text, re.MULTILINE))
    assert named == set(jtrpo.__all__)


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    assert "returned parameters" in (tmp_path / "metrics" / "index.html").read_text()
    reference = (tmp_path / "api" / "core" / "index.html").read_text()
    assert "trust region delta, in nats" in reference
    assert ":class:" not in reference
    algorithm = (tmp_path / "algorithm" / "index.html").read_text()
    formulas = re.findall(r"<math.*?</math>", algorithm, re.DOTALL)
    assert len(formulas) > 20
    # What the converter does not know it leaves as it was written.
    unknown = re.compile(r"\\|&(?!#x)|&#x00026;")
    assert not [formula for formula in formulas if unknown.search(formula)]
    assert "arithmatex" not in algorithm


@pytest.mark.long
def test_the_code_about_meshes_runs():
    metrics = run_blocks("scaling")["result"].metrics
    assert metrics.policy.kl.shape[0] == 8 * jax.device_count()  # the last block's seeds
    assert (metrics.policy.kl <= metrics.hyperparams.max_kl).all()


def run_blocks(name, text=None):
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text or page(name), re.MULTILINE | re.DOTALL):
        exec(compile(block, f"{name}.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_recipes_for_updates_of_ones_own_run(capsys):
    names = run_blocks("compose")
    out = capsys.readouterr().out.split()
    safe = ["ON_LIMIT", "True", "True", "(2,)", "(2,)"]
    assert out == ["ACCEPTED", "True", "ACCEPTED", "True", *safe, "True", "True"]
    # In both searches the condition of one's own decided.
    params, batch = names["params"], names["batch"]
    _, _, free = jax.jit(names["careful_update"])(params, batch, most=jnp.inf)
    assert names["start"].entropy - free.evaluation.entropy > 0.002
    start, _, free = jax.jit(names["update_within_cost"])(params, batch, names["cost_advantage"], most=jnp.inf)
    assert free.evaluation.more["cost"] - start.more["cost"] > 0.002


def test_the_page_on_updates_lists_all_that_a_linearised_policy_offers():
    offered = {name for name in vars(jtrpo.LocalPolicy) if not name.startswith("_")} - set(jtrpo.LocalPolicy._fields)
    listed = {name.partition("(")[0] for name in first_cells(page("compose"))}
    assert offered <= listed


@pytest.mark.long
def test_the_opened_trainers_code_runs_from_top_to_bottom():
    names = run_blocks("open_trainer")
    assert names["result"].best_return.shape == (2,)
    assert {"policy_network", "critic_network", "advantage_estimator", "objective", "on_batch"} <= set(
        re.findall(r"\w+", page("open_trainer"))
    )


@pytest.mark.slow
def test_the_cookbooks_code_runs_from_top_to_bottom(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = run_blocks("cookbook")
    assert jax.nn.softmax(names["distribution"].logits).tolist() == [[1, 0, 0], [1, 0, 0]]
    recalled = names["result"].metrics
    assert recalled.episode.return_mean[-1] > 0.9 > 0.7 > recalled.episode.return_mean[0]  # memory and masks together
    assert (recalled.policy.kl <= 0.02).all()
    assert not names["info"].accepted
    assert "all advantages are equal" in capsys.readouterr().out


def test_the_cookbook_names_every_reason_for_a_refusal():
    assert {status.name for status in jtrpo.UpdateStatus} - {"ACCEPTED"} <= first_cells(page("cookbook"))


@pytest.mark.slow
def test_the_readmes_code_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text().replace("100_000", "4_000")  # 20 seeds all the same
    with jax.numpy_rank_promotion("allow"):  # as outside of the tests
        names = run_blocks("README", text)
    assert names["result"].metrics.policy.kl.shape[0] == 20
    assert names["info"].accepted
    assert (tmp_path / "curve.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["environments", "safe", "variants"])
def test_the_pages_code_runs(name):
    run_blocks(name)


@pytest.mark.slow
def test_the_tutorials_code_runs_from_top_to_bottom(capsys):
    run_blocks("tutorial")
    out = capsys.readouterr().out
    assert "(2, 3, 10)" in out
    assert "ACCEPTED" in out
