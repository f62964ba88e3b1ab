"""Language models as tools."""

import pytest
import tiny
from fake_openai import serving

from grpo_agents.chat import Chat
from grpo_agents.engines import EngineFailure
from grpo_agents.engines.chat_model import EngineModel, ScriptedModel
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.tools import Price, PricedModel, choice_tool, model_tool, run_calls


def ask(made, **arguments):
    call = {"id": "0", "type": "function", "function": {"name": made.alias, "arguments": arguments}}
    messages, runs = run_calls({made.alias: made}, [call])
    return messages[0]["content"], runs[0]


def last(messages):
    return messages[-1]["content"]


PRICE = Price(call=0.01, read=0.001, written=0.1)


def test_it_is_asked_a_question_and_charged_by_its_tokens():
    made = model_tool("expert", "Knows much.", ScriptedModel(lambda said: "it is so"), price=PRICE, system="Be brief.")
    content, run = ask(made, question="is it really so")
    assert content == "it is so"
    assert run.dollars == pytest.approx(0.01 + (2 + 4) * 0.001 + 3 * 0.1)  # words of system and question; of the answer
    function = made.schema["function"]
    assert (function["name"], function["description"]) == ("expert", "Knows much.")
    assert list(function["parameters"]["properties"]) == ["question"]


def test_the_most_it_can_cost_is_known_where_answers_have_a_limit():
    model = ScriptedModel(last)
    assert model_tool("a", "A.", model, price=PRICE).most("one two") is None
    bound = model_tool("a", "A.", model, price=PRICE, max_tokens=5).most("one two")
    assert bound == pytest.approx(0.01 + 2 * 0.001 + 5 * 0.1)
    assert model_tool("a", "A.", model, price=0.5).most("one two") == 0.5
    server = ServerConfig(url="http://127.0.0.1:9/v1", model="m")
    assert model_tool("a", "A.", server, price=PRICE, max_tokens=5).most("one two") is None  # only it counts tokens
    assert model_tool("a", "A.", server, price=Price(written=0.1), max_tokens=5).most("one") == pytest.approx(0.5)


def test_an_engine_of_tokens_is_one_and_keeps_within_what_was_said():
    chat = Chat(tiny.make_tokenizer())
    ids = chat.tokenizer("12345", add_special_tokens=False)["input_ids"]
    engine = ScriptedEngine(lambda session, turn: [*ids, chat.stop_ids[0]])
    made = model_tool("expert", "Knows.", EngineModel(chat, engine), price=Price(read=1.0, written=10.0), max_tokens=9)
    content, run = ask(made, question="?")
    prompt = len(chat.start([{"role": "user", "content": "?"}]).ids)
    assert (content, run.dollars) == ("12345", prompt + 10.0 * (len(ids) + 1))
    assert made.most("?") == prompt + 10.0 * 9


def test_a_question_has_a_seed_of_its_own():
    seen = []

    class Seeded:
        async def complete(self, messages, tools=(), *, seed=0, temperature=None, max_tokens=None):
            seen.append((seed, temperature, max_tokens))
            return await ScriptedModel(last).complete(messages)

    made = model_tool("expert", "Knows.", Seeded(), temperature=0.5, max_tokens=7)
    for question in ("a", "b", "a"):
        ask(made, question=question)
    assert seen[0] == seen[2] != seen[1]
    assert seen[0][1:] == (0.5, 7)


def test_what_an_engine_fails_of_is_for_the_policy_to_read():
    def fail(messages):
        raise EngineFailure("it died of heat")

    content, run = ask(model_tool("expert", "Knows.", ScriptedModel(fail), price=0.5), question="?")
    assert content == "Error: tool 'expert' failed: EngineFailure: it died of heat"
    assert (run.dollars, run.error is None) == (0.5, False)


