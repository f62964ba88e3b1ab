"""How models write tool calls: a few wire formats behind one interface, by name in :data:`TOOL_FORMATS`.

>>> hermes = TOOL_FORMATS["hermes"]
>>> content, calls = hermes.parse('Let me see. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
>>> content, calls[0]["function"]
('Let me see.', {'name': 'add', 'arguments': {'a': 1}})
>>> TOOL_FORMATS["pythonic"].format(calls)
'[add(a=1)]'
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

Call = dict[str, Any]
"""An OpenAI-style tool call without its id; one that could not be read has ``invalid``, the reason, and ``text``."""


class ToolFormat(ABC):
    """One way to write tool calls.

    Attributes:
        detected_by: Texts of which a chat template in this format holds at least one.
    """

    detected_by: ClassVar[tuple[str, ...]]

    @abstractmethod
    def parse(self, text: str) -> tuple[str, list[Call]]:
        """Splits a finished message into its content and its calls. Never raises: a broken call is marked."""

    @abstractmethod
    def format(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Writes calls as a model would."""

    def instructions(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """Tells a model whose template knows no tools which there are and how to call them."""
        schemas = "\n".join(_dump(tool.get("function", tool)) for tool in tools)
        example = self.format([_call("tool_name", {"argument": "value"})])
        return f"You may call these tools:\n{schemas}\nTo call a tool, end your message with:\n{example}"


class Hermes(ToolFormat):
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, of Hermes and Qwen."""

    detected_by = ("<tool_call>",)

    def parse(self, text: str) -> tuple[str, list[Call]]:
        """Reads every block; what stands around the blocks is content."""
        if "<tool_call>" not in text:
            return text, []
        content, calls, at = [], [], 0
        while (start := text.find("<tool_call>", at)) >= 0:
            content.append(text[at:start])
            start += len("<tool_call>")
            call, at = _read_object(text, start, "arguments", "</tool_call>")
            if "invalid" in call:  # its text is what the policy wrote, marker included
                call["text"] = text[start - len("<tool_call>") : at].strip()
            calls.append(call)
        content.append(text[at:])
        return "".join(content).strip(), calls

    def format(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """One block a call, as Qwen's template writes them."""
        return "\n".join(f"<tool_call>\n{_dump(_wire(call, 'arguments'))}\n</tool_call>" for call in calls)


class Llama3(ToolFormat):
    """``{"name": …, "parameters": {…}}`` as the whole message or after ``<|python_tag|>``, several joined by ``;``."""

    detected_by = ("<|python_tag|>", '"parameters": ')

    def parse(self, text: str) -> tuple[str, list[Call]]:
        """Reads a message that is an object with a name, or what follows the tag."""
        content, tag, body = text.partition("<|python_tag|>")
        if not tag:
            if not (text.lstrip().startswith("{") and '"name"' in text):
                return text, []
            content, body = "", text
        calls, at = [], 0
        while at < len(body):
            call, at = _read_object(body, at, "parameters", "")
            calls.append(call)
            rest = body[at:].lstrip("; \n")
            if not rest.startswith("{"):
                content += rest
                break
            at = len(body) - len(rest)
        return content.strip(), calls

    def format(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Bare objects."""
        return "; ".join(_dump(_wire(call, "parameters")) for call in calls)


class Mistral(ToolFormat):
    """``[TOOL_CALLS][{"name": …, "arguments": {…}}]``, or in newer models ``[TOOL_CALLS]name[ARGS]{…}``."""

    detected_by = ("[TOOL_CALLS]",)
    _named = re.compile(r"\s*(?P<name>[^\[\s]*)\s*(?:\[CALL_ID\][^\[]*)?\[ARGS\]")

    def parse(self, text: str) -> tuple[str, list[Call]]:
        """Reads everything after the first marker."""
        content, marker, body = text.partition("[TOOL_CALLS]")
        if not marker:
            return text, []
        calls, at = [], 0
        while at < len(body):
            if named := self._named.match(body, at):
                call, at = _read_arguments(body, named.end(), named["name"])
                calls.append(call)
            else:
                array = body[at:].lstrip()
                try:
                    items, end = _JSON.raw_decode(array)
                    if not isinstance(items, list):
                        raise ValueError("a JSON array of calls was expected")
                except (ValueError, RecursionError) as error:
                    calls.append(_broken(f"not a JSON array of calls: {error}", array))
                    break
                calls += [_checked(item, "arguments", _dump(item)) for item in items]
                at = len(body) - len(array) + end
            if (next_marker := body.find("[TOOL_CALLS]", at)) < 0:
                content += body[at:]
                break
            at = next_marker + len("[TOOL_CALLS]")
        return content.strip(), calls

    def format(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """The array, which every version reads."""
        return "[TOOL_CALLS]" + _dump([_wire(call, "arguments") for call in calls])


class Pythonic(ToolFormat):
    """``[f(a=1), g(b="x")]`` as the whole message, of Llama 3.2 and 4: literal keyword arguments, never evaluated."""

    detected_by = ("[func_name1(", "<|python_start|>")
    _begins = re.compile(r"\s*(?:<\|python_start\|>|<\|python_tag\|>)?\s*(?P<list>\[\s*(?P<name>[A-Za-z_][\w.]*)\s*\()")

    def parse(self, text: str) -> tuple[str, list[Call]]:
        """Reads a message that is a list of calls."""
        begins = self._begins.match(text)
        if begins is None:
            return text, []
        body = text[begins.start("list") :].strip().removesuffix("<|python_end|>")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # an invalid escape in what the policy wrote
                nodes = ast.parse(body, mode="eval").body
            assert isinstance(nodes, ast.List)
            return "", [self._read(node, body) for node in nodes.elts]
        except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError) as error:
            return "", [_broken(f"not a list of calls: {error}", body, begins["name"])]

    @staticmethod
    def _read(node: ast.expr, body: str) -> Call:
        text = ast.get_source_segment(body, node) or body
        if not isinstance(node, ast.Call):
            return _broken("not a call", text)
        name = ast.unparse(node.func)
        if node.args:
            return _broken("arguments must be given by keyword", text, name)
        pairs: list[tuple[str, Any]] = []
        try:
            for keyword in node.keywords:
                value = ast.literal_eval(keyword.value)
                pairs += [(keyword.arg, value)] if keyword.arg else value.items()  # **{"no-identifier": 1}
            arguments = _unique(pairs)
            if json.loads(json.dumps(arguments, allow_nan=False)) != arguments:
                raise ValueError("JSON has no such value")
            return _checked({"name": name, "arguments": arguments}, "arguments", text)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            return _broken(f"arguments must be literals: {error}", text, name)

    def format(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Python calls with keyword arguments."""
        return f"[{', '.join(self._write(call['function']) for call in calls)}]"

    @staticmethod
    def _write(function: Mapping[str, Any]) -> str:
        arguments = [
            f"{key}={value!r}" if _is_keyword(key) else f"**{ {key: value}!r}"
            for key, value in function["arguments"].items()
        ]
        return f"{function['name']}({', '.join(arguments)})"


TOOL_FORMATS: dict[str, ToolFormat] = {
    "mistral": Mistral(),
    "hermes": Hermes(),
    "pythonic": Pythonic(),
    "llama3": Llama3(),
}
"""By name, the most telling marker first."""


def detect(template: str) -> str | None:
    """The name of the format that a chat template speaks; None where none of them is recognised."""
    if "<function=" in template:  # Qwen3-Coder's XML, which also says <tool_call>
        return None
    for name, tool_format in TOOL_FORMATS.items():
        if any(mark in template for mark in tool_format.detected_by):
            return name
    return None


def read_call(name: str, arguments: str) -> Call:
    """The call that a server has already made out: its name, and its arguments as JSON text (or none)."""
    text = arguments.strip() or "{}"
    call, end = _read_arguments(text, 0, name)
    if "invalid" not in call and end < len(text):
        return _broken(f"not a JSON object: {text[end : end + 40]!r} follows it", text, name)
    return call


def _call(name: str, arguments: dict[str, Any]) -> Call:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _broken(reason: str, text: str, name: str = "") -> Call:
    return {**_call(name, {}), "invalid": reason, "text": text.strip()}


def _wire(call: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {"name": call["function"]["name"], key: call["function"]["arguments"]}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_keyword(key: str) -> bool:
    try:
        ast.parse(f"f({key}=0)", mode="eval")
    except (SyntaxError, ValueError):
        return False
    # Python folds identifiers to NFKC: one that would change is written in the dictionary form.
    return key.isidentifier() and key.isascii()


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is given twice")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
_NAME = re.compile(r'"name"\s*:\s*"([^"\\]*)"')
_SPACE = re.compile(r"\s*")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _read_object(text: str, start: int, key: str, close: str) -> tuple[Call, int]:
    """Reads ``{"name": …, key: {…}}`` and what closes it; returns the call and where reading goes on."""
    try:
        value, end = _JSON.raw_decode(text, _skip(text, start))
        end = _skip(text, end)
        if not text.startswith(close, end):
            raise ValueError(f"{close} is missing after the call")
        end += len(close)
        return _checked(value, key, text[start:end].removesuffix(close)), end
    except (ValueError, RecursionError) as error:
        end = text.find(close, start) if close else -1
        raw = text[start:] if end < 0 else text[start:end]
        named = _NAME.search(raw)
        return _broken(f"not a JSON call: {error}", raw, named[1] if named else ""), (
            len(text) if end < 0 else end + len(close)
        )


def _read_arguments(text: str, start: int, name: str) -> tuple[Call, int]:
    """Reads an object of arguments; returns the call and where reading goes on."""
    try:
        value, end = _JSON.raw_decode(text, _skip(text, start))
        return _checked({"name": name, "arguments": value}, "arguments", text[start:end]), end
    except (ValueError, RecursionError) as error:
        return _broken(f"not a JSON object: {error}", text[start:], name), len(text)


def _checked(value: Any, key: str, text: str) -> Call:
    """The call that a parsed object stands for, marked where it stands for none."""
    if not isinstance(value, dict):
        return _broken(f"a call must be an object, not {type(value).__name__}", text)
    name = value.get("name")
    if not isinstance(name, str) or not name or not name.isprintable():
        return _broken('a call needs "name", a text', text)
    if key not in value:
        key = {"parameters": "arguments", "arguments": "parameters"}[key]
    arguments = value.get(key)
    if not isinstance(arguments, dict):
        return _broken(f'"{key}" must be an object, not {type(arguments).__name__}', text, name)
    if "\\" in text:
        try:  # a lone surrogate, which only an escape can bring, must reach neither the tokenizer nor the store
            _dump(arguments).encode()
        except UnicodeEncodeError as error:
            return _broken(f"not plain JSON: {error}", text, name)
    return _call(name, arguments)
