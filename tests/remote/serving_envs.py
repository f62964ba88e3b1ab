"""Servers of environments for tests, in threads of this process; and environments that are trouble."""

import socket
import threading
from contextlib import contextmanager

from grpo_agents import AgentEnv, Reply, tool
from grpo_agents.remote.server import Limits, make_server


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextmanager
def running(server, port=0):
    """A uvicorn server's URL, while it runs."""
    with socket.create_server(("127.0.0.1", port), backlog=512) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def served(make, name="some.py:Env", limits=None, port=0):
    """The URL of a server of an environment, while it runs."""
    with running(make_server(make, name, limits or Limits()), port) as url:
        yield url


class Trouble(AgentEnv):
    """Does what its task and the messages say."""

    tasks = ({"do": "talk"}, {"do": "raise"})
    hang = threading.Event()
    closed = []  # noqa: RUF012

    @tool(price=0.25, latency=0.5, timeout=None)
    def look(self, word: str) -> str:
        """Looks."""
        return word.upper()

    tools = (look,)

    def start(self, task):
        if task["do"] == "raise":
            raise KeyError("word")
        return f"go {int(self.np_random.integers(1000))}"

    def respond(self, message):
        if calls := message.get("tool_calls"):
            return Reply(self.run_tools(calls))
        said = message["content"]
        if said == "hang":
            self.hang.wait(60)
        if said == "raise":
            raise LookupError("it broke")
        if said == "leave":
            raise SystemExit(3)
        if said == "odd":
            return Reply([{"role": "user", "content": {1, 2}}])
        if said == "nan":
            return Reply(rewards={"outcome": float("nan")}, terminated=True)
        return Reply(["and"], {"outcome": 0.25}, said == "bye")

    def close(self):
        self.closed.append(self)
