"""What other tools log, line by line, as trajectories."""

import json

import pytest

from grpo_agents import store
from grpo_agents.importers import import_files
from grpo_agents.rescoring import rescore
from grpo_agents.trajectory import ToolRun

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2.5]}'}}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "2"}
SAY = {"role": "assistant", "content": "2", "refusal": None}
ADD = {"type": "function", "function": {"name": "add", "parameters": {}}}


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def imported(tmp_path, *rows, name="logs.jsonl", form=None):
    """The trajectories of some lines, and what the import says."""
    path, out = lines(tmp_path / name, *rows), tmp_path / f"{name}.parquet"
    done = import_files([path], out, form)
    return (store.read(out) if out.exists() else []), done


def test_a_log_becomes_turns_with_what_each_was_answered(tmp_path):
    row = {
        "id": "x", "model": "m", "tools": [ADD], "reward": True, "usage": {"prompt_tokens": 9, "completion_tokens": 12},
        "metadata": {"level": 3},
        "messages": [*ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, TOOL, SAY],
    }  # fmt: skip
    ((made,), done) = imported(tmp_path, row)
    assert done.formats == {tmp_path / "logs.jsonl": "chat logs in OpenAI's form"}
    assert made.prompt == tuple(ASK)
    call = {**CALL, "function": {"name": "add", "arguments": {"a": 1, "b": [2.5]}}}
    assert made.steps[0].message == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert made.steps[0].observation == (TOOL,)
    assert made.steps[0].tools == [ToolRun("add")]
    assert (made.steps[1].message, made.final) == ({"role": "assistant", "content": "2"}, "2")
    assert (made.rewards, made.sampled_tokens, made.trainable) == ({"reward": 1.0}, 12, False)
    assert (made.task["level"], made.task["model"], made.tools) == (3, "m", [ADD])
    assert store.read_scoring(tmp_path / "logs.jsonl.parquet").vector.names == ("reward",)


