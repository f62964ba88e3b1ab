"""Figures that go elsewhere: what a run hands on, and what happens where that fails."""

import importlib.util
import json
import math
import sqlite3
import sys
import types

import pytest

from grpo_agents import loggers
from grpo_agents.config import make_config
from grpo_agents.loggers import ID_FILE, Loggers
from grpo_agents.run_folder import RunFolder
from grpo_agents.trainer import Trainer, resume
from runs import sft


class Noting:
    """Notes what it is told, and fails when it is told to."""

    def __init__(self, told, fails=None):
        self.told, self.fails = told, fails

    def start(self, config, name, folder, run_id):
        self._note("start", config, name, folder, run_id)

    def log(self, step, figures):
        self._note("log", step, figures)

    def close(self):
        self._note("close")

    def _note(self, what, *rest):
        if what == self.fails:
            raise ConnectionError("no route to host")
        self.told.append((what, *rest))


@pytest.fixture
def made(monkeypatch):
    """Loggers of which wandb is one that notes; what it was told, and what was said."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin="there"))

    def make(fails=None):
        told, said = [], []
        monkeypatch.setitem(loggers._KINDS, "wandb", lambda: Noting(told, fails))
        return Loggers(["wandb"], said.append), told, said

    return make


def test_a_run_that_goes_on_has_the_same_id_and_one_that_begins_anew_another(made, tmp_path):
    ids = []
    for going_on in (False, True, True, False):
        some, told, _ = made()
        some.start({"seed": 1}, tmp_path, resume=going_on)
        ((what, config, name, folder, run_id),) = told
        assert (what, config, name, folder) == ("start", {"seed": 1}, tmp_path.name, tmp_path)
        ids.append(run_id)
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert (tmp_path / ID_FILE).read_text().strip() == ids[3]


def test_what_is_not_finite_is_not_handed_on(made, tmp_path):
    some, told, _ = made()
    some.log(3, {"loss": 0.5, "kl": math.nan, "ratio": math.inf})
    assert told == [("log", 3, {"loss": 0.5})]


@pytest.mark.parametrize("fails", ["start", "log", "close"])
def test_one_that_fails_is_said_once_and_left_out(made, tmp_path, fails):
    some, told, said = made(fails)
    some.start({}, tmp_path, resume=False)
    for step in range(3):
        some.log(step, {"loss": 0.5})
    some.close()
    (line,) = said
    assert line.startswith("wandb failed, and the run goes on without it: ConnectionError: no route to host.")
    assert len(told) == {"start": 0, "log": 1, "close": 4}[fails]


def test_nothing_is_written_where_nothing_is_asked_for(tmp_path):
    Loggers([], print).start({}, tmp_path, resume=False)
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_not_installed_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, start):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = sft(tmp_path / "run", "no model is here", **{"train.log": '["wandb"]'})
    with pytest.raises(ImportError, match=r"train.log names 'wandb'.*pip install 'grpo-agents\[wandb\]'"):
        Trainer(config)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_called_so_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ImportError, match="not installed"):
        Loggers(["wandb"], print)


def test_a_logger_that_nobody_knows_is_refused_by_the_config():
    with pytest.raises(ValueError, match=r"train\.log\.0: Input should be 'wandb' or 'trackio'"):
        make_config({"model": {"path": "m"}, "env": {"id": "e"}, "train": {"log": ["wandbb"]}})


def short_run(tmp_path, start, name, **more):
    """Two steps of SFT, and two more after a resume; the figures of each step."""
    settings = {"train.steps": 2, "train.save_every": 1, "eval": "{}", "train.log": f'["{name}"]', **more}
    folder = Trainer(sft(tmp_path / "run", start, **settings)).train()
    config = RunFolder(folder).config
    config.write_text(config.read_text().replace("steps = 2", "steps = 4"))
    resume(folder)
    rows = RunFolder(folder).read_metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    return rows


def test_a_run_hands_on_what_its_metrics_have(made, tmp_path, start):
    _, told, _ = made()
    rows = short_run(tmp_path, start, "wandb")
    assert [what for what, *_ in told] == ["start", "log", "log", "close"] * 2
    handed = [{"step": entry[1], **entry[2]} for entry in told if entry[0] == "log"]
    assert handed == [{name: value for name, value in row.items() if value is not None} for row in rows]
    (first, second) = (entry for entry in told if entry[0] == "start")
    assert first[1]["method"]["name"] == "sft"
    assert first[-1] == second[-1]


def test_a_run_goes_on_where_its_logger_fails(made, tmp_path, start, capsys):
    made("log")
    short_run(tmp_path, start, "wandb")
    assert capsys.readouterr().err.count("wandb failed, and the run goes on without it") == 2  # once each time


def test_trackio_has_one_run_of_all_steps(tmp_path, start, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    rows = short_run(tmp_path, start, "trackio")
    with sqlite3.connect(tmp_path / "trackio" / "grpo-agents.db") as base:
        found = base.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert {name for name, _, _ in found} == {f"run-{(tmp_path / 'run' / ID_FILE).read_text().strip()}"}
    assert [step for _, step, _ in found] == [0, 1, 2, 3]
    assert [json.loads(metrics)["loss"] for *_, metrics in found] == [row["loss"] for row in rows]


def test_wandb_has_one_run_of_all_steps(tmp_path, start, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    short_run(tmp_path, start, "wandb")
    run_id = (tmp_path / "run" / ID_FILE).read_text().strip()
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
