"""Numbers from what is stored."""

import json

import pytest
from shell import episode, refused

from grpo_agents import store
from grpo_agents.rewards import BUILT_IN
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Trajectory

WORDS = Scoring(
    RewardVector(["outcome", Component("words", len, "min", "words"), BUILT_IN["cost"]]),
    {"words": 4.0, "cost": 20.0},
    "outcome",
)


def test_evaluate_weighs_with_the_maxima_of_the_environment_that_was_played(run, tmp_path):
    episodes = [episode("a", 1.0, 10.0, group=0), episode("b", 1.0, 5.0, group=1)]
    store.write(tmp_path / "some.parquet", episodes)
    found = json.loads(run("evaluate", "some.parquet", "--json").stdout)
    assert found["reward"]["interval"]["mean"] == pytest.approx(1 + (0.0 + 0.5) / 2)  # 1 − cost/10 saved
    assert found["components"]["cost"]["unit"] == "dollars"
    gated = run("evaluate", "some.parquet", "--env", "grpo_agents/Math-v0", "--gate", "outcome", "--json")
    assert json.loads(gated.stdout)["reward"]["interval"]["mean"] == pytest.approx(1 - 7.5)  # no maxima: −cost


def test_evaluate_of_a_folder_of_runs_names_them(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    assert "runs: no .parquet file in this folder. Name a run in it: runs/a" in refused(run("evaluate", "runs"))


def test_evaluate_says_which_components_can_be_weighed(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    said = refused(run("evaluate", "runs/a/trajectories/eval-000002.parquet", "--preference", "costs=1"))
    assert "Did you mean 'cost'? Add it to the reward vector, or weigh what is there: outcome, cost, latency" in said


def test_evaluate_says_what_training_said(run, finished, monkeypatch):
    """The gate and the maxima are the run's, and its figures come out again."""
    monkeypatch.chdir(finished[0])
    rows = map(json.loads, (finished[0] / "runs/a/metrics.jsonl").read_text().splitlines())
    said = {row["step"]: row for row in rows if "eval/reward" in row}
    for step in (0, 2):
        file = f"runs/a/trajectories/eval-{step:06d}.parquet"
        found = json.loads(run("evaluate", file, "--json").stdout)
        assert found["reward"]["interval"]["mean"] == pytest.approx(said[step]["eval/reward"])
        ungated = json.loads(run("evaluate", file, "--gate", "", "--json").stdout)
        assert ungated["reward"]["interval"]["mean"] > said[step]["eval/reward"]  # a wrong answer that cost nothing


def test_evaluate_reads_components_maxima_and_gate_from_the_file_alone(run, tmp_path):
    episodes = [episode("a", 1.0, 10.0, group=0), episode("b", 0.0, 10.0, group=1)]
    for trajectory in episodes:
        trajectory.rewards["words"] = 3.0
        trajectory.env = "long_gone.py:Shop"
    store.write(tmp_path / "some.parquet", episodes, scoring=WORDS)
    found = json.loads(run("evaluate", "some.parquet", "--json").stdout)
    assert found["reward"]["interval"]["mean"] == pytest.approx((1 + 0.25 + 0.5) / 2)
    assert (found["components"]["words"]["direction"], found["components"]["words"]["unit"]) == ("min", "words")
    for options, mean in {
        ("--env", "grpo_agents/Orchestra-v0"): (1 - 3 + 0.0) / 2,
        ("--gate", ""): 0.5 + 0.25 + 0.5,
        ("--reward", "outcome,words"): (1 + 0.25) / 2,
    }.items():
        found = json.loads(run("evaluate", "some.parquet", *options, "--json").stdout)
        assert found["reward"]["interval"]["mean"] == pytest.approx(mean), options
    ungated = run("evaluate", "some.parquet", "--reward", "words", "--json")
    assert json.loads(ungated.stdout)["reward"]["interval"]["mean"] == pytest.approx(0.25)
    assert "no gate: the stored one, outcome, is not among these rewards" in ungated.stderr


def test_evaluate_knows_a_stored_component_that_no_episode_has(run, tmp_path):
    missing = {"outcome": "the environment failed"}
    episodes = [Trajectory(rewards={"outcome": None, "words": None, "cost": 1.0}, missing=missing, error="down")]
    store.write(tmp_path / "some.parquet", episodes, scoring=WORDS)
    for options in ([], ["--reward", "outcome,cost"], ["--gate", "outcome"]):
        found = json.loads(run("evaluate", "some.parquet", *options, "--json").stdout)
        assert found["components"]["outcome"]["reasons"] == {"the environment failed": 1}, options
        assert found["reward"]["missing"] == 1


def test_evaluate_says_when_it_pools_several_policies(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    pooled = run("evaluate", "runs/a/trajectories", "--json")
    assert "of 3 policies, of steps 0, 1 and 2" in pooled.stderr
    assert json.loads(pooled.stdout)["trajectories"] == 3 + 4 + 4 + 3
    assert run("evaluate", "runs/a", "--json").stdout == pooled.stdout
    assert "policies" not in run("evaluate", "runs/a/trajectories/eval-000002.parquet").stderr


def test_evaluate_names_few_policies_and_counts_many(run, tmp_path):
    for step in range(11):
        store.write(
            tmp_path / "many" / f"{step}.parquet", [Trajectory(rewards={"outcome": 1.0}, group=step)], step=step
        )
    said = run("evaluate", "many").stderr
    assert "of 11 policies, of steps 0, 1 … and 10, and are pooled" in said
    (tmp_path / "many" / "10.parquet").unlink()
    assert "of steps 0, 1, 2, 3, 4, 5, 6, 7, 8 and 9, and are pooled" in run("evaluate", "many").stderr


def test_evaluate_computes_the_rewards_that_are_named_anew(run, tmp_path):
    store.write(tmp_path / "some.parquet", [episode("a", 1.0, 10.0)])
    table = run("evaluate", "some.parquet", "--reward", "outcome,tool_calls").stdout
    assert "tool_calls ↓" in table
    assert "cost" not in table
    (tmp_path / "mine.py").write_text(
        "from grpo_agents import RewardVector, component\n"
        "@component(direction='min', unit='words')\n"
        "def words(trajectory):\n    return len(trajectory.final.split())\n"
        "vector = RewardVector(['outcome', words])\n"
        "misspelt = RewardVector(['outcom', words])\n"
        "several = ['outcome', words, 'cost']\n"
        "plain = lambda trajectory: 1.0\n"
    )
    for name in ("mine.py:vector", "mine.py:words", "mine.py:several"):
        found = json.loads(run("evaluate", "some.parquet", "--reward", name, "--json").stdout)
        assert found["components"]["words"]["interval"]["mean"] == 2
    assert found["components"]["cost"]["direction"] == "min"  # of several: the built-in one, not one of the environment
    for name in ("outcom", "mine.py:misspelt"):
        assert "Did you mean 'outcome'" in refused(run("evaluate", "some.parquet", "--reward", name))
    said = (
        "--reward mine.py:plain: a RewardVector, a component or a list of them is wanted, not a function: write @comp"
    )
    assert said in refused(run("evaluate", "some.parquet", "--reward", "mine.py:plain"))
    listed = refused(run("evaluate", "some.parquet", "--reward", "nope")).split(": ")[-1]
    assert listed.count("cost") == 1


def test_evaluate_makes_no_scalar_of_a_component_whose_direction_it_cannot_know(run, tmp_path):
    store.write(tmp_path / "some.parquet", [Trajectory(rewards={"words": 7.0})])
    result = run("evaluate", "some.parquet")
    assert "reward (scalar)" not in result.stdout
    assert "Add --reward file.py:vector" in result.stderr
    assert "--gate words needs a vector" in refused(run("evaluate", "some.parquet", "--gate", "words"))


@pytest.fixture
def sides(tmp_path):
    """Two files of the same four tasks, of two levels and preferences."""
    for name, cheaper in {"new": 1.0, "old": 0.0}.items():
        episodes = [
            episode(
                task,
                float(task != "d" or cheaper == 1.0),
                4.0 - cheaper - place / 8,
                group=place,
                preference={"outcome": 0.5, "cost": 0.5} if place % 2 else {"outcome": 1.0, "cost": 0.0},
            )
            for place, task in enumerate("abcd")
        ]
        for place, entry in enumerate(episodes):
            entry.task["level"] = place // 2
        store.write(tmp_path / f"{name}.parquet", episodes, step=len(name), scoring=SCORED)


SCORED = Scoring(RewardVector(["outcome", BUILT_IN["cost"]]), {"cost": 10.0}, "outcome")


def test_evaluate_splits_by_a_key_of_the_tasks(run, sides):
    found = json.loads(run("evaluate", "new.parquet", "--by", "level", "--json").stdout)
    assert {label: part["trajectories"] for label, part in found["by"].items()} == {"0": 2, "1": 2}
    assert found["by"]["1"]["components"]["cost"]["interval"]["mean"] == pytest.approx((2.75 + 2.625) / 2)
    table = run("evaluate", "new.parquet", "--by", "preference").stdout
    assert "By preference" in table
    assert "outcome 0.5, cost 0.5" in table
    assert "Did you mean 'level'" in refused(run("evaluate", "new.parquet", "--by", "levels"))


def test_evaluate_compares_with_another_file(run, sides):
    found = json.loads(run("evaluate", "new.parquet", "--against", "old.parquet", "--json").stdout)["against"]
    assert (found["tasks"], found["only_here"]) == (4, 0)
    assert found["measures"]["cost"]["difference"]["interval"]["mean"] == pytest.approx(-1.0)
    assert found["measures"]["outcome"]["difference"]["interval"]["mean"] == pytest.approx(0.25)
    assert found["measures"]["cost"]["difference"]["p_value"] is None  # the same difference everywhere
    table = run("evaluate", "new.parquet", "--against", "old.parquet").stdout
    assert "Against the other, paired by 4 tasks, each counted once" in table


def test_evaluate_weighs_as_it_is_told(run, sides):
    found = json.loads(run("evaluate", "new.parquet", "--preference", "outcome=1,cost=0.2", "--json").stdout)
    saved = [1 - (3 - place / 8) / 10 for place in range(4)]
    assert found["reward"]["interval"]["mean"] == pytest.approx(1 + 0.2 * sum(saved) / 4)
    said = refused(run("evaluate", "new.parquet", "--preference", "outcome=1,costs=0.2"))
    assert "the preference weighs 'costs', which is no reward component. Did you mean 'cost'?" in said
    unweighed = refused(run("evaluate", "new.parquet", "--preference", "outcome"))
    assert "write names and weights, as outcome=1,cost=0.2" in unweighed


def test_evaluate_writes_markdown(run, sides):
    text = run("evaluate", "new.parquet", "--markdown").stdout
    assert "| component | unit | mean | 95 % interval | missing | why missing |\n|---|---:|---:|---:|---:|---:|" in text
    assert "| cost ↓ | dollars | 2.81 |" in text


def test_evaluate_keeps_the_good_and_fails_where_something_was_left_out(run, sides, tmp_path):
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "old.parquet").read_bytes()[:900])
    result = run("evaluate", "new.parquet", "cut.parquet", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["trajectories"] == 4
    assert "cut.parquet: not a readable trajectory file" in result.stderr
    assert "cut.parquet: not a readable" in refused(run("evaluate", "cut.parquet"))
    (tmp_path / "raises.py").write_text("import math\nvector = math.nothing\n")
    said = refused(run("evaluate", "new.parquet", "--reward", "raises.py:vector"))
    assert "raises.py" in said
    assert "line 2" in said
    assert "no trajectory file" in refused(run("evaluate", "absent.parquet"))


def test_pareto_sweeps_preferences_and_runs(run, sides):
    found = json.loads(run("pareto", "new.parquet", "--json").stdout)
    assert set(found["points"]) == {"outcome 1, cost 0", "outcome 0.5, cost 0.5"}
    assert found["directions"] == {"outcome": "max", "cost": "min"}
    runs = json.loads(run("pareto", "new.parquet", "old.parquet", "--by", "run", "--json").stdout)
    assert {label: point["on_front"] for label, point in runs["points"].items()} == {
        "new.parquet": True,
        "old.parquet": False,
    }
    cheapest = 1 - (3 - 3 / 16) / 10
    assert runs["hypervolume"] == pytest.approx(cheapest)  # of new, which is always right
    assert "on the front" in run("pareto", "new.parquet", "--axes", "outcome").stdout
    assert "'speed' is no reward component" in refused(run("pareto", "new.parquet", "--axes", "outcome,speed"))


def test_pareto_without_an_outcome_says_how_to_name_what_counts(run, tmp_path):
    scoring = Scoring(RewardVector([BUILT_IN["cost"]]), {})
    store.write(tmp_path / "a.parquet", [Trajectory(rewards={"cost": 1.0})], scoring=scoring)
    said = refused(run("pareto", "a.parquet"))
    assert "no component is called 'outcome': name those that count with --axes; there are: cost" in said
