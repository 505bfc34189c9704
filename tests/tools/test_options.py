import dataclasses
import inspect
import itertools
import re

import pytest

from jtrpo.tools.cli import main
from jtrpo.tools.options import CONFIG_FIELDS, HYPERPARAM_FIELDS, documented_attributes
from jtrpo.tools.settings import describe
from jtrpo.training.config import TrainConfig
from jtrpo.training.hyperparams import Hyperparams

CONFIG = [field.name for field in dataclasses.fields(TrainConfig)]


@pytest.mark.parametrize(("owner", "names"), [(TrainConfig, CONFIG), (Hyperparams, Hyperparams._fields)])
def test_every_setting_belongs_to_one_group(owner, names):
    described = re.findall(r"^ {4}(\w+): ", inspect.cleandoc(owner.__doc__).partition("Raises:")[0], re.MULTILINE)
    assert sorted(described) == sorted(names)  # each once
    attributes = documented_attributes(owner)
    assert list(attributes) == described
    headings = [heading for heading, _ in attributes.values()]
    assert set(headings) <= {heading for heading, _ in documented_attributes(TrainConfig).values()}
    # No group is taken up a second time further down.
    assert len(set(headings)) == len(list(itertools.groupby(headings)))


def test_a_settings_file_has_the_order_of_the_groups():
    assert list(documented_attributes(TrainConfig)) == CONFIG
    settings = describe(TrainConfig("CartPole-v1"), Hyperparams(), 0)
    names = [name for name in (*CONFIG, *Hyperparams._fields, "seed") if name != "mesh"]
    assert list(settings)[: len(names)] == names


def test_help_shows_every_setting_under_the_heading_of_its_group(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # one box above the other
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    shown, title = {}, None
    for line in text.splitlines():  # with a frame, where the terminal has the characters for it
        if heading := re.match(r"(?: |╭─ )(?=\S)(.*?) ?options[ ─╮]*$", line):
            title = heading[1]
        elif option := re.match(r"[│ ]+--(\w[\w-]*)", line):
            assert option[1] not in shown
            shown[option[1]] = title
    attributes = documented_attributes(TrainConfig) | documented_attributes(Hyperparams)
    for name, *_ in (*CONFIG_FIELDS, *HYPERPARAM_FIELDS):
        heading = attributes[name][0]
        assert shown[name.replace("_", "-")] == heading[0].lower() + heading[1:]
    assert shown["seed"] == ""
    assert "trust region delta" in text
    assert not re.search(r":\w+:", text)  # no roles
