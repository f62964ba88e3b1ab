"""What calls cost: prices, what is known before a call, and what only the call shows."""

import math

import pytest

from grpo_agents.tools import Price, Tool, ToolResult, run_calls, tool


def answer(made: Tool, arguments, left=None):
    call = {"id": "0", "type": "function", "function": {"name": made.alias, "arguments": arguments}}
    messages, runs = run_calls({made.alias: made}, [call], left)
    return messages[0]["content"], runs[0]


@tool(price=Price(call=0.5, read=0.01, written=0.1), timeout=None)
def counted(read: int, written: int) -> ToolResult:
    """Says what it read and wrote."""
    return ToolResult("done", read, written)


@tool(price=None, timeout=None, most=lambda dollars: 2 * dollars)
def billed(dollars: float) -> ToolResult:
    """Says what it cost."""
    return ToolResult({"cost": dollars}, dollars=dollars, latency=7.0)


@tool(price=1.0, timeout=None)
def flat() -> str:
    """Costs the same each time."""
    return "done"


def test_a_price_counts_calls_and_tokens():
    assert Price(call=0.5, read=0.01, written=0.1).of(30, 4) == pytest.approx(0.5 + 0.3 + 0.4)
    assert Price(call=0.5).of(None, None) == 0.5
    with pytest.raises(ValueError, match="nobody counted"):
        Price(read=0.1).of(None, 3)
    assert (Price(call=1.0).by_tokens, Price(written=1e-6).by_tokens) == (False, True)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_impossible_prices_and_latencies_are_refused_by_name(value):
    for field in ("call", "read", "written"):
        with pytest.raises(ValueError, match=rf"the price {field} is {value}: .*finite"):
            Price(**{field: value})
    for setting in ("price", "latency"):
        with pytest.raises(ValueError, match=rf"tool 'flat': the {setting} is {value}"):
            tool(**{setting: value})(flat.function)
        with pytest.raises(ValueError, match=rf"tool 'flat': the {setting} is {value}"):
            flat.costing(**{setting: value})


def test_a_call_is_charged_for_what_it_used():
    content, run = answer(counted, {"read": 30, "written": 4})
    assert (content, run.dollars) == ("done", pytest.approx(1.2))
    content, run = answer(billed, {"dollars": 0.3})
    assert (content, run.dollars, run.latency) == ('{"cost": 0.3}', 0.3, 7.0)
    assert answer(billed.costing(latency=2.0), {"dollars": 0.3})[1].latency == 2.0  # what is declared counts


def test_a_tool_that_does_not_say_what_it_must_fails_and_is_still_charged():
    @tool(price=0.5, timeout=None)
    def both() -> ToolResult:
        """Has a price and names another."""
        return ToolResult("done", dollars=3.0)

    @tool(price=Price(call=0.25, written=1.0), timeout=None)
    def uncounted() -> ToolResult:
        """Counts nothing."""
        return ToolResult("done")

    @tool(price=None, timeout=None)
    def silent() -> str:
        """Names no price."""
        return "done"

    for made, said, dollars in (
        (both, "price=None", 0.5),
        (uncounted, "nobody counted", 0.25),
        (silent, "dollars=", 0),
    ):
        content, run = answer(made, {})
        assert said in content
        assert content.startswith(f"Error: tool '{made.name}' failed")
        assert run.dollars == dollars


def test_what_a_call_can_cost_is_known_before_it_where_it_can_be():
    assert flat.most() == 1.0
    assert counted.most(read=1, written=2) is None
    assert billed.most(dollars=0.3) == 0.6
    assert counted.costing(price=2.0).most(read=1, written=2) == 2.0
    with pytest.raises(ValueError, match="each of its calls says what it cost"):
        billed.costing(price=1.0)


def test_a_call_that_could_cost_more_than_is_left_is_not_run():
    ran = []

    @tool(price=1.0, timeout=None)
    def note() -> str:
        """Notes that it ran."""
        ran.append(1)
        return "done"

    content, run = answer(note, {}, left=0.75)
    assert content == "Error: 'note' can cost $1, and $0.75 of the budget is left"
    assert (run.dollars, run.latency, ran) == (0.0, 0.0, [])
    assert answer(note, {}, left=1.0)[1].error is None
    assert "can cost $0.6, and $0.5" in answer(billed, {"dollars": 0.3}, left=0.5)[0]
    assert answer(counted, {"read": 0, "written": 9}, left=0.1)[1].dollars == pytest.approx(1.4)  # nobody knew
    assert "nothing is left of the budget" in answer(counted, {"read": 0, "written": 9}, left=0.0)[0]


def test_calls_of_one_message_share_what_is_left():
    calls = [{"id": str(at), "type": "function", "function": {"name": "flat", "arguments": {}}} for at in range(3)]
    _, runs = run_calls({"flat": flat}, calls, 2.5)
    assert [run.dollars for run in runs] == [1.0, 1.0, 0.0]
    assert [run.error is None for run in runs] == [True, True, False]


def test_an_alias_is_for_the_policy_alone():
    hidden = flat.called("assistant-3")
    assert (hidden.alias, hidden.name, flat.alias) == ("assistant-3", "flat", "flat")
    content, run = answer(hidden, {})
    assert (content, run.name, run.called, run.dollars) == ("done", "flat", "assistant-3", 1.0)
    content, run = answer(hidden, {"x": 1})
    assert "wrong arguments for 'assistant-3'" in content
    assert (run.name, run.called) == ("flat", "assistant-3")
    call = {"id": "0", "type": "function", "function": {"name": "flat", "arguments": {}}}
    messages, runs = run_calls({"assistant-3": hidden}, [call])
    assert messages[0]["content"] == "Error: there is no tool 'flat'. Available: assistant-3"
    assert (runs[0].called, runs[0].error is None) == (None, False)
    with pytest.raises(ValueError, match=r"tool 'flat' cannot be called 'a b'"):
        flat.called("a b")


def test_a_price_is_shown_where_that_is_asked_for():
    described = flat.costing(latency=3.0).with_price_shown().schema["function"]["description"]
    assert described == "Costs the same each time.\nPrice: $1 a call. Time: about 3 s."
    described = counted.with_price_shown().schema["function"]["description"]
    assert described.endswith("Price: $0.5 a call, $10000 per million tokens read, $100000 per million tokens written.")
    assert billed.with_price_shown().schema["function"]["description"].endswith("Price: by use.")
    assert "Price" not in flat.schema["function"]["description"]


def test_a_price_by_tokens_of_a_tool_that_counts_none_is_a_failed_call():
    @tool(price=Price(call=0.5, written=1.0))
    def talk() -> str:
        """Talks."""
        return "a b c"

    said, run = answer(talk, {})
    assert "its tokens have a price, and nobody counted them" in said
    assert run.dollars == 0.5


@pytest.mark.parametrize("dollars", [float("nan"), -1.0, float("inf")])
def test_dollars_that_cannot_be_are_a_failed_call_and_cost_nothing(dollars):
    @tool(price=None)
    def ask() -> ToolResult:
        """Asks."""
        return ToolResult("yes", dollars=dollars)

    said, run = answer(ask, {})
    assert "what it says that the call cost is" in said
    assert run.dollars == 0


def test_a_price_that_cannot_be_said_before_refuses_the_call():
    def most():
        raise RuntimeError("no counter")

    @tool(price=None, most=most)
    def ask() -> ToolResult:
        """Asks."""
        return ToolResult("yes", dollars=0.0)

    said, run = answer(ask, {}, left=1.0)
    assert "RuntimeError: no counter" in said
    assert run.error