FORMS = {
    "messages": {"messages": [*ASK, SAY]},
    "list": [*ASK, SAY],
    "request": {"request": {"messages": ASK}, "response": {"choices": [{"message": SAY, "finish_reason": "stop"}]}},
    "batch": {
        "custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": ASK},
        "response": {"status_code": 200, "body": {"choices": [{"message": SAY}], "usage": {"completion_tokens": 4}}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_dialogue_is_the_same_in_every_form(tmp_path, name):
    ((made,), done) = imported(tmp_path, FORMS[name])
    assert done.bad == []
    assert made.messages() == [*ASK, {"role": "assistant", "content": "2"}]
    assert len(made.steps) == 1
    assert made.sampled_tokens == (4 if name == "batch" else 0)


def test_the_choices_of_an_answer_and_lines_with_one_prompt_are_a_group(tmp_path):
    answer = {"choices": [{"message": {"role": "assistant", "content": text}} for text in "23"]}
    answer["choices"][1]["finish_reason"] = "length"
    other = {"messages": [{"role": "user", "content": "2 + 2?"}, SAY], "score": None}
    rows = [{"request": {"messages": ASK}, "response": answer}, other, {"messages": [*ASK, SAY]}]
    made, done = imported(tmp_path, *rows)
    assert (done.groups, [t.id for t in made]) == (2, ["0.0", "0.1", "1.0", "0.2"])
    assert [t.stop_reason for t in made] == ["terminated", "tokens", "terminated", "terminated"]
    assert (made[2].rewards, made[2].missing) == ({"score": None}, {"score": "the log has none"})
    groups = store.read_groups(tmp_path / "logs.jsonl.parquet")
    assert [[t.final for t in group.trajectories] for group in groups] == [["2", "3", "2"], ["2"]]


def test_arguments_that_are_no_json_are_kept_as_they_are(tmp_path):
    call = {**CALL, "function": {"name": "add", "arguments": "{'a': 1"}}
    ((made,), _) = imported(tmp_path, [*ASK, {"role": "assistant", "tool_calls": [call]}])
    (read,) = made.steps[0].message["tool_calls"]
    assert read["text"] == read["function"]["arguments"] == "{'a': 1"
    assert made.steps[0].tools[0].error.startswith("its arguments are no JSON: ")
    rescore(tmp_path / "logs.jsonl.parquet", tmp_path / "new.parquet", vector="format,tool_calls")
    assert store.read(tmp_path / "new.parquet")[0].rewards == {"format": 0.0, "tool_calls": 1.0}


BAD = {
    '{"messages": [': "no JSON (Expecting value",
    "\ud800": "no JSON",
    "[1, 2]": "message 0 of 'messages' is a number, and an object with role and content is wanted",
    "7": "it is neither an object nor a list of messages",
    '{"text": "a", "n": 1}': "it has no messages, only text, n: add them",
    '{"messages": []}': "it has no message of the assistant",
    json.dumps({"messages": ASK}): "it has no message of the assistant, and nothing to evaluate: add what it said",
    json.dumps({"messages": 3}): "'messages' is a number, and a list of messages is wanted",
    json.dumps({"messages": [{"role": "human", "content": "a"}, SAY]}): "message 0 of 'messages' has the role 'human': "
    "write system, developer, user, assistant or tool",
    json.dumps({"messages": ["a", SAY]}): "message 0 of 'messages' is a text, and an object with role and content is",
    json.dumps({"messages": [*ASK, SAY], "reward": "good"}): "'reward' is a text, and a number is wanted",
    json.dumps(
        {"messages": [*ASK, SAY], "rewards": [1.0]}
    ): "'rewards' is a list or a number, and an object of numbers",
    json.dumps({"messages": [*ASK, SAY], "tools": "add"}): "its tools are a text, and a list of JSON schemas is wanted",
    json.dumps({"messages": [*ASK, SAY], "tools": [{}]}): "a tool has no name",
    json.dumps(
        {"messages": [*ASK, {**SAY, "tool_calls": [{}]}]}
    ): "a tool call of message 2 of 'messages' names no func",
    json.dumps({"messages": [*ASK, SAY], "id": "good"}): "it has the id of HERE, line 1: leave one of them out",
    json.dumps(
        {"custom_id": "b", "response": {"body": {"choices": []}}}
    ): "it has no messages, only custom_id, response: "
    "it is an answer alone: put the line of its request beside it, as request and response",
    json.dumps({"request": {"messages": ASK}, "response": {"error": "no"}}): "its response has no choices",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named_with_its_remedy_and_the_others_are_kept(tmp_path, line):
    good = json.dumps({"messages": [*ASK, SAY], "id": "good"})
    path, out = tmp_path / "logs.jsonl", tmp_path / "logs.parquet"
    path.write_bytes("\n".join([good, "", line, json.dumps([*ASK, SAY])]).encode("utf-8", "surrogatepass"))
    done = import_files([path], out)
    (said,) = done.bad
    assert said.startswith(f"{path}, line 3: {BAD[line].replace('HERE', str(path))}")
    assert len(store.read(out)) == done.trajectories == 2


def test_a_format_that_nobody_knows_is_said(tmp_path):
    _, done = imported(tmp_path, [1, 2], {"text": "a", "n": 1}, "7", {})
    told = ["no object", "an object with text, n", "no object", "an object with nothing in it"]
    for number, (line, what) in enumerate(zip(done.bad, told, strict=True), 1):
        assert line.startswith(
            f"{tmp_path / 'logs.jsonl'}, line {number}: {what} is of no format that is known. A log "
        )
        assert line.endswith("--format names one: own, verifiers-traces, verifiers, openai")


@pytest.mark.parametrize("form", ["own", "openai", "verifiers", "verifiers-traces"])
def test_a_line_of_any_shape_is_said_and_not_raised(tmp_path, form):
    odd = [7, None, [], {}, "text", [[1]], {"messages": {"a": 1}}, {"request": 1, "response": {"choices": [1]}}]
    odd += [{"completion": 3, "example_id": 1}, {"completion": [], "prompt": [1], "example_id": 0, "timing": 7}]
    odd += [{"task": {}, "traces": [7]}, {"task": {}, "traces": [{"nodes": [1]}]}, {"grpo_agents": 3, "steps": [7]}]
    odd += [
        {"messages": [*ASK, {**SAY, "tool_calls": 7}]},
        {"messages": [*ASK, SAY], "usage": 3, "metadata": [1], "tools": [7]},
    ]
    made, done = imported(tmp_path, *map(json.dumps, odd), form=form)
    assert (made, len(done.bad)) == ([], len(odd))


def test_where_nothing_is_good_nothing_is_written(tmp_path):
    made, done = imported(tmp_path, "{", {"messages": []})
    assert (made, done.trajectories, len(done.bad)) == ([], 0, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["logs.jsonl"]
    lines(tmp_path / "logs.jsonl", [*ASK, SAY])
    (tmp_path / "there.parquet").write_text("mine")
    with pytest.raises(FileExistsError, match="exists; remove it"):
        import_files([tmp_path / "logs.jsonl"], tmp_path / "there.parquet")
    store.write(tmp_path / "stored.parquet", [])
    with pytest.raises(ValueError, match=r"stored\.parquet is Parquet, and an import reads lines of JSON"):
        import_files([tmp_path / "stored.parquet"], tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()
    said = r"unknown format 'opnai'\. There are: own, verifiers-traces, verifiers, openai"
    with pytest.raises(ValueError, match=said):
        import_files([tmp_path / "logs.jsonl"], tmp_path / "new.parquet", "opnai")
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.jsonl"):
        import_files([tmp_path / "nowhere.jsonl"], tmp_path / "new.parquet")
    with pytest.raises(FileNotFoundError, match=r"neither traces\.jsonl nor results\.jsonl in this folder"):
        import_files([tmp_path], tmp_path / "new.parquet")
