"""Logs in, lines of JSON out, as a person asks for them."""

import json

from shell import episode, refused

from grpo_agents import store

GOOD = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}], "reward": 1}


def test_bad_lines_are_said_and_the_good_ones_stored(run, tmp_path):
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps(GOOD) + "\n" for _ in range(3)) + "{\n" * 22)
    result = run("import", "logs.jsonl", "--out", "logs.parquet")
    assert result.exit_code == 1
    assert result.stdout == "stored 3 trajectories of 1 task in logs.parquet\n"
    said = result.stderr.splitlines()
    assert said[0] == "logs.jsonl: chat logs in OpenAI's form"
    assert said[1].startswith("logs.jsonl, line 4: no JSON")
    assert said[-2:] == ["and 2 other lines", "22 lines are left out"]
    shown = json.loads(run("evaluate", "logs.parquet", "--json").stdout)
    assert shown["reward"]["interval"]["mean"] == 1.0
    assert shown["untrainable"] == 3
    (tmp_path / "one.jsonl").write_text(json.dumps(GOOD) + "\n{\n")
    one = run("import", "one.jsonl", "--out", "one.parquet")
    assert one.stdout == "stored 1 trajectory of 1 task in one.parquet\n"
    assert one.stderr.splitlines()[-1] == "1 line is left out"
    (tmp_path / "bad.jsonl").write_text("{\n")
    nothing = run("import", "bad.jsonl", "--out", "bad.parquet")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "nothing is good, and bad.parquet is not written" in nothing.stderr
    assert not (tmp_path / "bad.parquet").exists()
    assert "There are: own, " in refused(run("import", "logs.jsonl", "--out", "b.parquet", "--format", "csv"))


def test_a_run_is_exported_and_comes_back(run, tmp_path):
    store.write(
        tmp_path / "runs/a/trajectories/train-000000.parquet", [episode("a", 1.0, 10.0), episode("b", 0.0, 1.0)]
    )
    assert run("export", "runs/a", "--out", "a.jsonl").stdout == "wrote 2 trajectories to a.jsonl\n"
    assert [json.loads(line)["task"]["id"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == ["a", "b"]
    result = run("import", "a.jsonl", "--out", "a.parquet")
    assert (result.exit_code, result.stdout) == (0, "stored 2 trajectories in a.parquet\n")
    assert store.read(tmp_path / "a.parquet") == store.read(tmp_path / "runs/a/trajectories")
    assert "a.jsonl exists; remove it" in refused(run("export", "a.parquet", "--out", "a.jsonl"))
