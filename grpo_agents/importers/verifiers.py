"""Rollouts that verifiers saved, in both of its forms.

``vf-eval --save-results`` of versions 0.1 writes a folder with ``results.jsonl``, a rollout a line, and
``metadata.json``; later versions write ``traces.jsonl``, an episode a line, with a graph of messages for each agent.
The total is stored as ``reward``, and the functions that it is made of beside it, by their names.
See ``state_to_output`` and ``Trace`` of https://github.com/PrimeIntellect-ai/verifiers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grpo_agents.importers.dialogue import BadRow, read_messages, read_number, read_tools, turns_of
from grpo_agents.rewards.component import FAILED
from grpo_agents.trajectory import Trajectory

NAME = "verifiers' results"
TRACES = "verifiers' traces"

_NOT_METRICS = ("example_id", "id", "reward", "advantage", "generation_ms", "scoring_ms", "total_ms")


def fits(row: Any) -> bool:
    """Whether a line looks like one of results.jsonl."""
    return isinstance(row, dict) and "prompt" in row and "completion" in row


def fits_traces(row: Any) -> bool:
    """Whether a line looks like one of traces.jsonl."""
    return isinstance(row, dict) and "task" in row and ("traces" in row or "nodes" in row)


def read(row: Any, about: Mapping[str, Any]) -> Iterator[tuple[Trajectory, str | None]]:
    """The trajectory of a line of results.jsonl."""
    if not isinstance(row, dict) or "completion" not in row:
        raise BadRow("it has no completion: name the format with --format, if it is another one")
    example = row.get("example_id", row.get("id"))
    if example is None:
        raise BadRow("it has no example_id, which says of which task it is: add it")
    error = row.get("error")
    prompt = read_messages(row.get("prompt") or [], "user", "prompt")
    asked, steps = turns_of(prompt, read_messages(row["completion"] or [], "assistant", "completion"))
    if not asked and not steps:
        raise BadRow("it has no messages: leave the line out")
    made = Trajectory(env=str(about.get("env_id") or "verifiers"), prompt=asked, steps=steps)
    made.tools = read_tools(row.get("tool_defs") or about.get("tools"))
    told = {name: row[name] for name in ("answer", "info", "task") if row.get(name) not in (None, "", {})}
    made.task = {**told, **({"model": about["model"]} if about.get("model") else {}), "id": example}
    usage, timing = row.get("token_usage") or {}, row.get("timing") or row
    if steps and (counted := read_number(usage.get("output_tokens"), "output_tokens")) is not None:
        steps[-1].tokens = int(counted)
    made.seconds = float(timing.get("total") or (timing.get("total_ms") or 0) / 1000)
    metrics = row.get("metrics")
    if not isinstance(metrics, Mapping):  # early versions have them beside the rest
        metrics = {
            name: value for name, value in row.items() if type(value) in (int, float) and name not in _NOT_METRICS
        }
    made.rewards = {name: read_number(value, name) for name, value in {"reward": row.get("reward"), **metrics}.items()}
    if error is not None:
        made.stop_reason = "error"
        made.error = str(error.get("error_chain_repr") or error.get("error") if isinstance(error, Mapping) else error)
    elif row.get("is_truncated"):
        made.stop_reason = "truncated"
    _explain(made)
    yield made, None


def read_traces(row: Any, _about: Mapping[str, Any]) -> Iterator[tuple[Trajectory, str | None]]:
    """The trajectories of a line of traces.jsonl: one an agent."""
    if not isinstance(row, dict) or not isinstance(row.get("task"), Mapping):
        raise BadRow("it has no task: name the format with --format, if it is another one")
    traces = row.get("traces", [row])  # early ones have a trace a line
    if not isinstance(traces, list) or not traces:
        raise BadRow("it has no traces: no agent said anything. Leave the line out")
    env = row.get("env") or {}
    for trace in traces:
        made = _trajectory(trace, str(env.get("id") or "verifiers"), {**row["task"], **(trace.get("task") or {})})
        yield made, trace.get("id")


def _trajectory(trace: Mapping[str, Any], env: str, task: Mapping[str, Any]) -> Trajectory:
    nodes = trace.get("nodes")
    if not isinstance(nodes, list) or not nodes:
        raise BadRow("a trace of it has no nodes: it holds no messages. Leave the line out")
    path, at = [], len(nodes) - 1  # of several branches, the one with the last word
    while at is not None:
        if not (isinstance(at, int) and 0 <= at < len(nodes)) or at in path:
            raise BadRow(f"its nodes lead to {at!r}, and there are {len(nodes)}")
        path.append(at)
        at = nodes[at].get("parent")
    path.reverse()
    messages = read_messages([nodes[at].get("message") for at in path], "assistant", "nodes")
    first = next((place for place, at in enumerate(path) if nodes[at].get("sampled", True)), len(path))
    given = [place for place in range(first) if messages[place]["role"] == "assistant"]
    start = given[-1] + 1 if given else 0  # what somebody put into the assistant's mouth is part of the question
    prompt, steps = turns_of(messages[:start], messages[start:])
    said = [at for at, message in zip(path[start:], messages[start:], strict=True) if message["role"] == "assistant"]
    counted = {
        call.get("node"): (call.get("usage") or {}).get("completion_tokens") for call in trace.get("calls") or ()
    }
    for at, step in zip(said, steps, strict=True):
        step.tokens = counted.get(at)
    made = Trajectory(env=env, prompt=prompt, steps=steps, tools=read_tools(trace.get("tools")))
    data = task.get("data") or {}
    names = (task.get("key"), data.get("id"), data.get("idx"), task.get("hash"))
    made.task = {**data, "id": next((name for name in names if name is not None), None)}
    given_rewards = trace.get("rewards") or {}
    scores = {name: _part(entry, "score", name) for name, entry in given_rewards.items()}
    worth = [(scores[name], _part(entry, "weight", name)) for name, entry in given_rewards.items()]
    known = all(score is not None for score, _ in worth)
    total = sum(score * (1.0 if weight is None else weight) for score, weight in worth if score is not None)
    metrics = {name: read_number(value, name) for name, value in (trace.get("metrics") or {}).items()}
    made.rewards = {"reward": total if known and worth else None, **scores, **metrics}
    errors = trace.get("errors") or []
    if errors and not trace.get("ok", False):
        made.stop_reason = "deadline" if trace.get("is_timeout") else "error"
        made.error = f"{errors[-1].get('type')}: {errors[-1].get('message')}"
    agent = (trace.get("timing") or {}).get("agent") or {}
    made.seconds = max(0.0, float(agent.get("end") or 0) - float(agent.get("start") or 0))
    _explain(made)
    return made


def _part(entry: Any, part: str, name: str) -> float | None:
    """The score or the weight of a reward, which may be a plain number."""
    if isinstance(entry, Mapping):
        return read_number(entry.get(part), name)
    return read_number(entry, name) if part == "score" else None


def _explain(made: Trajectory) -> None:
    """Of an episode that failed nothing can be said; of others, that a reward is missing."""
    failed = made.stop_reason in FAILED
    for name, value in made.rewards.items():
        if failed or value is None:
            made.rewards[name] = None
            made.missing[name] = f"the episode failed: {made.error}" if failed else "verifiers computed none"
