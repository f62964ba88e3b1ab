"""Every environment is closed in the end, whatever becomes of its episode."""

import threading

import pytest
from processes import eventually
from talk import Talk, make_rollout, one, say
from tiny import make_tokenizer

from grpo_agents.background import in_background
from grpo_agents.chat import Chat
from grpo_agents.rollout import Order
from grpo_agents.rollout.orders import Batch


@pytest.fixture(autouse=True)
def _fresh():
    Talk.made.clear()
    Talk.hang = threading.Event()
    yield
    Talk.hang.set()


@pytest.fixture(scope="module")
def chat():
    return Chat(make_tokenizer(), tool_format="hermes")


def test_environments_are_used_again_and_closed(chat):
    rollout = make_rollout(chat, [say(chat, "bye")], group_size=3)
    for seed in range(3):
        rollout.sample([{"do": "talk"}], seed=seed)
    assert len(Talk.made) == 3
    closed = []
    for env in Talk.made:
        env.close = lambda: closed.append(1)
    rollout.close()
    assert len(closed) == 3


def closed_ones(monkeypatch):
    """The environments that are closed, in order."""
    closed = []
    monkeypatch.setattr(Talk, "close", lambda env: closed.append(env))
    return closed


def test_an_environment_that_cannot_be_closed_keeps_nobody_from_going_on(chat):
    before = set(threading.enumerate())
    rollout = make_rollout(chat, [say(chat, "bye")], group_size=3, step_timeout=2.0)
    rollout.sample([{"do": "talk"}], seed=0)
    raising, hanging, closing_ = Talk.made
    closed = []

    def fail():
        raise ValueError("the browser is gone")

    raising.close, hanging.close, closing_.close = fail, Talk.hang.wait, lambda: closed.append(1)
    with pytest.warns(UserWarning, match=r"^Talk: 2 of 3 environments were not closed: ") as said:
        rollout.close()
    assert len(said) == 1
    assert closed == [1]
    Talk.hang.set()
    assert eventually(lambda: not set(threading.enumerate()) - before)


def test_one_that_raised_is_closed_at_once_and_one_that_hangs_when_it_returns(chat, monkeypatch):
    closed = closed_ones(monkeypatch)
    rollout = make_rollout(chat, [say(chat, "bye")], step_timeout=0.5)
    one(rollout, "raise in step")
    assert eventually(lambda: closed == Talk.made[:1])
    assert one(rollout, "hang in step").stop_reason == "deadline"
    assert one(rollout).stop_reason == "terminated"
    assert closed == Talk.made[:1]
    Talk.hang.set()
    assert eventually(lambda: closed == Talk.made[:2])
    rollout.close()
    assert closed == Talk.made


@pytest.mark.parametrize("do", ["raise in step", "hang in step"])
def test_one_in_which_a_text_could_not_be_judged_is_closed(chat, monkeypatch, do):
    closed = closed_ones(monkeypatch)
    rollout = make_rollout(chat, [], step_timeout=0.5)
    with pytest.warns(UserWarning, match="could not be judged"):
        rollout.judge({"do": do}, "bye")
    Talk.hang.set()
    assert eventually(lambda: closed == Talk.made)
    rollout.close()


def test_one_that_waits_for_a_group_that_cannot_begin_is_closed(chat, monkeypatch):
    """Neither those that were made before another could not be, nor those of a task that cannot be varied."""
    closed, fails = closed_ones(monkeypatch), [ValueError("no third one")]

    def make():
        if len(Talk.made) == 2 and fails:
            raise fails.pop()
        return Talk()

    rollout = make_rollout(chat, [say(chat, "bye")], env=make, group_size=3)
    with pytest.raises(ValueError, match="no third one"):
        rollout.sample([{"do": "talk"}], seed=0)
    monkeypatch.setattr(Talk, "vary", lambda env, task, rng: task["none"])
    with pytest.raises(KeyError, match="none"):
        rollout.sample([{"do": "talk"}], seed=0)
    rollout.close()
    assert sorted(map(id, closed)) == sorted(map(id, Talk.made))
    assert len(Talk.made) == 3


def test_one_that_is_made_too_late_is_closed(chat, monkeypatch):
    closed = closed_ones(monkeypatch)

    def make():
        Talk.hang.wait(60)
        return Talk()

    rollout = make_rollout(chat, [say(chat, "bye")], env=make, episode_timeout=0.2)
    with pytest.raises(TimeoutError, match="was not made within"):
        rollout.sample([{"do": "talk"}], seed=0)
    Talk.hang.set()
    assert eventually(lambda: len(closed) == 1)


def test_one_that_raised_is_closed_although_its_rollout_breaks_off(chat, monkeypatch):
    """Its closing waits until nothing else is under way."""
    closed, over = [], threading.Event()
    monkeypatch.setattr(Talk, "close", lambda env: over.wait(60) and closed.append(env))

    class Orders(Batch):
        def hand_back(self, order, group):
            raise KeyboardInterrupt

    rollout = make_rollout(chat, [say(chat, "bye")], threads=1)
    with pytest.raises(KeyboardInterrupt):
        rollout.play(Orders([Order({"do": "raise in step"}, 0, 0, 1)]))
    over.set()
    rollout.close()
    assert closed == Talk.made
    assert len(Talk.made) == 1


def test_what_is_being_made_when_its_rollout_is_closed_is_closed_later(chat, monkeypatch):
    closed = closed_ones(monkeypatch)

    def make():
        begun.set()
        Talk.hang.wait(60)
        return Talk()

    begun = threading.Event()
    rollout = make_rollout(chat, [say(chat, "bye")], env=make, group_size=2, step_timeout=0.3)
    played = in_background(lambda: rollout.sample([{"do": "talk"}], seed=0))
    assert begun.wait(10)
    with pytest.warns(UserWarning, match="or an environment that is made or asked, holds up what is played"):
        rollout.close()
    Talk.hang.set()
    with pytest.raises(RuntimeError, match="Talk: the rollout was closed while it played"):
        played.result(10)
    assert eventually(lambda: len(closed) == 2)


def test_what_breaks_off_leaves_no_environment_open_and_begins_nothing_more(chat, monkeypatch):
    """Two are at work, one has had its turn, the others wait for a thread."""
    closed = closed_ones(monkeypatch)
    rollout = make_rollout(chat, [say(chat, "bye")], threads=2)
    begun = []
    monkeypatch.setattr(Talk, "start", lambda env, task: begun.append(env) or Talk.hang.wait(60) or "go")

    def break_off():
        raise KeyboardInterrupt

    class Orders(Batch):
        def take(self):
            if len(begun) == 2:
                break_off()
            return super().take()

    orders = Orders([Order({"do": "talk"}, 0, number, 1) for number in range(6)])
    with pytest.raises(KeyboardInterrupt):
        rollout.play(orders)
    rollout.close()
    assert len(begun) == 2
    assert set(closed) == set(Talk.made) - set(begun)
    Talk.hang.set()
    assert eventually(lambda: set(closed) == set(Talk.made))
    assert len(closed) == len(Talk.made) == 6


def test_one_that_is_closed_while_another_thread_plays_breaks_off(chat, monkeypatch):
    closed = closed_ones(monkeypatch)
    rollout = make_rollout(chat, [say(chat, "and")], max_turns=10**6, max_tokens=10**9)
    played = in_background(lambda: rollout.sample([{"do": "talk"}], seed=0))
    assert eventually(lambda: Talk.made and Talk.made[0].history)
    rollout.close()
    with pytest.raises(RuntimeError, match="Talk: the rollout was closed while it played"):
        played.result(10)
    assert eventually(lambda: closed == Talk.made)
