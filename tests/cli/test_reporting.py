"""``report``, as a person types it."""

import struct
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from shell import refused

from grpo_agents import store
from grpo_agents.report import watch
from grpo_agents.trajectory import Step, Trajectory


def test_a_run_that_was_trained_is_reported(run, finished, monkeypatch, tmp_path):
    monkeypatch.chdir(finished[0])
    result = run("report", "runs/a", "--out", tmp_path / "a.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'a.html'} (0.")
    page = (tmp_path / "a.html").read_text()
    assert '<h1 id="name">a</h1>' in page
    assert "Why" not in page
    assert '"eval",2,"eval-000002.parquet"' in page
    assert '"why_no_text":""' in page  # the run's model has the tokenizer


def test_a_file_of_trajectories_is_reported_beside_it(run, tmp_path):
    store.write(tmp_path / "some.parquet", [Trajectory(rewards={"outcome": 1.0}, steps=[Step({"role": "assistant"})])])
    assert run("report", "some.parquet").stdout.startswith("report.html (0.")
    assert (tmp_path / "report.html").exists()


def test_pictures_are_png_and_svg(run, finished, monkeypatch, tmp_path):
    monkeypatch.chdir(finished[0])
    result = run("report", "runs/a", "--pictures", tmp_path / "pictures")
    written = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert written == sorted(line.rpartition("/")[2] for line in result.stdout.split())
    assert {name.rpartition(".")[0] for name in written} >= {"curves", "distributions"}
    for path in (tmp_path / "pictures").iterdir():
        if path.suffix == ".png":
            width, height = struct.unpack(">II", path.read_bytes()[16:24])
            assert width > 500
            assert height > 300
        else:
            assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert not (finished[0] / "runs/a/report.html").exists()


def test_what_cannot_be_is_refused(run, tmp_path):
    assert "nowhere does not exist" in refused(run("report", "nowhere"))
    assert "neither a run folder" in refused(run("report", tmp_path))
    (tmp_path / "metrics.jsonl").touch()
    assert "Let the run finish a step" in refused(run("report", tmp_path))
    assert "nothing to draw yet" in refused(run("report", tmp_path, "--pictures", "p"))
    assert "--pictures draws pictures and no page" in refused(run("report", tmp_path, "--pictures", "p", "--watch"))


def test_watching_says_where_and_ends_with_ctrl_c(run, tmp_path, monkeypatch):
    store.write(tmp_path / "some.parquet", [Trajectory(rewards={"outcome": float(np.float64(1))})])

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupted)
    result = run("report", "some.parquet", "--watch")
    assert result.stdout.startswith("http://127.0.0.1:")
    assert refused(result, 130) == "stopped"


@pytest.mark.parametrize("limit", ["0", "-3"])
def test_a_limit_is_at_least_one(run, limit):
    assert run("report", "x", "--limit", limit).exit_code == 2
