"""Criteria written from a reference, and the verdicts of a judge."""

from dataclasses import replace

import pytest
from teaching import group_saying, score

from grpo_agents.engines.chat_model import ScriptedModel
from grpo_agents.rewards.rubric import AGAIN, rubric

CRITERIA = [f"Does it name the letter {letter}?" for letter in "abcde"]
LIST = "\n".join(f"{number}. {criterion}" for number, criterion in enumerate(CRITERIA, 1))


def anchor(messages):
    """Writes a reference of rollouts, and a list of criteria of a reference."""
    content = messages[-1]["content"]
    return LIST if "THE REFERENCE" in content or "ideal" in content else "THE REFERENCE"


def judge(messages):
    """Looks whether the response has the letter that the criterion asks for."""
    response, criterion = messages[0]["content"].split("Does it meet this criterion?")
    letter = criterion.split("letter ")[1][0]
    return "Yes." if letter in response.split("task.")[1] else "No."


def rewards_of(group, name="rubric"):
    return [trajectory.rewards[name] for trajectory in group.trajectories]


def test_a_rollout_is_worth_the_share_of_criteria_that_it_meets():
    group = group_saying("a b c", "e", "a b c d e", "xyz")
    score(rubric(), group, ScriptedModel(anchor), ScriptedModel(judge))
    assert rewards_of(group) == pytest.approx([0.6, 0.2, 1.0, 0.0])


def test_criteria_verdicts_and_what_they_took_are_noted():
    group = group_saying("a b", "c")
    score(rubric(), group, ScriptedModel(anchor), ScriptedModel(judge))
    note = group.notes["rubric"]
    assert note["text"] == "THE REFERENCE"
    assert [entry["criterion"] for entry in note["criteria"]] == CRITERIA
    assert note["verdicts"] == [[True, True, False, False, False], [False, False, True, False, False]]
    assert note["calls"] == 2 + 5 * 2  # a synthesis, a rubric, n · G judgements
    assert note["written"] == len(f"THE REFERENCE {LIST}".split()) + 10


def test_the_criteria_come_from_the_reference_and_not_from_the_question():
    seen = []

    def noting(messages):
        seen.append(messages[-1]["content"])
        return anchor(messages)

    score(rubric(), group_saying("a", "b", question="Name letters!"), ScriptedModel(noting), ScriptedModel(judge))
    assert len(seen) == 2
    assert "THE REFERENCE" in seen[1]
    assert not any("Name letters!" in text for text in seen)


def test_a_reference_of_the_task_serves_a_single_rollout():
    group = group_saying("a b", task={"gold": "an ideal text"})
    score(rubric(reference="gold"), group, ScriptedModel(anchor), ScriptedModel(judge))
    assert rewards_of(group) == pytest.approx([0.4])
    assert group.notes["rubric"]["calls"] == 1 + 5


def test_criteria_of_the_task_need_no_anchor_and_may_have_points():
    """(3 + 1 − 2)/(3 + 1 + 4), by hand; and nobody falls below 0."""
    points = {"a": 3, "b": 1, "c": -2, "d": 4}
    task = {"rules": [{"criterion": f"the letter {key}", "points": value} for key, value in points.items()]}
    group = group_saying("a b c", "c", "d a b", task=task)
    score(rubric(criteria="rules", name="rules"), group, judge=ScriptedModel(judge))
    assert rewards_of(group, "rules") == pytest.approx([0.25, 0.0, 1.0])


def test_a_judge_who_says_neither_is_asked_once_more():
    asked = []

    def hesitant(messages):
        asked.append([message["role"] for message in messages])
        return "yes" if messages[-1]["content"] == AGAIN else "It could be yes, or no."

    group = group_saying("a", task={"rules": ["the letter a"]})
    score(rubric(criteria="rules"), group, judge=ScriptedModel(hesitant))
    assert rewards_of(group) == [1]
    assert asked == [["user"], ["user", "assistant", "user"]]


def test_a_judge_who_says_neither_twice_has_not_judged_this_rollout():
    def partial(messages):
        return "Perhaps." if "b" in messages[0]["content"].split("task.")[1].split("Does it")[0] else "yes"

    group = group_saying("a", "b", task={"rules": ["the letter a", "the letter c"]})
    score(rubric(criteria="rules"), group, judge=ScriptedModel(partial))
    assert rewards_of(group) == [1, None]
    assert "neither yes nor no of 'the letter a', twice: 'Perhaps.'" in group.trajectories[1].missing["rubric"]
    assert group.notes["rubric"]["verdicts"] == [[True, True], [None, None]]


def test_a_rollout_that_says_nothing_meets_nothing_and_nobody_is_asked():
    group = group_saying("", "a", task={"rules": ["the letter a"]})
    score(rubric(criteria="rules"), group, judge=ScriptedModel(lambda _: "yes"))
    assert rewards_of(group) == [0, 1]
    assert group.notes["rubric"]["calls"] == 1


def test_too_few_criteria_are_no_rubric():
    group = group_saying("a", "b")
    score(rubric(count=6), group, ScriptedModel(anchor), ScriptedModel(judge))
    assert "the anchor wrote 5 of 6 criteria" in group.trajectories[0].missing["rubric"]


def test_nothing_is_no_reference():
    group = group_saying("a", "b")
    score(rubric(), group, ScriptedModel(lambda _: ""), ScriptedModel(judge))
    assert "the anchor wrote no whole reference" in group.trajectories[0].missing["rubric"]
    assert group.notes["rubric"]["calls"] == 1
    for absent in (None, " ", 3):
        alone = group_saying("a", task={"ideal": absent})
        score(rubric(reference="ideal"), alone, ScriptedModel(anchor), ScriptedModel(judge))
        assert "and a text is wanted that criteria come from" in alone.trajectories[0].missing["rubric"]


def test_a_reference_that_was_cut_off_is_none():
    class Cut(ScriptedModel):
        async def complete(self, *args, **settings):
            return replace(await super().complete(*args, **settings), finish_reason="length")

    group = group_saying("a", "b")
    score(rubric(), group, Cut(anchor), ScriptedModel(judge))
    assert "(cut off at max_tokens of the model)" in group.trajectories[0].missing["rubric"]


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ([{"criterion": "a", "points": float("nan")}, "b"], "the points of 'a' are nan"),
        ([{"points": 1}], "criteria are texts, or dicts"),
        (5, "criteria are texts, or dicts"),
        ([], "no criterion has"),
    ],
)
def test_criteria_that_cannot_be_read_are_named(rules, problem):
    group = group_saying("a", task={"rules": rules})
    score(rubric(criteria="rules"), group, judge=ScriptedModel(judge))
    assert f"the task's 'rules': {problem}" in group.trajectories[0].missing["rubric"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"reference": "a", "criteria": "b"}, "taken from the task's 'b' or written from its 'a'"),
        ({"criteria_prompt": "Write a list."}, r"criteria_prompt has no \{reference\}"),
        ({"judge_prompt": "{response}"}, r"judge_prompt has no \{criterion\}"),
    ],
)
def test_a_rubric_that_could_not_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        rubric(**settings)
