"""Other ways to one answer for a group: votes, perplexity, the anchor's own choice, a single rollout."""

import pytest
from teaching import asked, group_saying, score

from grpo_agents.engines.chat_model import ScriptedModel
from grpo_agents.rewards.consensus import first, majority, perplexity, self_judged
from grpo_agents.rewards.reference import reference

TEXTS = (r"\boxed{1}", r"\boxed{2}", "none", r"\boxed{2.0}", r"\boxed{3}")


def rewards_of(group, name):
    return [trajectory.rewards[name] for trajectory in group.trajectories]


def test_the_majoritys_answer_is_right_however_it_is_written():
    group = group_saying(*TEXTS)
    score(majority(), group)
    assert rewards_of(group, "majority") == [0, 1, 0, 1, 0]
    assert group.notes["majority"].items() >= {"answer": "2", "rollout": 1, "votes": 2, "tied": 1}.items()


def test_of_a_tie_the_answer_that_came_first_wins():
    group = group_saying(r"\boxed{5}", r"\boxed{4}", r"\boxed{4}", r"\boxed{5}")
    score(majority(), group)
    assert rewards_of(group, "majority") == [1, 0, 0, 1]
    assert group.notes["majority"]["tied"] == 2


@pytest.mark.parametrize("entry", [majority(), first()], ids=lambda entry: entry.name)
def test_where_nobody_gives_an_answer_nobody_earns_anything(entry):
    group = group_saying("perhaps", "no idea")
    score(entry, group)
    assert rewards_of(group, entry.name) == [0, 0]
    assert group.notes[entry.name]["answer"] is None


def test_the_lowest_perplexity_is_the_highest_mean_log_probability():
    """exp(0.6/2), by hand; the sum of the second rollout's is higher, and the prompt's token is none of them."""
    group = group_saying(*TEXTS[:2], logprobs=[(-0.1, -0.5), (-0.4,)])
    score(perplexity(), group)
    assert rewards_of(group, "perplexity") == [1, 0]
    assert group.notes["perplexity"]["perplexity"] == pytest.approx(1.3498588)


def test_without_log_probabilities_there_is_no_perplexity():
    group = group_saying(*TEXTS)
    score(perplexity(), group)
    assert "no rollout has log-probabilities" in group.trajectories[0].missing["perplexity"]


def test_the_anchors_choice_is_the_rollout_that_it_names():
    group = group_saying(*TEXTS, question="What is it?")
    (message,) = asked(group, self_judged(), r"Number 5 looks right: \boxed{5}")
    assert message["content"].startswith("The task:\nWhat is it?\n")
    assert rewards_of(group, "self_judged") == [0, 0, 0, 0, 1]
    assert group.notes["self_judged"].items() >= {"rollout": 4, "answer": "3", "calls": 1}.items()


@pytest.mark.parametrize("said", ["all of them", r"\boxed{6}", r"\boxed{0}", r"\boxed{the first}"])
def test_an_anchor_that_names_none_of_them_has_not_judged(said):
    group = group_saying(*TEXTS)
    score(self_judged(), group, ScriptedModel(lambda _: said))
    assert rewards_of(group, "self_judged") == [None] * 5
    assert "the anchor named none of 5 responses" in group.trajectories[0].missing["self_judged"]


def test_a_single_rollout_is_the_first():
    group = group_saying(*TEXTS)
    score(first(), group)
    assert rewards_of(group, "first") == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("entry", [majority(), perplexity(), first(), self_judged()], ids=lambda entry: entry.name)
def test_a_group_of_one_agrees_with_itself_and_is_refused(entry):
    group = group_saying(r"\boxed{7}", logprobs=[(-1.0,)])
    score(entry, group, ScriptedModel(lambda _: r"\boxed{1}"))
    assert rewards_of(group, entry.name) == [None]
    assert "a group of one rollout" in group.trajectories[0].missing[entry.name]


def test_all_leave_notes_of_one_form():
    group = group_saying(*TEXTS, logprobs=[(-1.0,)] * 5)
    for entry in (majority(), perplexity(), first(), self_judged(), reference()):
        score(entry, group, ScriptedModel(lambda _: r"\boxed{1}"))
    assert len(group.notes) == 5
    forms = {"answer", "text", "rollouts", "answers", "classes", "agrees"}
    assert all(note.keys() >= forms for note in group.notes.values())


@pytest.mark.parametrize("make", [majority, perplexity, first], ids=lambda make: make.__name__)
def test_answers_may_be_read_and_compared_otherwise(make):
    group = group_saying("a X", "b x", "c y", logprobs=[(-1.0,)] * 3)
    entry = make(answer=lambda text: text[-1], compare=lambda one, other: one.lower() == other.lower())
    score(entry, group)
    assert rewards_of(group, entry.name) == [1, 1, 0]
