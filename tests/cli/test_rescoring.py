"""Other rewards for what is stored, as a person asks for them."""

from shell import episode, refused

from grpo_agents import store
from grpo_agents.rescoring import spans


def test_rescore_says_what_it_did(run, tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "ROWS", 2)
    episodes = [episode(f"t{place}", 1.0, float(place), group=place) for place in range(600)]
    episodes[300].stop_reason, episodes[300].error = "deadline", "60 s"
    store.write(tmp_path / "some.parquet", episodes)
    (tmp_path / "mine.py").write_text(
        "from grpo_agents import component\n@component\ndef third(trajectory):\n    return 1 / (trajectory.group % 3)\n"
    )
    result = run("rescore", "some.parquet", "--reward", "mine.py:third,cost", "--out", "new.parquet", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout == "stored 600 trajectories in new.parquet\n"
    assert "replaced in new.parquet, and as it was in the files read: cost" in result.stderr
    said = "no third: 200 of 600 trajectories; the first is row 0 of some.parquet: ZeroDivisionError: division by zero"
    assert said in result.stderr
    said = "no cost: 1 of 600 trajectories; the first is row 300 of some.parquet: the episode failed: 60 s"
    assert said in result.stderr
    rewards = [trajectory.rewards for trajectory in store.read(tmp_path / "new.parquet")]
    assert rewards[2] == {"outcome": 1.0, "cost": 2.0, "third": 0.5}
    assert "new.parquet exists; remove it" in refused(
        run("rescore", "some.parquet", "--reward", "cost", "--out", "new.parquet")
    )


def test_rescore_takes_a_run_and_weights(run, tmp_path):
    store.write(tmp_path / "runs/a/trajectories/train-000000.parquet", [episode("a", 1.0, 10.0)])
    arguments = ("rescore", "runs/a", "--out", "new.parquet", "--workers", "1", "--preference")
    for wrong in ("outcome", "outcome=", "=1", "outcome=much"):
        assert "write names and weights, as outcome=1,cost=0.2" in refused(run(*arguments, wrong))
    assert "Did you mean 'cost'" in refused(run(*arguments, "costs=1"))
    result = run(*arguments, "outcome=1,cost=0.2")
    assert "training from the file wants source.other_preference = true" in result.stderr
    assert store.read(tmp_path / "new.parquet")[0].preference == {"outcome": 1.0, "cost": 0.2}


def test_a_module_that_does_not_run_is_named_with_its_line(run, tmp_path):
    store.write(tmp_path / "some.parquet", [episode("a", 1.0, 10.0)])
    (tmp_path / "mine.py").write_text("import math\n\nvector = Reward()\n")
    message = refused(run("rescore", "some.parquet", "--reward", "mine.py:vector", "--out", "new.parquet"))
    assert "mine.py, line 3: NameError" in message
    assert not list(tmp_path.glob("*new*"))
