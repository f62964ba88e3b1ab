"""The commands as a person types them: what they print, what they leave, and how they end."""

import pytest
from shell import CONFIG
from tiny import save_start
from typer.testing import CliRunner

from grpo_agents.cli import app


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments, stdin=None: CliRunner().invoke(app, [str(entry) for entry in arguments], input=stdin)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with a config, a tiny model and a run of it; and what was printed."""
    folder = tmp_path_factory.mktemp("cli")
    save_start(folder / "start")
    (folder / "run.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, ["train", "run.toml", "--set", "run=runs/a"])
    assert result.exit_code == 0, result.output
    return folder, result.stdout
