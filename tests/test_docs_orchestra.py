"""docs/orchestra.md, run as it stands."""

import doctest
import re
import tomllib

from tiny import REPOSITORY

from grpo_agents.config import Config

PAGE = REPOSITORY / "docs" / "orchestra.md"


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_page_says_what_the_environment_does(tmp_path, monkeypatch):
    (file,) = [text for text in blocks("python") if text.startswith("# my_tools.py")]
    (tmp_path / "my_tools.py").write_text(file)
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert (failed, tried > 15) == (0, True)


def test_its_config_is_one():
    (text,) = blocks("toml")
    found = Config.model_validate({**tomllib.loads(text), "model": {"path": "m"}, "env": {"id": "e"}})
    for weights in found.preference.choices:
        assert set(weights) <= set(found.rewards.vector)
        assert sum(weights.values()) == 1
