"""Processes that may come to harm: forked from one that has imported everything, so that they start at once.

Each is in a group of its own, and a test says what is done to it before it does its work.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

from tiny import REPOSITORY

SERVER = "import sys; sys.path[:0] = sys.argv[1:3]; import forked; forked.serve()"
COMMAND_LINE = "from grpo_agents.cli import main; main()"
"""What a process does unless a test says otherwise."""


class Forks:
    """Starts one process after the other."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, Path(__file__).parent, REPOSITORY],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def start(self, folder, *arguments, before="", then=COMMAND_LINE):
        """A process.

        Args:
            folder: Where it works; what it says goes to said.txt there.
            arguments: Of the command line.
            before: Python that it runs first.
            then: Python that it runs then.
        """
        order = {"folder": str(folder), "arguments": [*map(str, arguments)], "code": f"{before}\n{then}"}
        print(json.dumps(order), file=self._server.stdin, flush=True)
        return Fork(int(self._server.stdout.readline()), self._server.stdout, folder)

    def run(self, folder, *arguments, **options):
        """The exit code of a process that nobody kills, and what it said."""
        return self.start(folder, *arguments, **options).wait(), (folder / "said.txt").read_text()

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


class Fork:
    """A process, for which one has to wait before the next is started."""

    def __init__(self, pid, ends, folder):
        self.pid, self._ends = pid, ends

    def kill(self):
        """SIGKILL to all of its group."""
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self):
        """Its exit code, negative for a signal."""
        return int(self._ends.readline())


@contextmanager
def forking_server():
    forks = Forks()
    try:
        yield forks
    finally:
        forks.close()


def serve():
    """In the server: starts what it is told to, until nobody tells it any more."""
    import matplotlib.figure  # noqa: F401  what runs import late
    import torch

    import grpo_agents.cli
    import grpo_agents.report.run_pictures
    import grpo_agents.trainer  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()  # a limit on the size of files is none on what is said
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _work(writing, **order)
        os.close(writing)
        print(pid, flush=True)
        with open(reading, "rb") as said:
            Path(order["folder"], "said.txt").write_bytes(said.read())
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _work(said, folder, arguments, code):
    """In a process that was started."""
    ended = 1
    try:
        os.setsid()
        os.chdir(folder)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        sys.argv = ["grpo-agents", *arguments]
        exec(code, {})
        ended = 0
    except SystemExit as stop:
        ended = stop.code or 0
    except BaseException:
        traceback.print_exc()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(ended)
