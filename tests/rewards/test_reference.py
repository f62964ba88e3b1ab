"""A reference that an anchor writes of the rollouts, and who agrees with it."""

import asyncio

import pytest
from teaching import asked, group_saying, score

from grpo_agents.engines.chat_model import ScriptedModel
from grpo_agents.engines.remembering import RememberingModel
from grpo_agents.rewards.pseudo_label import classes, same_answer
from grpo_agents.rewards.reference import PROMPT, WITH_QUESTION, reference

ROLLOUTS = (r"3 + 4 = 7, so \boxed{7}", r"it is \boxed{8}", r"\boxed{14/2}", "seven")


def test_a_rollout_is_right_where_its_answer_is_that_of_the_reference():
    group = group_saying(*ROLLOUTS)
    score(reference(), group, ScriptedModel(lambda _: r"The sum is \boxed{7}."))
    assert [entry.rewards["reference"] for entry in group.trajectories] == [1, 0, 1, 0]


def test_a_reference_may_be_right_where_every_rollout_is_wrong():
    group = group_saying(r"\boxed{1}", r"\boxed{2}")
    score(reference(), group, ScriptedModel(lambda _: r"\boxed{3}"))
    assert [entry.rewards["reference"] for entry in group.trajectories] == [0, 0]


def test_what_it_was_and_what_it_took_is_noted():
    group = group_saying(*ROLLOUTS)
    score(reference(), group, ScriptedModel(lambda _: r"The sum is \boxed{7}."))
    note = group.notes["reference"]
    assert (note["text"], note["answer"]) == (r"The sum is \boxed{7}.", "7")
    assert note["answers"] == ["7", "8", "14/2", None]
    assert (note["classes"], note["agrees"]) == ([0, 1, 0, None], [1, 0, 1, 0])
    assert (note["calls"], note["written"]) == (1, 4)
    assert note["read"] == len(asked(group, reference())[0]["content"].split())


def test_the_anchor_sees_every_rollout_and_not_the_question():
    (message,) = asked(group_saying(*ROLLOUTS, question="What is three plus four?"), reference())
    assert all(text in message["content"] for text in ROLLOUTS)
    assert "three plus four" not in message["content"]
    assert r"\boxed{}" in message["content"]


def test_the_question_is_shown_where_that_is_asked_for():
    group = group_saying(*ROLLOUTS, question="What is three plus four?")
    (message,) = asked(group, reference(show_question=True))
    assert message["content"].startswith("The task:\nWhat is three plus four?\n")


def test_a_prompt_and_a_comparison_of_ones_own():
    group = group_saying("a b", "c b", "a d", question="?")
    entry = reference(
        answer=lambda text: text.split()[-1], compare=str.__eq__, prompt="{count} texts: {rollouts}", name="last_word"
    )
    (message,) = asked(group, entry, "so b")
    assert message["content"].startswith("3 texts: ### Response 1\na b")
    assert [trajectory.rewards["last_word"] for trajectory in group.trajectories] == [1, 1, 0]
    assert list(group.notes) == ["last_word"]


@pytest.mark.parametrize(
    ("settings", "lacks"),
    [({"prompt": "Which is best?"}, "rollouts"), ({"prompt": "{rollouts}", "show_question": True}, "question")],
)
def test_a_prompt_without_its_fields_is_refused(settings, lacks):
    with pytest.raises(ValueError, match=rf"the anchor's prompt has no \{{{lacks}\}}"):
        reference(**settings)


def test_braces_in_rollouts_are_left_alone():
    (message,) = asked(group_saying(r"\boxed{count}", "{question}"), reference())
    assert r"\boxed{count}" in message["content"]
    assert "{question}" in message["content"]


def test_a_group_of_one_is_refused():
    group = group_saying(r"\boxed{7}")
    score(reference(), group, ScriptedModel(lambda _: r"\boxed{7}"))
    (trajectory,) = group.trajectories
    assert trajectory.rewards["reference"] is None
    assert "a group of one rollout" in trajectory.missing["reference"]
    assert "rollout.group_size (and eval.rollouts) of at least 2" in trajectory.missing["reference"]


def test_an_anchor_without_an_answer_is_our_failure_and_nobodys_reward():
    group = group_saying(*ROLLOUTS)
    score(reference(), group, ScriptedModel(lambda _: "They differ."))
    assert {entry.rewards["reference"] for entry in group.trajectories} == {None}
    assert group.trajectories[0].missing["reference"] == (
        "ValueError: the anchor's reference states no answer: …'They differ.'"
    )
    assert group.notes["reference"].items() >= {"text": "They differ.", "calls": 1, "written": 2}.items()


def test_an_anchor_that_is_down_is_a_reason():
    def fail(_):
        raise ConnectionError("it is down")

    group = group_saying(*ROLLOUTS)
    score(reference(), group, ScriptedModel(fail))
    assert group.trajectories[0].missing["reference"] == "ConnectionError: it is down"


def test_groups_are_asked_for_at_once_and_the_same_rollouts_only_once():
    under_way = most = 0
    asked_for = []

    class Slow(ScriptedModel):
        async def complete(self, messages, *arguments, **settings):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            asked_for.append(messages)
            under_way -= 1
            return await super().complete(messages, *arguments, **settings)

    anchor = RememberingModel(Slow(lambda _: r"\boxed{7}"))
    groups = [group_saying(*ROLLOUTS), group_saying("other", "texts"), group_saying(*ROLLOUTS)]
    score(reference(), groups, anchor)
    assert (most, len(asked_for)) == (2, 2)
    assert [entry.rewards["reference"] for entry in groups[2].trajectories] == [1, 0, 1, 0]
    assert groups[0].notes == groups[2].notes  # what it took is counted for each
    score(reference(), group_saying(*ROLLOUTS), anchor)
    assert len(asked_for) == 2


def test_another_seed_of_the_run_is_another_draw():
    seeds = []

    class Noting(ScriptedModel):
        async def complete(self, messages, tools=(), *, seed=0, **settings):
            seeds.append(seed)
            return await super().complete(messages, tools, seed=seed, **settings)

    for run in (0, 0, 1):
        score(reference(), group_saying(*ROLLOUTS), RememberingModel(Noting(lambda _: r"\boxed{7}"), run))
    score(reference(), group_saying("a", "b"), RememberingModel(Noting(lambda _: r"\boxed{7}"), 0))
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


def test_what_failed_is_asked_again():
    answers = iter([ConnectionError("down"), r"\boxed{7}"])

    def script(_):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    anchor = RememberingModel(ScriptedModel(script))
    for expected in (None, 1.0):
        group = group_saying(*ROLLOUTS)
        score(reference(), group, anchor)
        assert group.trajectories[0].rewards["reference"] == expected


def test_answers_are_the_same_where_they_mean_the_same():
    assert classes(["0.5", "2", "1/2", None, "two", "2.0"], same_answer) == [0, 1, 0, None, 2, 1]


def test_the_templates_name_their_fields():
    assert "{rollouts}" in PROMPT
    assert "{question}" not in PROMPT
    assert "{rollouts}" in WITH_QUESTION
    assert "which you are not shown" not in WITH_QUESTION