def test_one_tool_for_several_models_costs_what_the_chosen_one_does():
    models = {
        "small": PricedModel(
            ScriptedModel(lambda said: "perhaps"), Price(written=0.1), 2.0, "often wrong", max_tokens=4
        ),
        "large": PricedModel(ScriptedModel(lambda said: "surely it is"), Price(call=1.0), 0.5, "dear"),
    }
    made = choice_tool("answer", "Asks a model.", models)
    assert made.schema["function"]["description"] == "Asks a model.\nsmall: often wrong\nlarge: dear"
    assert made.schema["function"]["parameters"]["properties"]["model"]["enum"] == ["small", "large"]
    content, run = ask(made, model="small", question="is it?")
    assert (content, run.name, run.dollars, run.latency) == ("perhaps", "answer", 0.1, 2.0)
    content, run = ask(made, model="large", question="is it?")
    assert (content, run.dollars, run.latency) == ("surely it is", 1.0, 0.5)
    assert "model: Input should be 'small' or 'large'" in ask(made, model="huge", question="is it?")[0]
    assert (made.most(model="small", question="?"), made.most(model="large", question="?")) == (0.4, 1.0)
    with pytest.raises(ValueError, match="tool 'answer' has no models"):
        choice_tool("answer", "Asks.", {})


def test_a_question_that_fails_costs_what_is_declared_whoever_of_several_is_asked():
    def fail(_):
        raise ConnectionError("it is down")

    priced = PricedModel(ScriptedModel(fail), Price(call=5.0, written=1.0), latency=2.0)
    chosen = choice_tool("ask", "Asks.", {"dear": priced})
    alone = model_tool("ask", "Asks.", priced.model, price=priced.price, latency=2.0)
    for made, arguments in ((chosen, {"model": "dear"}), (alone, {})):
        content, run = ask(made, question="?", **arguments)
        assert content == "Error: tool 'ask' failed: ConnectionError: it is down"
        assert (run.dollars, run.latency) == (5.0, 2.0)
    _, run = ask(chosen.costing(latency=7.0), model="dear", question="?")
    assert (run.dollars, run.latency) == (5.0, 7.0)


def test_a_hosted_model_is_waited_for_as_long_as_its_tool_says(monkeypatch):
    seen = []

    def engine(server, patience):
        seen.append(patience)
        raise ConnectionError("not really")

    monkeypatch.setattr("grpo_agents.engines.hosted.HostedEngine", engine)
    server = ServerConfig(url="http://127.0.0.1:9/v1", model="m")
    ask(model_tool("ask", "Asks.", server, timeout=300.0), question="?")
    assert seen == [300.0]


def test_a_hosted_model_needs_an_address():
    with pytest.raises(ValueError, match=r"tool 'expert': a hosted model needs a url and a model"):
        model_tool("expert", "Knows.", ServerConfig(url="http://127.0.0.1:9/v1"))


def hosted(usage):
    message = {"role": "assistant", "content": "seven"}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    return serving(lambda path, body: answer)


def test_a_hosted_model_is_reached_when_it_is_asked_and_billed_as_it_counts(monkeypatch):
    monkeypatch.setenv("TOOL_KEY", "secret-7")
    with hosted({"prompt_tokens": 30, "completion_tokens": 4}) as fake:
        server = ServerConfig(url=fake.url, model="large", key_variable="TOOL_KEY")
        made = model_tool("expert", "Knows.", server, price=PRICE, max_tokens=50)
        assert fake.asked == []
        content, run = ask(made, question="3 + 4?")
        (body,) = fake.bodies("/v1/chat/completions")
    assert (content, run.dollars) == ("seven", pytest.approx(0.01 + 30 * 0.001 + 4 * 0.1))
    assert body["messages"] == [{"role": "user", "content": "3 + 4?"}]
    assert body["model"] == "large"
    assert "secret-7" not in repr(made) + str(run)


def test_a_hosted_model_that_counts_nothing_cannot_be_priced_by_tokens():
    with hosted(None) as fake:
        content, run = ask(model_tool("a", "A.", ServerConfig(url=fake.url, model="m"), price=PRICE), question="?")
    assert "its tokens have a price, and nobody counted them" in content
    assert run.dollars == 0.01
