"""What is said of the package in more than one place is the same in all of them."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: Python :: 3\.", each)]


def test_every_place_names_the_same_pythons():
    assert len(NAMED) >= 2
    assert PROJECT["requires-python"] == f">={NAMED[0]}"
    words = f"With Python {', '.join(NAMED[:-1])} or {NAMED[-1]} "
    for page in ("README.md", "docs/tutorial.md"):
        assert words in (ROOT / page).read_text(), page
    (workflow,) = (ROOT / ".github" / "workflows").glob("*.yml")
    assert sorted(set(re.findall(r"\b3\.\d+\b", workflow.read_text()))) == NAMED
    # CI takes the oldest and the newest from the classifiers.
    script = (ROOT / ".ci" / "run").read_text()
    assert "pyproject.toml" in script
    assert not re.findall(r"\b3\.1\d", script)
