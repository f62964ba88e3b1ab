"""Tools of a real MCP server: a program that speaks over its standard input and output."""

import builtins
import os
import re
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from grpo_agents.tools import McpServer, mcp_tools, run_calls

SERVER = Path(__file__).with_name("mcp_server.py")


def alive(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def answer(tools, name, arguments):
    call = {"id": "0", "type": "function", "function": {"name": name, "arguments": arguments}}
    messages, runs = run_calls(tools, [call])
    return messages[0]["content"], runs[0]


class Served:
    """The server, its tools, and the processes that it has had."""

    def __init__(self, folder, timeout=20.0):
        self.log = folder / "pids"
        self.server = McpServer(command=[sys.executable, str(SERVER), str(self.log)], timeout=timeout)
        self.tools = {tool.name: tool for tool in self.server.tools(price={"add": 0.5}, latency={"add": 2.0})}

    @property
    def pids(self):
        return [int(line) for line in self.log.read_text().split()]

    def ask(self, name, arguments=None, seconds=None):
        tool = self.tools[name]
        if seconds is not None:
            tool = type(tool)(**{key: getattr(tool, key) for key in tool.__slots__} | {"timeout": seconds})
        return answer({name: tool}, name, arguments or {})


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path)
    yield made
    made.server.close()
    assert not any(alive(pid) for pid in made.pids)


def test_tools_come_with_their_schemas_and_are_called_in_one_session(served):
    assert list(served.tools) == ["add", "count", "refuse", "forbid", "hold", "release", "wait", "freeze", "crash"]
    function = served.tools["add"].schema["function"]
    assert (function["name"], function["description"]) == ("add", "Adds two numbers.")
    assert {name: entry["type"] for name, entry in function["parameters"]["properties"].items()} == {
        "a": "integer",
        "b": "integer",
    }
    content, run = served.ask("add", {"a": 1, "b": 2})
    assert (content, run.dollars, run.latency, run.error) == ("3", 0.5, 2.0, None)
    assert [served.ask("count")[0] for _ in range(3)] == ["1", "2", "3"]
    assert served.ask("count")[1].dollars == 0.0
    assert len(served.pids) == 1
    hidden = served.tools["add"].called("assistant-1")
    assert (hidden.alias, hidden.name) == ("assistant-1", "add")


def test_wrong_arguments_are_refused_here_and_cost_nothing(served):
    content, run = served.ask("add", {"a": "x", "c": 2})
    assert content.startswith("Error: wrong arguments for 'add': ")
    assert "'b' is a required property" in content
    assert "$.a: 'x' is not of type 'integer'" in content
    assert run.dollars == 0.0


def test_an_error_of_the_tool_is_a_message(served):
    content, run = served.ask("refuse", {"why": "no"})
    assert content.startswith("Error: tool 'refuse' failed: RuntimeError: ")
    assert run.error is not None
    assert served.ask("count")[0] == "1"


def test_a_server_that_crashes_in_a_call_is_started_again_by_the_next_one(served):
    content, run = served.ask("crash")
    assert "the MCP server ended during the call" in content
    assert "cannot go on" in content  # what it wrote last
    assert run.error is not None
    assert len(served.pids) == 1  # not called twice
    assert [served.ask("count")[0] for _ in range(2)] == ["1", "2"]
    assert len(served.pids) == 2


def test_a_server_that_ended_between_calls_is_started_again(served):
    (pid,) = served.pids
    served.ask("count")
    os.kill(pid, 9)
    while alive(pid):
        pass
    answers = [served.ask("count")[0] for _ in range(2)]
    assert "1" in answers
    assert len(served.pids) == 2


def test_a_tool_that_hangs_is_given_up_and_its_server_goes_on(served):
    assert "gave no answer within 0.5 s" in served.ask("wait", seconds=0.5)[0]
    assert served.ask("count")[0] == "1"
    assert len(served.pids) == 1


def test_a_server_that_hangs_is_replaced(served):
    assert "gave no answer within 0.5 s" in served.ask("freeze", seconds=0.5)[0]
    assert served.ask("count")[0] == "1"
    assert len(served.pids) == 2


def test_a_closed_server_leaves_no_process_and_no_open_file(tmp_path):
    served = Served(tmp_path)
    served.ask("add", {"a": 1, "b": 1})
    served.server.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert served.ask("count")[0] == "1"  # it is started again
        served.server.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not any(alive(pid) for pid in served.pids)


