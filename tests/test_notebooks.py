"""The notebooks run from top to bottom, and were saved with their pictures and without machine-specific text."""

import ast
import importlib
import inspect
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import jtrpo

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 600_000  # bytes: a notebook with eight small pictures as matplotlib writes them


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def streams(notebook, name):
    return "".join(
        output.text for output in outputs(notebook) if output.output_type == "stream" and output.name == name
    )


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel for all notebooks, on this very Python and this checkout, whatever kernels are installed."""
    folder, name = tmp_path_factory.mktemp("notebooks"), "jtrpo-tests"
    spec = folder / "jupyter" / "kernels" / name / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        for variable, place in (
            ("JUPYTER_PATH", "jupyter"),
            ("JUPYTER_CONFIG_DIR", "config"),
            ("JUPYTER_RUNTIME_DIR", "runtime"),
            ("IPYTHONDIR", "ipython"),
        ):
            (folder / place).mkdir(exist_ok=True)
            patch.setenv(variable, str(folder / place))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        patch.setenv("JTRPO_NOTEBOOK_SMALL", "1")
        patch.delenv("MPLBACKEND", raising=False)  # so that the kernel draws into the notebook
        manager = KernelManager(kernel_name=name)
        manager.start_kernel(cwd=str(folder))
        yield manager
        manager.shutdown_kernel(now=True)


def execute(notebook, kernel):
    """Run it from top to bottom, with nothing left of the notebook before but what was compiled."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(notebook, km=kernel, timeout=300)
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
    return notebook


def check_outputs(notebook):
    complaints = streams(notebook, "stderr")
    assert "Warning" not in complaints, complaints
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook)), "no picture"


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {
        "quickstart",
        "trust_region",
        "custom_environment",
        "compose",
        "does_the_line_search_matter",
        "hyperparameters",
        "accelerator",
        "diagnose",
        "vine",
    }


# The others compile many trainings, and what they show is tested elsewhere.
WHOLE = {"compose"}


def whole_or_long(path):
    return pytest.param(path, marks=pytest.mark.slow if path.stem in WHOLE else pytest.mark.long, id=path.stem)


@pytest.mark.parametrize("path", [whole_or_long(path) for path in NOTEBOOKS])
def test_notebook_runs(path, kernel):
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    check_outputs(execute(notebook, kernel))


def unknown(source):
    """What a program uses of jtrpo that is not there: names, imports, and keywords of functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "jtrpo":
            module = importlib.import_module(node.module)
            yield from (each.name for each in node.names if not hasattr(module, each.name))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "jtrpo" and not hasattr(jtrpo, node.attr):
            yield node.attr
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) == "jtrpo"
        ):
            takes = inspect.signature(getattr(jtrpo, node.func.attr, dict)).parameters
            if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values()):
                yield from (word.arg for word in node.keywords if word.arg and word.arg not in takes)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.name)
def test_what_a_notebook_or_a_page_uses_is_there(path):
    if path in PAGES:
        code = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    else:
        code = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    lines = [line for line in "\n".join(code).splitlines() if not line.startswith(("%", "!"))]
    assert list(unknown("\n".join(lines))) == []


def test_what_is_not_there_is_noticed():
    source = "from jtrpo import gae, gone\njtrpo.missing\njtrpo.TrainConfig('CartPole-v1', num_envs=1, envs=2)"
    assert sorted(unknown(source)) == ["envs", "gone", "missing"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_notebook_is_complete(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run it from top to bottom, then save"
    )
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert any(line.lstrip().startswith("assert ") for cell in code for line in cell.source.splitlines())
    check_outputs(notebook)

    assert path.stat().st_size < LARGEST
    assert notebook.metadata.kernelspec.name == "python3"
    for output in outputs(notebook):
        output.get("data", {}).pop("image/png", None)  # base64 may spell anything
    text = nbformat.writes(notebook)
    assert not re.findall(r"(?<![\w.:/$\\])/(?:[\w.-]+/)+", text)  # no absolute path of any machine
    assert "pip install" not in text


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("assert 1 == 2, 'wrong result'", CellExecutionError, "wrong result"),
        ("import warnings; warnings.warn('out of date')", AssertionError, "UserWarning: out of date"),
        ("1 + 1", AssertionError, "no picture"),
    ],
    ids=["fails", "warns", "draws nothing"],
)
def test_a_bad_notebook_is_noticed(source, error, message, kernel):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with pytest.raises(error, match=message):
        check_outputs(execute(notebook, kernel))
