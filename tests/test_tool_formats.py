"""Tool-call formats: what is written is read back, and what cannot be read says why."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_agents.tool_formats import TOOL_FORMATS, detect

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[a-z][a-z0-9]{0,8}_x", fullmatch=True)
calls_made = st.lists(
    st.builds(
        lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
        names,
        st.dictionaries(st.text(), values, max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("name", TOOL_FORMATS)
@given(calls=calls_made)
def test_what_a_format_writes_it_reads_back(name, calls):
    tool_format = TOOL_FORMATS[name]
    assert tool_format.parse(tool_format.format(calls)) == ("", calls)


@pytest.mark.parametrize("name", TOOL_FORMATS)
@pytest.mark.parametrize(
    "text", ['say "hi"', "it's", "é 漢字 🙂", "line\nbreak", "</tool_call>", "[TOOL_CALLS]", "; {", "\\d"]
)
def test_arguments_may_hold_quotes_unicode_and_the_markers_themselves(name, text):
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"a": {"b": [text, 1]}}}}] * 2
    assert TOOL_FORMATS[name].parse(TOOL_FORMATS[name].format(calls)) == ("", calls)


@pytest.mark.parametrize("name", TOOL_FORMATS)
@given(text=st.text())
def test_no_text_makes_a_parser_raise(name, text):
    for marked in (
        text,
        f"<tool_call>{text}",
        f"[TOOL_CALLS]{text}",
        f'{{"name"{text}',
        f"<|python_tag|>{text}",
        f"[f({text}",
    ):
        content, calls = TOOL_FORMATS[name].parse(marked)
        assert isinstance(content, str)
        assert all("invalid" not in call or call["invalid"] for call in calls)


@pytest.mark.parametrize("name", TOOL_FORMATS)
@pytest.mark.parametrize("text", ["The answer is 42.", "", "[1, 2]", '{"answer": 3}', "f(a=1)", "a <b> c\n"])
def test_text_without_a_call_is_content_untouched(name, text):
    assert TOOL_FORMATS[name].parse(text) == (text, [])


def test_content_around_hermes_blocks_stays_content():
    block = TOOL_FORMATS["hermes"].format([{"function": {"name": "f", "arguments": {}}}])
    content, calls = TOOL_FORMATS["hermes"].parse(f"Before.\n{block}\nAfter.")
    assert (content, len(calls)) == ("Before.\n\nAfter.", 1)


@pytest.mark.parametrize(
    ("name", "text", "function"),
    [
        ("llama3", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', ("f", {"a": 1})),
        ("llama3", '{"name": "f", "arguments": {"a": 1}}', ("f", {"a": 1})),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}', ("f", {"a": 1})),
        ("mistral", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', ("f", {"a": 1})),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]', ("f", {"a": 1})),
        ("pythonic", "<|python_start|>[f(a=-1)]<|python_end|>", ("f", {"a": -1})),
        ("pythonic", "[math.f(a=None, b=True)]", ("math.f", {"a": None, "b": True})),
    ],
)
def test_the_dialects_of_a_format_are_read(name, text, function):
    content, calls = TOOL_FORMATS[name].parse(text)
    assert content == ""
    assert [tuple(call["function"].values()) for call in calls] == [function]


def test_several_named_mistral_calls_are_read_in_order():
    _, calls = TOOL_FORMATS["mistral"].parse('[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}')
    assert [call["function"]["name"] for call in calls] == ["f", "g"]


BROKEN = {
    "no JSON": ('{"name": "f", arguments}', "not a JSON call"),
    "cut off": ('{"name": "f", "arguments": {"a": 1}', "not a JSON call"),
    "a list": ('["name"]', "a call must be an object, not list"),
    "no name": ('{"arguments": {}, "a": "name"}', 'a call needs "name"'),
    "no arguments": ('{"name": "f"}', "must be an object, not NoneType"),
    "arguments as text": ('{"name": "f", "arguments": "{}"}', "must be an object, not str"),
    "NaN": ('{"name": "f", "arguments": {"a": NaN}}', "NaN is not a finite number"),
    "too large": ('{"name": "f", "arguments": {"a": 1e999}}', "1e999 is not a finite number"),
    "a key twice": ('{"name": "f", "arguments": {"a": 1, "a": 2}}', "a key is given twice"),
    "a lone surrogate": ('{"name": "f", "arguments": {"a": "\\ud800"}}', "surrogates not allowed"),
    "deep nesting": ('{"name": "f", "arguments": {"a": ' + "[" * 100_000 + "}}", "recursion"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_json_call_is_marked_with_its_reason_and_text(case):
    text, reason = BROKEN[case]
    for name, written in {"hermes": f"<tool_call>{text}</tool_call>", "llama3": f"<|python_tag|>{text}"}.items():
        _, (call,) = TOOL_FORMATS[name].parse(written)
        assert reason.replace('"arguments"', "") in call["invalid"], name
        assert call["function"]["arguments"] == {}
        assert text in call["text"]
        if '"name": "f"' in text:
            assert call["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[f(1)]", "by keyword"),
        ("[f(a=open('x'))]", "literals"),
        ("[f(a={1, 2})]", "literals"),
        ("[f(a=(1, 2))]", "JSON has no such value"),
        ("[f(a=1, a=2)]", "twice"),
        ("[f(a=1e999)]", "not plain JSON|finite|Out of range"),
        ("[f(a=1), 2]", "not a call"),
        ("[f(a=1", "not a list of calls"),
        ("[f(a=1)] and then", "not a list of calls"),
    ],
)
def test_a_broken_pythonic_call_is_marked_and_nothing_is_evaluated(text, reason):
    _, calls = TOOL_FORMATS["pythonic"].parse(text)
    assert re.search(reason, calls[-1]["invalid"])


def test_one_broken_call_leaves_its_neighbours_alone():
    good = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    _, calls = TOOL_FORMATS["hermes"].parse(f"{good}<tool_call>{{oops}}</tool_call>{good}")
    assert ["invalid" in call for call in calls] == [False, True, False]


def test_a_hermes_block_without_its_end_is_broken():
    _, (call,) = TOOL_FORMATS["hermes"].parse('<tool_call>{"name": "f", "arguments": {}}')
    assert "</tool_call> is missing" in call["invalid"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [("qwen3", "hermes"), ("llama3", "llama3"), ("mistral", "mistral"), ("gemma", None), ("chatml", None)],
)
def test_the_format_is_recognised_from_the_template(template, expected):
    assert detect((Path(__file__).parent / "chat_templates" / f"{template}.jinja").read_text()) == expected


def test_pythonic_templates_are_recognised_and_xml_is_not_mistaken_for_hermes():
    assert detect("Reply as [func_name1(params_name1=params_value1)]") == "pythonic"
    assert detect("<tool_call>\n<function=name>") is None


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_instructions_name_every_tool_and_show_a_call_that_parses(name):
    schema = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    text = TOOL_FORMATS[name].instructions([schema])
    assert json.dumps(schema["function"]) in text
    content, calls = TOOL_FORMATS[name].parse(text.rpartition("with:\n")[2])
    assert (content, len(calls)) == ("", 1)
