"""What a snippet may use up."""

import os
import re
import threading
import time
from contextlib import suppress

import pytest
from processes import descendants, eventually
from snippets import HASTY, failure, need, zygote

from grpo_agents.sandbox import Limits, Sandbox

ENDS = {
    "while True: pass": "it was stopped: no end within 0.4 s",
    "import time; time.sleep(60)": "it was stopped: no end within 0.4 s",
    "import re; re.match('(a*)*b', 'a' * 100)": "it was stopped: no end within 0.4 s",
    "while True: print('x' * 1000)": "it was stopped: no end within 0.4 s",
    "import os; from signal import *; signal(SIGTERM, SIG_IGN); os.read(os.pipe()[0], 1)": "it was stopped",
    "import os; os._exit(4)": "it ended with exit code 4",
    "import sys; sys.exit('bye')": "it exited with 'bye'",
    "import os; os.kill(os.getpid(), 9)": r"it was killed by signal 9 \(Killed\)",
    "import ctypes; ctypes.string_at(0)": r"it was killed by signal 11 \(Segmentation fault\)",
    "import os; os.closerange(0, 100)": "it ended with exit code 0",
    "import os; os.close(3); import time; time.sleep(60)": "it closed its connection",
    "import os; os.write(3, b'{}\\n')": "its answer cannot be read",
    "import os; os.write(3, b'[' * 10_000 + b'\\n')": "its answer cannot be read",
    "import os\nwhile True: os.write(3, b'x' * 10_000)": "its answer is too long",
    'import os; os.write(3, b\'{"value": 3, "ended": ""}\\n\')': "its answer cannot be read",
    "import resource; resource.setrlimit(resource.RLIMIT_CPU, (0, 0))\nwhile True: pass": "it was killed by signal 9",
}


@pytest.mark.parametrize("code", ENDS)
def test_whatever_a_snippet_does_there_is_a_result_in_time(sandbox, hasty, code):
    sandbox = hasty if "stopped" in ENDS[code] else sandbox
    sandbox.run("")
    began = time.monotonic()
    result = sandbox.run("print('begun')\n" + code)
    assert time.monotonic() - began < sandbox.limits.wall + 1
    assert re.search(ENDS[code], result.ended)
    assert result.stdout.startswith("begun\n")
    assert sandbox.run("1").value == "1"


def test_computing_is_bounded():
    sandbox = Sandbox(Limits(wall=8.0, cpu=1), preload=())
    assert sandbox.run("while True: pass").ended == "it was stopped: more than 1 s of computing"
    session = sandbox.session()
    burn = "import time\nend = time.process_time() + 0.55\nwhile time.process_time() < end: pass"
    assert [session.run(burn).ended for _ in range(2)] == [""] * 2  # of each call
    sandbox.close()


def test_memory_is_bounded(sandbox, layers):
    need(layers, "memory")
    assert failure(sandbox.run("x = bytearray(10**9)")) == "MemoryError"
    assert sandbox.run("len(bytearray(10**8))").value == str(10**8)
    assert "MemoryError" in sandbox.run("x = []\nwhile True: x.append('x' * 10**6 + str(len(x)))").stderr
    assert failure(sandbox.run("import mmap; mmap.mmap(-1, 10**9)")).startswith("OSError")
    assert failure(sandbox.run("import os; os.memfd_create('x')")).startswith("PermissionError")


BOMBS = {
    "fork": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "daemons": "import os, time\nwhile True:\n    try: os.fork() or os.setsid()\n    except OSError: time.sleep(0.01)",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "programs": "import subprocess\nwhile True: subprocess.Popen(['sleep', '9'])",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_fork_bomb_goes_out(hasty, layers, bomb):
    need(layers, "forks", "processes")
    top, most, over = zygote(hasty), [], threading.Event()

    def count():
        while not over.is_set():
            with suppress(FileNotFoundError, ProcessLookupError):  # one has ended meanwhile
                most.append(sum(len(os.listdir(f"/proc/{pid}/task")) for pid in descendants(top)))
            time.sleep(0.01)

    thread = threading.Thread(target=count)
    thread.start()
    began = time.monotonic()
    hasty.run(BOMBS[bomb])
    seconds = time.monotonic() - began
    over.set()
    thread.join()
    assert seconds < HASTY.wall + 1
    assert max(most) <= HASTY.processes + 4  # two workers, each with its supervisor
    assert max(most) > HASTY.processes or bomb in ("threads", "programs")  # which raise, and are over at once
    assert eventually(lambda: len(descendants(top)) <= 4)
    assert hasty.run("1").value == "1"


def test_what_is_written_is_bounded(sandbox, layers):
    assert failure(sandbox.run("open('x', 'wb').write(bytes(20 << 20))")).startswith("OSError: [Errno 27]")
    assert failure(sandbox.run("x = [open('/dev/null') for _ in range(100)]")).startswith("OSError: [Errno 24]")
    need(layers, "files")
    if "namespace" in layers["files"]:
        code = "for n in range(10): open(str(n), 'wb').write(bytes(10 << 20))"
        assert failure(sandbox.run(code)).startswith("OSError: [Errno 28]")
        code = "for n in range(10**6): open(str(n), 'wb')"
        assert failure(sandbox.run(code)).startswith("OSError: [Errno 28]")
