"""Whether stored episodes replay, as a person asks."""

import json
import shutil

import pytest
from shell import refused

from grpo_agents import store
from grpo_agents.env import make_env
from grpo_agents.trajectory import Step, Trajectory

SHOP = '''
from grpo_agents import AgentEnv

class Shop(AgentEnv):
    """Sells trees."""
    tasks = [{"word": "tree"}]

    def __init__(self, tasks=None, *, worth=1.0):
        super().__init__(tasks)
        self.worth = worth

    def start(self, task):
        return "A word?"

    def finish(self, task, message):
        return {"outcome": self.worth}

class Bare(Shop):
    tasks = None

    def __init__(self, tasks=None):
        super().__init__(tasks)
'''


def sold(env="shop.py:Shop", worth=1.0, **fields):
    step = Step({"role": "assistant", "content": "tree"}, rewards={"outcome": worth})
    opening = ({"role": "user", "content": "A word?"},)
    return Trajectory(env=env, task={"word": "tree"}, prompt=opening, steps=[step], **fields)


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)


def answered(outcome, **fields):
    """An episode of Math-v0 of one turn, in which 5 was said."""
    env = make_env("grpo_agents/Math-v0")
    task = {"question": "What is 2 + 3?", "answer": "5"}
    opening, _ = env.reset(seed=1, options={"task": task, "preference": {}})
    step = Step({"role": "assistant", "content": "\\boxed{5}"}, rewards={"outcome": outcome})
    return Trajectory(env="grpo_agents/Math-v0", task=task, seed=1, prompt=opening, steps=[step], **fields)


def test_a_run_replays_the_same(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    result = run("replay", "runs/a")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "14 │       14 │         0 │            0" in result.stdout
    found = json.loads(run("replay", "runs/a", "--json").stdout)
    assert [entry["same"] for entry in found.values()] == [3, 3, 4, 4]
    one = json.loads(run("replay", "runs/a/trajectories/eval-000002.parquet", "--only", "1.0", "--json").stdout)
    assert [entry["replayed"] for entry in one.values()] == [1]
    assert refused(run("replay", "runs/a", "--only", "9.9")) == "no episode has the id 9.9"


def test_a_reward_that_changed_is_shown_as_a_diff_and_ends_with_1(run, tmp_path):
    store.write(tmp_path / "some.parquet", [answered(1.0), answered(0.5, index=1)])
    result = run("replay", "some.parquet")
    assert result.exit_code == 1
    shown = result.stdout.splitlines()
    assert shown[:6] == [
        "some.parquet, 0.1, turn 0: other rewards",
        "--- stored", "+++ now", "@@ -1 +1 @@", "-outcome: 0.5", "+outcome: 1.0",
    ]  # fmt: skip
    (found,) = json.loads(run("replay", "some.parquet", "--json").stdout).values()
    (difference,) = found.pop("different")
    assert found == {"replayed": 2, "same": 1, "not_replayed": []}
    assert (difference["row"], difference["id"], difference["where"], difference["what"]) == (
        1,
        "0.1",
        "turn 0",
        "rewards",
    )
    assert (difference["stored"], difference["now"]) == (["outcome: 0.5"], ["outcome: 1.0"])


def test_no_more_than_a_few_differences_of_a_file_are_shown(run, tmp_path):
    store.write(tmp_path / "some.parquet", [answered(0.5, index=index) for index in range(9)])
    shown = run("replay", "some.parquet").stdout
    assert shown.count("other rewards") == 5
    assert "4 others of some.parquet differ; --json has all" in shown


def test_no_code_is_run_because_a_file_names_it(run, tmp_path, shop):
    (tmp_path / "shop.py").write_text("import pathlib; pathlib.Path('run').touch()\n" + SHOP)
    store.write(tmp_path / "some.parquet", [sold(), sold("", index=1)])
    result = run("replay", "some.parquet")
    assert (result.exit_code, (tmp_path / "run").exists()) == (2, False)
    assert "its environment is not built in: add --env shop.py:Shop to run its code" in result.stdout
    assert "it names no environment: say it, --env ENV" in result.stdout
    result = run("replay", "some.parquet", "--env", "shop.py:Shop")
    assert (result.exit_code, (tmp_path / "run").exists()) == (0, True)


def test_options_are_those_of_the_run_that_a_file_lies_in(run, tmp_path, shop):
    config = """
    [env]
    id = "shop.py:Shop"
    options = { worth = 2.0 }
    [eval]
    env_options = { worth = 3.0 }
    [method]
    name = "nowhere.py:Method"  # what is not there cannot be run
    """
    (tmp_path / "run" / "trajectories").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text(config)
    store.write(tmp_path / "run/trajectories/train-000000.parquet", [sold(worth=2.0)], phase="train")
    store.write(tmp_path / "run/trajectories/eval-000000.parquet", [sold(worth=3.0)], phase="eval")
    assert run("replay", "run", "--env", "shop.py:Shop").exit_code == 0
    shutil.copy(tmp_path / "run/trajectories/train-000000.parquet", tmp_path / "moved.parquet")
    assert "-outcome: 2.0\n+outcome: 1.0" in run("replay", "moved.parquet", "--env", "shop.py:Shop").stdout


def test_an_environment_without_tasks_of_its_own_poses_the_stored_ones(run, tmp_path, shop):
    store.write(tmp_path / "some.parquet", [sold()])
    assert run("replay", "some.parquet", "--env", "shop.py:Bare").exit_code == 0


def test_what_cannot_be_made_or_read_is_refused(run, tmp_path, shop):
    store.write(tmp_path / "some.parquet", [sold()])
    assert "defines no 'Shops'" in refused(run("replay", "some.parquet", "--env", "shop.py:Shops"))
    (tmp_path / "broken.parquet").write_text("not this")
    assert "broken.parquet" in refused(run("replay", "broken.parquet"))
    store.write(tmp_path / "none.parquet", [])
    assert refused(run("replay", "none.parquet")) == "there are no episodes to replay"
