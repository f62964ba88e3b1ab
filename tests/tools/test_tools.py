import asyncio
import enum
import json
import sys
import threading
import time
from typing import Literal

import pytest

from grpo_agents.tools import MAX_RESULT_CHARS, Tool, run_calls, tool
from grpo_agents.trajectory import ToolRun


def call(name, arguments, number=0):
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(made: Tool, arguments) -> tuple[str, ToolRun]:
    messages, runs = run_calls({made.name: made}, [call(made.name, arguments)])
    return messages[0]["content"], runs[0]


class Unit(enum.StrEnum):
    metre = "m"
    foot = "ft"


@tool
def measure(
    place: str, unit: Unit = Unit.metre, mode: Literal["fast", "slow"] = "fast", limit: int | None = None
) -> str:
    """Measures a place.

    It takes a while.

    Args:
        place: Where to measure.
        limit: The most
            that is sensible.
    """
    return f"{place} {unit.value} {mode} {limit}"


@tool(timeout=0.2)
def hang() -> str:
    """Never answers in time."""
    time.sleep(5)
    return "late"


@tool(timeout=None)
def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


@tool(timeout=0.2)
async def hang_async() -> str:
    """Never answers in time."""
    await asyncio.sleep(5)
    return "late"


@tool
async def where() -> int:
    """Names the thread of its loop."""
    return threading.get_ident()


def test_schema_comes_from_the_signature():
    function = measure.schema["function"]
    assert measure.schema["type"] == "function"
    assert function["name"] == "measure"
    assert function["description"] == "Measures a place.\nIt takes a while."
    properties = function["parameters"]["properties"]
    assert function["parameters"]["required"] == ["place"]
    assert properties["place"] == {"type": "string", "description": "Where to measure."}
    assert properties["mode"]["enum"] == ["fast", "slow"]
    assert properties["mode"]["default"] == "fast"
    assert properties["limit"]["default"] is None
    assert {entry["type"] for entry in properties["limit"]["anyOf"]} == {"integer", "null"}
    assert properties["limit"]["description"].split() == ["The", "most", "that", "is", "sensible."]
    assert '["m", "ft"]' in json.dumps(function["parameters"])  # the schema is plain JSON


def test_arguments_are_read_by_their_types():
    assert answer(measure, {"place": "hall", "unit": "ft", "limit": "3"})[0] == "hall ft fast 3"
    assert answer(measure, json.dumps({"place": "hall"}))[0] == "hall m fast None"


def test_a_tool_is_still_a_function():
    assert double(4) == 8
    assert double(number=5) == 10


def test_decorator_settings():
    @tool(name="other", price=0.5, latency=2.0, timeout=None)
    def function(text: str) -> str:
        """Says it again."""
        return text

    assert (function.name, function.price, function.latency, function.timeout) == ("other", 0.5, 2.0, None)
    assert function.schema["function"]["name"] == "other"
    dearer = function.costing(price=3.0)
    assert (dearer.price, dearer.latency, function.price) == (3.0, 2.0, 0.5)


def test_undocumented_and_untyped_functions_are_refused():
    def silent(number: int) -> int:
        return number

    def untyped(number):
        """Gives it back."""
        return number

    with pytest.raises(ValueError, match=r"tool 'silent' has no docstring.*Write one line"):
        tool(silent)
    with pytest.raises(ValueError, match=r"tool 'untyped': parameter 'number' has no type\. Write `number: str`"):
        tool(untyped)


def test_a_negative_price_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        tool(price=-1.0)(double.function)


def test_results_come_in_call_order_with_their_ids():
    tools = {"double": double, "where": where}
    calls = [
        call("double", {"number": 3}, 7),
        call("nothing", {}, 5),
        call("where", {}, 9),
        call("double", {"number": 4}, 1),
    ]
    messages, runs = run_calls(tools, calls)
    assert [message["tool_call_id"] for message in messages] == ["call00007", "call00005", "call00009", "call00001"]
    assert [message["role"] for message in messages] == ["tool"] * 4
    assert (messages[0]["content"], messages[3]["content"]) == ("6", "8")
    assert [run.name for run in runs] == ["double", "nothing", "where", "double"]


@pytest.mark.parametrize("slow", [hang, hang_async], ids=["sync", "async"])
def test_a_hanging_tool_is_given_up_in_time(slow):
    started = time.perf_counter()
    messages, runs = run_calls(
        {slow.name: slow, "double": double}, [call(slow.name, {}), call("double", {"number": 2})]
    )
    assert time.perf_counter() - started < 1.0
    assert "gave no answer within 0.2 s" in messages[0]["content"]
    assert runs[0].error is not None
    assert 0.2 <= runs[0].latency < 1.0
    assert messages[1]["content"] == "4"


