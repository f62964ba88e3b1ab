"""A server for tests: `python mcp_server.py FILE [PORT]`, where FILE gets its process id.

Over standard input and output, or on a port of this machine.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from mcp import MCPError
from mcp.server.mcpserver import MCPServer

server = MCPServer("for-tests")
seen = 0
let_go = asyncio.Event()


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def count() -> int:
    """Counts its calls."""
    global seen
    seen += 1
    return seen


@server.tool()
def refuse(why: str) -> str:
    """Raises an error."""
    raise ValueError(why)


@server.tool()
def forbid() -> str:
    """Is refused by the protocol."""
    raise MCPError(-32602, "not for you")


@server.tool()
async def hold() -> str:
    """Waits until the other tool is called."""
    await let_go.wait()
    return "held"


@server.tool()
async def release() -> str:
    """Ends the waiting."""
    let_go.set()
    return "released"


@server.tool()
async def wait() -> str:
    """Hangs, while other tools answer."""
    await asyncio.sleep(600)
    return "late"


@server.tool()
async def freeze() -> str:
    """Hangs with the whole server."""
    time.sleep(600)
    return "late"


@server.tool()
def crash() -> str:
    """Ends the server."""
    print("cannot go on", file=sys.stderr, flush=True)
    os._exit(3)


if __name__ == "__main__":
    with Path(sys.argv[1]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(sys.argv) > 2:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
