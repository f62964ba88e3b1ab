"""Environments whose gold answers are hidden from training."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from grpo_agents.contract import check
from grpo_agents.env import VectorReward, make_env
from grpo_agents.envs.free_text import FreeTextEnv
from grpo_agents.envs.math import MathEnv
from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.envs.teacher import TeacherEnv
from grpo_agents.pseudo_labels import PseudoLabels
from grpo_agents.rewards import RewardVector
from grpo_agents.rewards.component import Component, component, from_environment
from grpo_agents.rewards.pseudo_label import Label, Reading, agreement
from grpo_agents.rewards.watched import score_hiding_gold
from grpo_agents.spaces import tool_call
from grpo_agents.trajectory import Group, Step, Trajectory

INNER = ["grpo_agents/Math-v0", "grpo_agents/ToolMath-v0", "grpo_agents/Orchestra-v0", "grpo_agents/FreeText-v0"]
TASKS = [{"question": "What is 6 times 7?", "answer": "42"}]


@pytest.mark.parametrize("inner", INNER)
def test_it_keeps_the_contract_whatever_it_wraps(inner):
    found = check(lambda: TeacherEnv(env=inner))
    assert [(finding.checked, finding.problem) for finding in found if finding.problem] == []


@pytest.mark.parametrize("name", ["grpo_agents/Teacher-v0", "grpo_agents/FreeText-v0"])
def test_gymnasium_has_nothing_to_complain_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name).unwrapped)
        check_env(gymnasium.make(name, render_mode="ansi").unwrapped)


def test_it_says_what_the_wrapped_environment_says():
    inner, env = MathEnv(), TeacherEnv()
    for seed in range(3):
        assert env.reset(seed=seed) == inner.reset(seed=seed)
        answer = f"\\boxed{{{inner.task['answer']}}}"
        observation, reward, terminated, truncated, info = env.step(answer)
        said = inner.step(answer)
        assert (observation, terminated, truncated) == (said[0], said[2], said[3])
        assert (reward, info["rewards"]) == (0.0, {"gold_outcome": said[1]})


def test_its_tools_are_run_and_cost_what_they_cost():
    env = TeacherEnv(env="grpo_agents/ToolMath-v0")
    _, info = env.reset(seed=0)
    assert [schema["function"]["name"] for schema in info["tools"]] == ["calculator"]
    call = tool_call("calculator", {"expression": "6 * 7"})
    observation, *_ = env.step({"role": "assistant", "content": "", "tool_calls": [call]})
    assert observation[0]["content"] == "42"
    assert [run.name for run in env.runs] == ["calculator"]


def test_gold_is_no_part_of_a_vector_reward():
    assert VectorReward(TeacherEnv()).components == ()
    assert VectorReward(MathEnv()).components == ("outcome",)


def test_options_reach_the_wrapped_environment():
    env = make_env("grpo_agents/Teacher-v0", options={"marker": "####"}, tasks=TASKS)
    env.reset(seed=0)
    assert env.step("#### 42")[-1]["rewards"] == {"gold_outcome": 1.0}


def test_hiding_twice_is_refused():
    with pytest.raises(ValueError, match="hides gold answers itself; name the environment within"):
        TeacherEnv(env="grpo_agents/Teacher-v0")


def test_what_is_learned_from_sees_neither_gold_keys_nor_gold_rewards():
    seen = {}

    @component
    def curious(trajectory):
        seen["keys"], seen["rewards"] = sorted(trajectory.task), trajectory.steps[0].rewards
        return 1.0

    @component(per="group")
    def whole(group):
        seen["group"] = sorted(group.task)
        group.notes["left"] = True
        return [0.5]

    step = Step({"role": "assistant", "content": "42"}, rewards={"gold_outcome": 1.0, "style": 0.2})
    group = Group(TASKS[0], {}, [Trajectory(task=TASKS[0], steps=[step])])
    watched = (from_environment("gold_outcome"),)
    score_hiding_gold(
        [group], RewardVector([curious, whole]), watched=watched, gold=["answer"], hidden=["gold_outcome"]
    )
    assert seen == {"keys": ["question"], "rewards": {"style": 0.2}, "group": ["question"]}
    assert group.trajectories[0].rewards == {"curious": 1.0, "whole": 0.5, "gold_outcome": 1.0}
    assert group.notes == {"left": True}


def labelled(texts, gold, answer):
    """A group with gold rewards, and a label that says this answer."""
    trajectories = [
        Trajectory(index=index, steps=[Step({"role": "assistant", "content": text})], rewards={"gold_outcome": right})
        for index, (text, right) in enumerate(zip(texts, gold, strict=True))
    ]
    group = Group(TASKS[0], {}, trajectories)
    agrees = agreement("reference", group, Label(f"so {answer}", answer, {"read": 10, "written": 2}), READING)
    for trajectory, value in zip(trajectories, agrees, strict=True):
        trajectory.rewards["reference"] = value
    return group


READING = Reading(answer=lambda text: text.split()[-1] if text else None, compare=str.__eq__)
WATCH = PseudoLabels(
    [from_environment("reference")],
    [from_environment("gold_outcome")],
    lambda task, text: {"gold_outcome": float(text.endswith("42"))},
)


def test_a_label_against_the_majority_and_both_against_gold():
    """Two say 41, one 42 and one nothing; the label says 42, and gold agrees with it."""
    group = labelled(["a 41", "b 42", "c 41", ""], [0, 1, 0, 0], "42")
    assert WATCH([group]) == {
        "reference/read": 10,
        "reference/written": 2,
        "diversity/answers": 2,
        "diversity/unanimous": 0,
        "gold/majority_right": 0,
        "gold/reference_right": 1,
        "gold/reference_agrees": 1,
        "gold/reference_against_majority": 1,
        "gold/reference_wins": 1,
    }
    assert group.notes["reference"]["gold"] == 1


def test_a_label_that_no_rollout_gives_is_judged_by_the_environment():
    groups = [labelled(["41", "41"], [0, 0], "42"), labelled(["42", "42"], [1, 1], "40")]
    figures = WATCH(groups)
    assert [group.notes["reference"]["gold"] for group in groups] == [1, 0]
    assert figures["diversity/unanimous"] == 1
    assert figures["gold/reference_wins"] == 0.5
    assert figures["gold/reference_agrees"] == 0.5  # of the second, gold says right and the label says wrong
    assert figures["gold/majority_right"] == 0.5


def test_a_group_in_which_nobody_answers_has_no_right_majority_and_no_diversity():
    groups = [labelled(["42", "42"], [1, 1], "42"), labelled(["", ""], [0, 0], "42")]
    for group in groups:
        agreement("majority", group, Label("", group.notes["reference"]["answers"][0], {}), READING)
    figures = WATCH(groups)
    assert figures["gold/majority_right"] == 0.5
    assert (figures["diversity/answers"], figures["diversity/unanimous"]) == (0.5, 1)
    assert [group.notes["majority"]["gold"] for group in groups] == [1, 0]


def test_rubrics_are_watched_by_the_letter_of_what_is_said():
    """They read no answers. Gold is then what is called so, and what a refused answer took is counted."""
    trajectories = [
        Trajectory(index=index, steps=[Step({"content": text})], rewards={"rubric": value, "gold_physicians": gold})
        for index, (text, value, gold) in enumerate([("same", 0.8, 1.0), ("same ", 0.2, 1.0)])
    ]
    notes = {"rubric": {"criteria": [], "verdicts": [], "read": 7, "written": None}, "own": ["not", "ours"]}
    watch = PseudoLabels(
        [from_environment("rubric")], [Component("vote", len), Component("gold_physicians", len)], WATCH.judge
    )
    assert watch([Group({}, {}, trajectories, notes)]) == {
        "rubric/read": 7,
        "gold/rubric_agrees": 0.5,
        "diversity/answers": 1,
        "diversity/unanimous": 1,
    }
    refused = Group({}, {}, trajectories, {"rubric": {"refused": "it says nothing", "read": 3, "written": 0}})
    assert watch([refused]).items() >= {"rubric/read": 3, "diversity/unanimous": 1}.items()


def test_the_users_of_the_wrapped_environment_are_its_users():
    env = TeacherEnv(env="grpo_agents/Orchestra-v0")
    drawn = env.preferences.draw(np.random.default_rng(0))
    assert drawn in [dict(option) for option in OrchestraEnv.preferences.options]


def test_without_gold_only_diversity_is_known():
    watch = PseudoLabels(WATCH.vector, [], WATCH.judge)
    assert watch([labelled(["41", "42"], [0, 1], "42")]).keys() == {
        "reference/read",
        "reference/written",
        "diversity/answers",
        "diversity/unanimous",
    }


def test_free_text_is_a_prompt_of_one_or_more_messages():
    opening = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    env = FreeTextEnv([{"prompt": opening}])
    assert env.reset(seed=0)[0] == tuple(opening)
    assert env.step("Because.")[1:3] == (0.0, True)
