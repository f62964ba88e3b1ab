"""What methods make of the tokens of a run."""

import csv
import io
import json

import pandas
import pytest
from shell import refused

from grpo_agents import store


@pytest.fixture
def here(finished, monkeypatch):
    """The folder of a finished run, and a trajectory of its last step."""
    monkeypatch.chdir(finished[0])
    return finished[0], store.read(finished[0] / "runs/a/trajectories/train-000001.parquet")[3]


def test_explain_shows_a_row_a_token_and_a_column_a_method(run, here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    result = run("explain", "runs/a", "--trajectory", "1.1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("trajectory 1.1 of train-000001.parquet, one of a group of 2: outcome ")
    assert lines[1] == "π: runs/a/checkpoints/step-000002/model; π_ref: start"
    assert max(map(len, lines)) <= 100
    assert "−∂loss/∂log π × |o| × trajectories (dpo: pairs)" in result.stdout
    assert "[V = 0: no critic is kept with these weights]" in " ".join(result.stdout.split())
    head = next(place for place, line in enumerate(lines) if "log π " in line and "ρ" in line and "token" in line)
    assert lines[head].split() == ["token", "log", "π", "ρ", "KL", *"run run sft rft rft dpo ppo grpo".split()]
    tokens = [line for line in lines[head + 2 :] if line.strip()]
    assert len(tokens) == here[1].sampled_tokens
    assert all("+1.000" in line for line in tokens)  # SFT
    assert "…" not in "".join(line[14:] for line in tokens)


def test_explain_shows_one_turn_and_other_methods(run, here, monkeypatch):
    options = ("--method", "gspo", "--method", "grpo,kl_weight=0.5", "--method", "grpo")
    result = run("explain", "runs/a", "--trajectory", "1.1", "--turn", 0, *options, "--gradient")
    assert result.exit_code == 0, result.output
    assert "This was turn 0." in result.stdout
    assert "−∂loss/∂log π. ρ" in result.stdout
    assert "kl_weight=0.5" in result.stdout
    assert "--turn 7: trajectory 1.1 has sampled tokens in turns 0" in refused(
        run("explain", "runs/a", "--trajectory", "1.1", "--turn", 7)
    )


def test_explain_writes_what_machines_read(run, here):
    command = ("explain", "runs/a", "--trajectory", "1.1", "--method", "sft", "--method", "run")
    said = json.loads(run(*command, "--json").stdout)
    assert said["methods"]["run"]["settings"]["name"] == "grpo"
    assert said["methods"]["sft"]["coefficient"] == "1"
    rows = list(csv.DictReader(io.StringIO(run(*command, "--csv", "--save").stdout)))
    assert len(rows) == len(said["tokens"]) == here[1].sampled_tokens
    assert [float(row["run"]) for row in rows] == pytest.approx([row["run"] for row in said["tokens"]])
    saved = pandas.read_parquet(here[0] / "runs/a/lens/train-000001-1.1.parquet")
    assert list(saved.columns) == list(said["tokens"][0])
    assert saved["sft"].tolist() == pytest.approx([1.0] * len(saved))
    assert "choose one of --json and --csv" in refused(run(*command, "--csv", "--json"))


def test_explain_refuses_in_words(run, here):
    assert "there is no trajectory 9.9" in refused(run("explain", "runs/a", "--trajectory", "9.9"))
    assert "Did you mean 'gspo'" in refused(run("explain", "runs/a", "--trajectory", "1.1", "--method", "gsp"))
    assert "no config file" in refused(run("explain", "runs/b", "--trajectory", "1.1"))


def test_a_run_begun_anew_forgets_what_was_explained(run, here):
    assert run("explain", "runs/a", "--trajectory", "1.1", "--method", "sft", "--save").exit_code == 0
    from grpo_agents.config import load_config
    from grpo_agents.run_folder import RunFolder

    folder = RunFolder(here[0] / "runs/copy")
    folder.create(load_config(here[0] / "run.toml"))
    folder.lens.mkdir()
    folder.create(load_config(here[0] / "run.toml"), overwrite=True)
    assert not folder.lens.exists()