def test_a_program_that_ends_takes_its_servers_with_it(tmp_path):
    program = f"""
        import sys
        from grpo_agents.tools import mcp_tools
        made = mcp_tools(command=[sys.executable, {str(SERVER)!r}, {str(tmp_path / "pids")!r}], price=0.1)
        print(len(made), made[0].price)
    """
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert (said.stdout, said.stderr) == ("9 0.1\n", "")
    assert not alive(int((tmp_path / "pids").read_text()))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def service(folder, port):
    """The server on a port, once it can be reached."""
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(folder / "pids"), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                break
        yield
    finally:
        process.kill()
        process.wait()


def test_a_service_behind_a_url_is_found_again_when_it_was_started_again(tmp_path):
    port = free_port()
    with service(tmp_path, port):
        server = McpServer(url=f"http://127.0.0.1:{port}/mcp", timeout=10.0)
        tools = {tool.name: tool for tool in server.tools(price=0.25)}
        assert answer(tools, "add", {"a": 1, "b": 2})[0] == "3"
    content, run = answer(tools, "count", {})
    assert content.startswith("Error: tool 'count' failed: ")
    assert run.dollars == 0.25
    with service(tmp_path, port):
        answers = [answer(tools, "count", {})[0] for _ in range(2)]
        assert answers[-1] in ("1", "2")
        server.close()


def test_a_call_that_a_service_refuses_ends_no_other(tmp_path):
    port = free_port()
    with service(tmp_path, port), ThreadPoolExecutor(1) as pool:
        server = McpServer(url=f"http://127.0.0.1:{port}/mcp", timeout=10.0)
        tools = {tool.name: tool for tool in server.tools()}
        holding = pool.submit(answer, tools, "hold", {})
        assert answer(tools, "forbid", {})[0] == (
            "Error: tool 'forbid' failed: RuntimeError: the MCP server refuses the call: not for you"
        )
        answer(tools, "release", {})
        assert holding.result()[0] == "held"
        server.close()


SILENT = "import os, sys, time; print('I am', os.getpid(), file=sys.stderr, flush=True); time.sleep(600)"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-program"], r"no session with the MCP server no-such-program: there is no program"),
        ([sys.executable, "-c", SILENT], r"TimeoutError: no handshake within 2 s\. It wrote: I am \d+"),
        ([sys.executable, "-c", "raise SystemExit('no config')"], r"Connection closed\. It wrote: no config"),
    ],
    ids=["missing", "silent", "dies"],
)
def test_a_server_that_cannot_be_used_says_why(command, said):
    with pytest.raises(ConnectionError, match=said) as caught:
        mcp_tools(command=command, timeout=2.0)
    assert not any(alive(pid) for pid in re.findall(r"I am (\d+)", str(caught.value)))


def test_a_server_that_greets_and_then_says_nothing_is_given_up():
    """It answers the handshake, and no question for its tools."""
    program = """
        import json, sys
        for line in sys.stdin:
            asked = json.loads(line)
            if asked.get("method") == "initialize":
                said = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}},
                        "serverInfo": {"name": "quiet", "version": "1"}}
                print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": said}), flush=True)
            elif "id" in asked and asked["method"] != "tools/list":
                said = {"code": -32601, "message": "no"}
                print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": said}), flush=True)
    """
    with pytest.raises(ConnectionError, match=r"gave no list of its tools within 2 s"):
        mcp_tools(command=[sys.executable, "-c", textwrap.dedent(program)], timeout=2.0)


def test_mistakes_of_who_declares_it(served):
    with pytest.raises(ValueError, match=r"a command=\[program, …\] or a url="):
        McpServer()
    with pytest.raises(ValueError, match=r"a command=\[program, …\] or a url="):
        McpServer(command=["x"], url="http://127.0.0.1:9/mcp")
    with pytest.raises(ValueError, match=r"has no tool 'ad'\. It has: add, count, "):
        served.server.tools(price={"ad": 1.0})
    with pytest.raises(ValueError, match=r"tool 'add': the price is -1"):
        served.server.tools(price=-1)


def test_without_the_library_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "mcp":
            raise ImportError("No module named 'mcp'", name="mcp")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'grpo-agents\[mcp\]'"):
        McpServer(command=["x"])