def test_async_tools_share_one_loop():
    first, second = answer(where, {})[0], answer(where, {})[0]
    assert first == second
    assert int(first) != threading.get_ident()


def test_an_async_tool_that_exits_leaves_the_loop_running():
    @tool
    async def leave() -> str:
        """Exits the program."""
        sys.exit("bye")

    assert "bye" in answer(leave, {})[0]
    assert answer(where, {})[1].error is None


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("error", [KeyError("gone"), TimeoutError("socket"), SystemExit(3), RecursionError("deep")])
def test_a_raising_tool_becomes_a_message(timeout, error):
    @tool(price=2.0, timeout=timeout)
    def broken() -> str:
        """Breaks."""
        raise error

    content, run = answer(broken, {})
    assert content == f"Error: tool 'broken' failed: {type(error).__name__}: {error}"
    assert run.error == content.removeprefix("Error: ")
    assert run.dollars == 2.0  # it was run


def test_what_a_tool_validates_itself_is_its_own_failure():
    @tool(price=1.0, timeout=None)
    def inner() -> str:
        """Reads a configuration of its own."""
        from pydantic import TypeAdapter

        return TypeAdapter(int).validate_python("no number")

    content, run = answer(inner, {})
    assert "failed: ValidationError" in content
    assert run.dollars == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"number": "many"}, r"wrong arguments for 'double': number: Input should be a valid integer"),
        ({}, r"wrong arguments for 'double': number: Missing required argument"),
        ({"number": 1, "extra": 2}, r"wrong arguments for 'double': extra: Unexpected keyword argument"),
        ("{number: 1}", r"the arguments of 'double' are not a JSON object"),
        ("[1]", r"not a JSON object: they are a list"),
        (None, r"not a JSON object: they are a NoneType"),
        ("[" * 100_000, r"not a JSON object"),
        ("9" * 5_000, r"not a JSON object"),
    ],
)
def test_wrong_arguments_are_refused_at_no_cost(arguments, said):
    content, run = answer(double.costing(price=1.0), arguments)
    assert content.startswith("Error: ")
    assert said in content
    assert (run.dollars, run.latency) == (0.0, 0.0)
    assert run.error is not None


def test_an_unknown_tool_names_those_there_are():
    messages, runs = run_calls({"double": double}, [call("triple", {})])
    assert messages[0]["content"] == "Error: there is no tool 'triple'. Available: double"
    assert runs[0].error is not None
    assert run_calls({}, [call("triple", {})])[0][0]["content"].endswith("Available: none")


def test_a_call_that_could_not_be_parsed_says_why():
    messages, runs = run_calls({"double": double}, [{**call("double", "{"), "invalid": "no closing brace"}])
    assert messages[0]["content"] == "Error: the tool call could not be read: no closing brace"
    assert runs[0].dollars == 0.0


def test_a_megabyte_is_cut_and_says_so():
    @tool(timeout=None)
    def long(fail: bool) -> str:
        """Talks."""
        if fail:
            raise ValueError("x" * 1_000_000)
        return "x" * 1_000_000

    shown, run = answer(long, {"fail": False})
    assert shown.startswith("x" * MAX_RESULT_CHARS + "\n")
    assert "1000000 characters" in shown
    assert len(shown) < MAX_RESULT_CHARS + 100
    assert run.error is None
    failed, run = answer(long, {"fail": True})
    assert max(len(failed), len(run.error or "")) < MAX_RESULT_CHARS + 200
    refused, run = answer(long, {"y" * 1_000_000: 1})
    assert max(len(refused), len(run.error or "")) < MAX_RESULT_CHARS + 200


def test_other_results_are_json_or_an_error():
    @tool(timeout=None)
    def give(what: str) -> object:
        """Gives things."""
        return {"list": [1, 2.5, None, "é"], "none": None, "bytes": b"x", "nan": float("nan")}[what]

    assert answer(give, {"what": "list"})[0] == '[1, 2.5, null, "é"]'
    assert answer(give, {"what": "none"})[0] == "null"
    assert "it returned a bytes, which is neither text nor JSON" in answer(give, {"what": "bytes"})[0]
    assert "it returned a float" in answer(give, {"what": "nan"})[0]


def test_latency_is_declared_or_measured():
    @tool(price=0.25, timeout=None)
    def nap() -> str:
        """Sleeps for 50 ms."""
        time.sleep(0.05)
        return "done"

    assert 0.05 <= answer(nap, {})[1].latency < 1.0
    assert answer(nap.costing(latency=3.0), {})[1] == ToolRun("nap", 0.25, 3.0, None)
