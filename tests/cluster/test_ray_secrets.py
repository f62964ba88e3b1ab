"""Keys are in nothing that a run on Ray says or leaves, Ray's own logs and the output of its processes among it."""

import itertools
import tempfile
import traceback
from pathlib import Path

import pytest
import ray
from fake_openai import serving
from leaks import ANSWERS, KEY, LIKED, TRAINED, holds_key, leaks
from tiny import save_start
from typer.testing import CliRunner

from grpo_agents.cli import app

RAY = """
[cluster]
kind = "ray"
workers = 1
"""


@pytest.fixture(scope="module")
def session():
    """The folder of a Ray cluster whose processes have the key in their environment."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as short:  # sockets want short paths
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("TWO_LINES", f"{KEY}\n{KEY}")
        ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, _temp_dir=short)
        yield Path(short)
        ray.shutdown()
        assert leaks(Path(short)) == []  # nor in what was written last


def train(folder, url, *settings):
    """Trains in a folder, and gives the outcome and all that was shown."""
    save_start(folder / "start")
    (folder / "liked.py").write_text(LIKED)
    config = TRAINED.replace("URL", url).replace("patience = 0.2", "patience = 60") + RAY
    (folder / "trained.toml").write_text(config)
    result = CliRunner().invoke(app, ["--debug", "train", "trained.toml", "--set", "train.steps=1", *settings])
    return result, result.output + "".join(traceback.format_exception(result.exception))


@pytest.mark.slow
def test_a_run_on_workers_with_a_hosted_judge(session, tmp_path, monkeypatch, capfd):
    """Which answers and refuses in turn, and repeats the key each time."""
    monkeypatch.chdir(tmp_path)
    answers = itertools.cycle(ANSWERS[name] for name in ("an answer", "401"))
    with serving(lambda path, body: next(answers)) as fake:
        result, shown = train(tmp_path, fake.url)
    assert not holds_key(shown + "".join(capfd.readouterr()))
    assert result.exit_code == 0, shown
    assert leaks(tmp_path) == []
    assert leaks(session) == []
    printed = "".join(file.read_text() for file in session.glob("session_*/logs/worker-*.err"))
    assert "the judge says you said [hidden]" in printed  # so that is among what was searched
    assert "refuses the request (401): you said [hidden]" in printed


def test_an_error_that_ends_a_worker_reaches_the_driver_without_the_key(session, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    result, shown = train(tmp_path, "http://localhost:1/v1", "--set", "models.judge.server.key_variable=TWO_LINES")
    assert not holds_key(shown + "".join(capfd.readouterr()))
    assert "models.judge: the environment variable TWO_LINES holds characters that no key has" in shown
    assert result.exit_code == 1
    assert leaks(tmp_path) == []
    assert leaks(session) == []
