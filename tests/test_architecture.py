import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jtrpo"
MAY_IMPORT = {
    "core": {"core"},
    "networks": {"networks", "core"},
    "envs": {"envs", "core"},
    "training": {"training", "networks", "envs", "core"},
    "tools": {"tools", "training", "networks", "envs", "core"},
}
FILES = {room: sorted((ROOT / room).rglob("*.py")) for room in MAY_IMPORT}
CORE_MAY_IMPORT = {"jax", "jaxtyping", "numpy"}


def imported_modules(source, package):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # "from jtrpo import core" names a room in the alias, not in the module.
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "jtrpo" else [module]


def modules_of(path):
    package = ".".join(path.relative_to(ROOT.parent).parent.parts)
    return list(imported_modules(path.read_text(), package))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_between_rooms_point_one_way(room):
    wrong = []
    for path in FILES[room]:
        for module in modules_of(path):
            parts = module.split(".")
            if parts[0] == "jtrpo" and (len(parts) == 1 or parts[1] not in MAY_IMPORT[room]):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, wrong


def test_core_needs_only_jax_numpy_jaxtyping_and_the_standard_library():
    import sys

    allowed = CORE_MAY_IMPORT | set(sys.stdlib_module_names) | {"jtrpo"}
    wrong = [
        f"{path.name} imports {module}"
        for path in FILES["core"]
        for module in modules_of(path)
        if module.split(".")[0] not in allowed
    ]
    assert not wrong, wrong


def test_the_rooms_that_exist_hold_files_and_no_room_is_unlisted():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms <= set(MAY_IMPORT), rooms - set(MAY_IMPORT)
    assert len(FILES["core"]) >= 9


@pytest.mark.parametrize(
    ("source", "package", "modules"),
    [
        ("import jtrpo.training.trainer as t", "jtrpo.core", ["jtrpo.training.trainer"]),
        ("def f():\n    from jtrpo.envs import protocol", "jtrpo.core", ["jtrpo.envs"]),
        ("from jtrpo import training", "jtrpo.core", ["jtrpo.training"]),
        ("from ..training import trainer", "jtrpo.core", ["jtrpo.training"]),
        ("from .. import tools", "jtrpo.core", ["jtrpo.tools"]),
        ("from . import fisher", "jtrpo.core", ["jtrpo.core"]),
    ],
)
def test_every_form_of_import_is_seen(source, package, modules):
    assert list(imported_modules(source, package)) == modules
