import pytest

from grpo_agents.engines import Request, Sampling
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.engines.weights import Weights


def play(engine, *requests):
    done = []
    engine.submit([Request(session, [1, 2], 0, limit) for session, limit in requests], Sampling(), done.append)
    return done


def test_it_says_each_sessions_turns_in_order():
    engine = ScriptedEngine(lambda session, turn: [session, turn, 9])
    first = play(engine, (4, 10), (5, 10))
    second = play(engine, (5, 10), (4, 10))
    assert [(done.session, done.ids) for done in first] == [(4, [4, 0, 9]), (5, [5, 0, 9])]
    assert [(done.session, done.ids) for done in second] == [(5, [5, 1, 9]), (4, [4, 1, 9])]
    assert {done.finish_reason for done in first + second} == {"stop"}
    assert play(engine) == []


@pytest.mark.parametrize(
    ("limit", "ids", "reason"), [(2, [0, 1], "length"), (3, [0, 1, 2], "stop"), (9, [0, 1, 2], "stop")]
)
def test_it_is_cut_at_max_tokens(limit, ids, reason):
    (done,) = play(ScriptedEngine(lambda session, turn: range(3)), (0, limit))
    assert (done.ids, done.finish_reason, done.logprobs) == (ids, reason, [0.0] * len(ids))


def test_a_released_session_begins_again():
    engine = ScriptedEngine(lambda session, turn: [turn])
    play(engine, (0, 9), (1, 9))
    engine.release([0, 77])
    assert [done.ids for done in play(engine, (0, 9), (1, 9))] == [[0], [1]]


def test_the_rest_of_the_protocol():
    engine = ScriptedEngine(lambda session, turn: [1], context_length=50)
    engine.update_weights(Weights({}, 3))
    engine.sleep()
    engine.wake()
    engine.close()
    assert engine.context_length == 50
    assert play(engine, (0, 9))[0].version == 3
    assert [scores.tolist() for scores in engine.score([[1, 2, 3], [4]])] == [[0, 0, 0], [0]]
