"""Chat models made of engines: who asks together is sampled together, and what fails is raised where it is awaited."""

import asyncio
import time

import pytest
import tiny

from grpo_agents.chat import Chat
from grpo_agents.engines import EngineFailure
from grpo_agents.engines.chat_model import EngineModel, SharedEngine
from grpo_agents.engines.scripted import ScriptedEngine


def said(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def chat():
    return Chat(tiny.make_tokenizer())


def script(chat, text):
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return lambda session, turn: [*ids, chat.stop_ids[0]]


class Counting(ScriptedEngine):
    """Notes what it was handed and what it was told to forget."""

    def __init__(self, *arguments, lockstep=True, **settings):
        super().__init__(*arguments, **settings)
        self.lockstep, self.batches, self.released = lockstep, [], []

    def submit(self, requests, sampling, deliver):
        self.batches.append([request.session for request in requests])
        super().submit(requests, sampling, deliver)

    def release(self, sessions):
        self.released += sessions
        super().release(sessions)


async def ask_all(model, count, **settings):
    return await asyncio.gather(*(model.complete(said(f"{number}"), **settings) for number in range(count)))


def test_gives_the_message_and_counts_its_tokens(chat):
    engine = Counting(script(chat, "42"))
    answer = asyncio.run(EngineModel(chat, engine).complete(said("6 * 7")))
    assert (answer.text, answer.finish_reason) == ("42", "stop")
    assert answer.read == len(chat.start(said("6 * 7")).ids)
    assert answer.written == len(chat.tokenizer("42")["input_ids"]) + 1


def test_an_engine_in_lockstep_gets_in_one_batch_what_is_asked_at_once(chat):
    engine = Counting(script(chat, "1"))
    asyncio.run(ask_all(EngineModel(chat, engine), 20))
    assert [len(batch) for batch in engine.batches] == [20]
    assert sorted(engine.released) == sorted(engine.batches[0])
    assert max(engine.released) < 0


def test_other_engines_get_each_question_alone(chat):
    engine = Counting(script(chat, "1"), lockstep=False)
    asyncio.run(ask_all(EngineModel(chat, engine), 5))
    assert [len(batch) for batch in engine.batches] == [1] * 5


def test_questions_of_several_event_loops_meet_at_one_engine(chat):
    model = EngineModel(chat, Counting(script(chat, "1")))

    async def elsewhere():
        return await asyncio.gather(*(asyncio.to_thread(asyncio.run, ask_all(model, 3)) for _ in range(4)))

    assert [[answer.text for answer in answers] for answers in asyncio.run(elsewhere())] == [["1"] * 3] * 4


def test_what_is_longer_than_allowed_is_cut(chat):
    answer = asyncio.run(EngineModel(chat, Counting(script(chat, "12345")), max_tokens=2).complete(said("?")))
    assert (answer.finish_reason, answer.written) == ("length", 2)


def test_a_failure_is_raised_where_it_is_awaited(chat):
    class Failing(Counting):
        def submit(self, requests, sampling, deliver):
            deliver(EngineFailure("it died"))

    with pytest.raises(EngineFailure, match="it died"):
        asyncio.run(EngineModel(chat, Failing(script(chat, "1"))).complete(said("?")))


def test_a_prompt_that_fills_the_context_is_refused(chat):
    engine = Counting(script(chat, "1"), context_length=8)
    with pytest.raises(ValueError, match="fill the model's context of 8"):
        asyncio.run(EngineModel(chat, engine).complete(said("a long question " * 10)))
    assert engine.batches == []


def test_models_of_one_engine_take_turns_and_have_sessions_of_their_own(chat):
    class OneAtATime(Counting):
        inside = 0

        def submit(self, requests, sampling, deliver):
            self.inside += 1
            assert self.inside == 1
            time.sleep(0.01)  # so that another thread would be seen
            super().submit(requests, sampling, deliver)
            self.inside -= 1

    engine = OneAtATime(script(chat, "1"))
    shared = SharedEngine(engine)
    anchor, judge = EngineModel(chat, shared), EngineModel(chat, shared, temperature=0.0)

    async def both():
        return await asyncio.gather(
            *(asyncio.to_thread(asyncio.run, ask_all(model, 3)) for model in (anchor, judge) * 3)
        )

    assert [[answer.text for answer in answers] for answers in asyncio.run(both())] == [["1"] * 3] * 6
    asked = [session for batch in engine.batches for session in batch]
    assert len(set(asked)) == len(asked) == 18
