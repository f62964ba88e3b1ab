"""Rollouts that verifiers saved: lines as its versions write them."""

import json

import pytest
from test_logs import ADD, ASK, SAY, lines

from grpo_agents import store
from grpo_agents.evaluation import evaluate
from grpo_agents.importers import import_files

ADD_CALL = json.dumps({"id": "c1", "name": "add", "arguments": '{"a": 1}'})  # of 0.1.10 and later
OLD_CALL = json.dumps({"id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}, "type": "function"})
TOOL = {"role": "tool", "content": "2", "tool_call_id": "c1"}


def result(example, reward, call=ADD_CALL, **fields):
    """A line of results.jsonl, as state_to_output of verifiers 0.1.14 makes it."""
    completion = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        TOOL,
        {"role": "assistant", "content": "2"},
    ]
    return {
        "example_id": example, "prompt": ASK, "completion": completion, "answer": "2", "info": {"level": 1},
        "reward": reward, "error": None, "timing": {"start_time": 1.0, "total": 2.5, "generation": {"start": 1.0}},
        "is_completed": True, "is_truncated": False, "stop_condition": "no_tools",
        "metrics": {"right": reward, "calls": 1.0},
        "tool_defs": [{"name": "add", "description": "Adds.", "parameters": {}}],
        "token_usage": {"input_tokens": 40.0, "output_tokens": 15.0}, "right": reward, "calls": 1.0, **fields,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    failed = {"error": "ModelError", "error_chain_repr": "ModelError('no answer')", "error_chain_str": "ModelError"}
    rows = [
        result(0, 1.0),
        result(1, 0.0),
        result(0, 0.0, is_truncated=True),
        result(1, 0.0, error=failed, completion=[]),
        result(2, 0.5, OLD_CALL),
    ]
    lines(tmp_path / "run" / "results.jsonl", *rows)
    (tmp_path / "run" / "metadata.json").write_text(json.dumps({"env_id": "sums", "model": "m", "avg_reward": 0.3}))
    return tmp_path / "run"


def test_the_rollouts_of_an_example_are_a_group(folder, tmp_path):
    done = import_files([folder], tmp_path / "a.parquet")
    assert (done.trajectories, done.groups, done.bad) == (5, 3, [])
    assert done.formats == {folder / "results.jsonl": "verifiers' results"}
    groups = store.read_groups(tmp_path / "a.parquet")
    assert [group.task for group in groups] == [
        {"answer": "2", "info": {"level": 1}, "model": "m", "id": number} for number in range(3)
    ]
    assert [[t.rewards["reward"] for t in group.trajectories] for group in groups] == [[1.0, 0.0], [0.0, None], [0.5]]
    first, cut, failed, old = (groups[at].trajectories[place] for at, place in ((0, 0), (0, 1), (1, 1), (2, 0)))
    assert (first.env, first.prompt, first.final, first.seconds) == ("sums", tuple(ASK), "2", 2.5)
    assert first.rewards == {"reward": 1.0, "right": 1.0, "calls": 1.0}
    assert (first.sampled_tokens, first.trainable) == (15, False)
    assert first.tools == [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]
    assert old.steps == first.steps
    assert first.steps[0].message["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert (cut.stop_reason, failed.stop_reason, failed.error) == ("truncated", "error", "ModelError('no answer')")
    assert failed.missing["reward"] == "the episode failed: ModelError('no answer')"


def test_early_versions_have_metrics_and_times_beside_the_rest(tmp_path):
    row = {
        "id": 3, "prompt": "1 + 1?", "completion": "2", "task": "default", "reward": 0.5, "generation_ms": 1500.0,
        "scoring_ms": 500.0, "total_ms": 2000.0, "answer": "2", "right": 1.0, "format": 0.0,
    }  # fmt: skip
    import_files([lines(tmp_path / "results.jsonl", row)], tmp_path / "a.parquet")
    (made,) = store.read(tmp_path / "a.parquet")
    assert made.rewards == {"reward": 0.5, "right": 1.0, "format": 0.0}
    assert made.messages() == [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    assert (made.seconds, made.task) == (2.0, {"answer": "2", "task": "default", "id": 3})


def trace(identity, score, **fields):
    """A trace as verifiers 0.4 writes it, without what is not set."""
    call = {"id": "c1", "type": "function", "name": "add", "arguments": '{"a": 1}'}
    nodes = [
        {"message": ASK[0], "sampled": False, "timestamp": 1.0},
        {"parent": 0, "message": ASK[1], "sampled": False},
        {"parent": 1, "message": {"role": "assistant", "content": "", "tool_calls": [call]}, "sampled": True},
        {"parent": 1, "message": {"role": "assistant", "content": "never mind"}, "sampled": True},
        {"parent": 2, "message": TOOL, "sampled": False},
        {"parent": 4, "message": {"role": "assistant", "content": "2"}, "sampled": True},
    ]
    return {
        "version": 1, "id": identity, "task": {"type": "Sum", "data": {"idx": 4, "answer": "2"}, "key": "k4"},
        "agent": {"config": {}, "name": "solver"}, "tools": [{"type": "function", "name": "add", "parameters": {}}],
        "nodes": nodes, "rewards": {"right": {"score": score, "weight": 0.5}, "brief": {"score": 1.0, "weight": 0.25}},
        "calls": [
            {"node": 2, "usage": {"prompt_tokens": 20, "completion_tokens": 7}},
            {"node": 3, "usage": {"prompt_tokens": 20, "completion_tokens": 90}},
            {"node": 5, "usage": {"prompt_tokens": 30, "completion_tokens": 3}},
        ],
        "metrics": {"turns": 2.0}, "is_completed": True, "ok": True, "timing": {"agent": {"start": 1.0, "end": 3.0}},
        **fields,
    }  # fmt: skip


def episode(*traces):
    return {"id": "e", "env": {"id": "sums"}, "task": traces[0]["task"], "ok": True, "traces": list(traces)}


def test_a_graph_of_messages_is_the_way_to_its_last_word(tmp_path):
    broken = {
        "ok": False,
        "errors": [{"type": "TimeoutError", "message": "60 s"}],
        "is_timeout": True,
        "rewards": {"right": None},
    }
    rows = [episode(trace("a", 1.0)), episode(trace("b", 0.0), trace("c", 0.0, **broken)), trace("d", 1.0)]
    done = import_files([lines(tmp_path / "traces.jsonl", *rows)], tmp_path / "a.parquet")
    assert (done.bad, done.groups, list(done.formats.values())) == ([], 2, ["verifiers' traces"])
    first, second, failed, alone = store.read(tmp_path / "a.parquet")
    assert [message.get("content") for message in first.messages()] == ["Be brief.", "1 + 1?", "", "2", "2"]
    assert [step.tokens for step in first.steps] == [7, 3]
    assert first.rewards == {"reward": 0.75, "right": 1.0, "brief": 1.0, "turns": 2.0}
    assert (first.task, first.env, first.seconds) == ({"idx": 4, "answer": "2", "id": "k4"}, "sums", 2.0)
    assert first.tools == [{"type": "function", "function": {"type": "function", "name": "add", "parameters": {}}}]
    assert [t.id for t in (first, second, failed, alone)] == ["0.0", "0.1", "0.2", "1.0"]  # the last is of no env
    assert (failed.stop_reason, failed.error) == ("deadline", "TimeoutError: 60 s")
    assert failed.rewards == {"reward": None, "right": None, "turns": None}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (result(None, 1.0), "it has no example_id"),
        (result(0, "good"), "'reward' is a text, and a number is wanted"),
        (result(0, 1.0, completion=[], prompt=None), "it has no messages"),
        (result(0, 1.0, completion=[{"role": "robot"}]), "message 0 of 'completion' has the role 'robot'"),
        (result(0, 1.0, "{"), "a tool call of message 0 of 'completion' is a text that is no JSON"),
    ],
)
def test_a_bad_result_is_named(tmp_path, row, reason):
    done = import_files([lines(tmp_path / "results.jsonl", result(0, 1.0), row)], tmp_path / "a.parquet")
    (said,) = done.bad
    assert said.startswith(f"{tmp_path / 'results.jsonl'}, line 2: {reason}")
    assert done.trajectories == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"nodes": []}, "a trace of it has no nodes"),
        (
            {"nodes": [{"parent": 1, "message": SAY}, {"parent": 0, "message": SAY}]},
            "its nodes lead to 1, and there are 2",
        ),
        ({"id": "a"}, "it has the id of"),
    ],
)
def test_a_bad_trace_is_named(tmp_path, fields, reason):
    rows = [episode(trace("a", 1.0)), episode(trace("b", 1.0, **fields))]
    done = import_files([lines(tmp_path / "traces.jsonl", *rows)], tmp_path / "a.parquet")
    (said,) = done.bad
    assert said.startswith(f"{tmp_path / 'traces.jsonl'}, line 2: {reason}")


def test_what_is_imported_is_evaluated_and_refused_for_training(folder, tmp_path):
    import_files([folder], tmp_path / "a.parquet")
    from grpo_agents.evaluation.episodes import Episodes

    scoring = store.read_scoring(tmp_path / "a.parquet")
    summary = evaluate(Episodes.read([tmp_path / "a.parquet"], print), scoring.vector, scoring.maxima)
    assert summary.components["reward"].interval.mean == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert summary.reward.missing == 1
    assert ADD["function"]["name"] in summary.tool_calls
