import asyncio
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from processes import eventually, gone

from grpo_agents.env import AgentEnv, tool_call
from grpo_agents.sandbox import Limits, Result, Sandbox
from grpo_agents.tools import run_calls
from grpo_agents.workers import WorkerError, WorkerPool

LIMITS = Limits(memory=200 << 20, output=2_000)
HASTY = replace(LIMITS, wall=0.4)
LESS = """
import sys
sys.modules.pop("grpo_agents", None)
import grpo_agents.sandbox.snippet as snippet
import grpo_agents.sandbox.supervisor as supervisor

def nothing(*args, **kwargs):
    raise OSError("not here")

supervisor.isolate = lambda *_: set()
if {bare}:
    snippet.landlock = snippet.filter_calls = nothing
if {broken}:
    snippet.give_up_rights = nothing
enter, run = supervisor.enter, supervisor.run
"""


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(LIMITS, preload=())
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def hasty():
    """Stops what takes longer than 0.4 s."""
    sandbox = Sandbox(HASTY, preload=())
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def layers(sandbox):
    return sandbox.containment()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go, which is empty again after the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert eventually(lambda: not list(folder.iterdir()))


@pytest.fixture(params=[False, True], ids=["no namespaces", "bare"])
def lesser(request, tmp_path, monkeypatch, temporary):
    """A sandbox as it is where the kernel has no namespaces, or none of the layers."""
    name = f"lesser_{request.param}"
    (tmp_path / f"{name}.py").write_text(LESS.format(bare=request.param, broken=False))
    monkeypatch.syspath_prepend(tmp_path)
    sandbox = Sandbox(HASTY, preload=())
    sandbox._pool = WorkerPool(f"{name}:run", setup="enter", memory=LIMITS.memory)
    sandbox.bare = request.param
    yield sandbox
    sandbox.close()


def need(layers, *names):
    lacking = [name for name in names if not layers[name]]
    if lacking:
        pytest.skip(f"the kernel has nothing to contain {lacking}")


def descendants(pid):
    """The processes under one, by pid."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def zygote(sandbox):
    sandbox.run("")
    return sandbox._pool._zygote._pid


def failure(result):
    """The last line of a traceback."""
    return result.stderr.strip().rpartition("\n")[2]


# What a policy sees


def test_output_errors_and_value_are_told_apart(sandbox):
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n{'a': 6 * 7}"
    result = sandbox.run(code)
    assert result == Result("out\n", "err\n", "{'a': 42}", stdout_bytes=4, stderr_bytes=4)
    assert str(result) == "stdout:\nout\nstderr:\nerr\nvalue:\n{'a': 42}"
    assert str(sandbox.run("x = 1")) == "no output"
    assert sandbox.run("None").value is None
    assert sandbox.run("").value is None
    assert sandbox.run("'\\ud800', chr(0x1F600)").value == "('\\ud800', '😀')"


def test_a_traceback_shows_the_snippet_alone(sandbox):
    result = sandbox.run(
        "def half(n):\n    return n / 0\n\ntry:\n    half(3)\nexcept ZeroDivisionError:\n    {}['there']"
    )
    assert "return n / 0" in result.stderr
    assert "During handling of the above exception" in result.stderr
    assert failure(result) == "KeyError: 'there'"
    assert not re.search(r"snippet\.py|supervisor|grpo_agents", result.stderr)
    assert set(re.findall(r'File "(.*?)"', result.stderr)) == {"<call 1>"}
    assert failure(sandbox.run("x = = 1")) == "SyntaxError: invalid syntax"
    assert "null bytes" in failure(sandbox.run("x\0"))
    assert failure(sandbox.run("def f(): f()\nf()")).startswith("RecursionError")
    assert "surrogates not allowed" in failure(sandbox.run("'\ud800'"))
    assert "Error" in failure(sandbox.run("(" * 100_000))


def test_output_is_bounded(sandbox):
    result = sandbox.run("import sys\nprint('a' * 10**6)\nsys.stderr.write('b' * 10**6 + 'end')\n'c' * 10**6")
    assert result.stdout == "a" * 2000
    assert (result.stdout_bytes, result.stderr_bytes) == (10**6 + 1, 10**6 + 3)
    assert result.stderr == "b" * 1997 + "end"
    assert result.value == "'" + "c" * 1999 + " … (cut)"
    assert "stdout (the first 2000 of 1000001 bytes):" in str(result)
    assert sandbox.run("import os; os.write(1, b'\\xff\\x00') and None").stdout == "\ufffd\x00"


def test_a_snippet_finds_an_interpreter_that_was_just_started(sandbox):
    code = """
    import os, pickle, random, sys, tempfile, subprocess
    from dataclasses import dataclass
    @dataclass
    class Point:
        x: int
    assert pickle.loads(pickle.dumps(Point(3))) == Point(3)
    assert os.listdir() == [] and __name__ == "__main__" and sys.argv == [""] and sys.stdin.read() == ""
    assert os.path.dirname(tempfile.mkdtemp()) == os.getcwd() == os.environ["HOME"]
    assert "grpo_agents" not in sys.modules and "supervisor" not in sys.modules
    print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout)
    open("helper.py", "w").write("number = 7")
    import helper
    assert helper.number == 7
    random.random()
    """
    first, second = sandbox.run(textwrap.dedent(code)), sandbox.run(textwrap.dedent(code))
    assert (first.stderr, first.stdout.strip()) == ("", "42")
    assert first.value != second.value  # random numbers are no copies
    assert sandbox.run("import numpy, sympy\nnumpy.ones(3).sum(), sympy.Integer(3)").value == "(np.float64(3.0), 3)"


# State


def test_fresh_snippets_share_nothing(sandbox):
    sandbox.run("x = 1; import os; os.environ['LEFT'] = open('left', 'w').name")
    assert failure(sandbox.run("x")) == "NameError: name 'x' is not defined"
    assert sandbox.run("import os; os.listdir(), os.environ.get('LEFT')").value == "([], None)"


def test_sessions_keep_their_state_and_are_independent(sandbox):
    one, two = sandbox.session(), sandbox.session()
    one.run("x = 1; open('file', 'w').write('one')")
    two.run("x = 2; import sys; sys.exit(3)")
    assert one.run("x, open('file').read()").value == "(1, 'one')"
    assert two.run("x, __import__('os').listdir()").value == "(2, [])"
    assert one.run("def f(): return x\nf()").value == "1"
    assert 'File "<call 4>"' in one.run("1 / 0").stderr
    one.close()
    assert failure(one.run("x")).startswith("NameError")  # closed is not broken
    one.close()
    two.close()


def test_a_session_that_is_ended_says_that_its_variables_are_lost(hasty):
    session = hasty.session()
    session.run("x = 1")
    result = session.run("while True: pass")
    assert result.lost
    assert str(result).endswith("no end within 0.4 s\nThe variables of earlier calls are lost.")
    assert failure(session.run("x")).startswith("NameError")
    assert session.run("import os; os._exit(0)").lost
    assert not session.run("x = 2").lost
    os.kill(session._worker._zygote._pid, signal.SIGKILL)
    time.sleep(0.2)
    assert session.run("3").lost
    assert session.run("4") == Result(value="4")


def test_a_session_stands_still_between_its_calls(sandbox):
    session = sandbox.session()
    code = """
    import threading, time
    ticks = []
    def tick():
        while True:
            ticks.append(time.monotonic())
            time.sleep(0.01)
    threading.Thread(target=tick, daemon=True).start()
    time.sleep(0.1)
    """
    session.run(textwrap.dedent(code))
    time.sleep(0.5)
    gaps = session.run("time.sleep(0.05); sorted(b - a for a, b in zip(ticks, ticks[1:]))[-1]")
    assert float(gaps.value or 0) > 0.4
    session.close()


# Limits

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


# What is out of reach


def test_files_are_out_of_reach(sandbox, layers, tmp_path):
    need(layers, "files")
    secret = tmp_path / "secret"
    secret.write_text("found")
    places = [secret, __file__, "/etc/passwd", "/etc/shadow", "/proc/1/environ", f"/proc/{os.getpid()}/environ"]
    places += ["/proc/self/environ", "/proc/self/maps", "/dev/mem", "/sys/kernel/mm", Path.home() / ".bashrc"]
    for place in places:
        assert failure(sandbox.run(f"open({str(place)!r}).read()")).split(":")[0] in (
            "PermissionError",
            "FileNotFoundError",
        ), place
    for place in (tmp_path / "new", secret, Path(sys.prefix) / "new", Path(os.__file__), "/tmp/new", "/new"):
        assert re.match("(Permission|FileNotFound|OS)Error", failure(sandbox.run(f"open({str(place)!r}, 'w')"))), place
    escape = "import os\nos.symlink('/', 'way')\nos.listdir('way/etc')"
    assert re.match("(Permission|FileNotFound)Error", failure(sandbox.run(escape)))
    code = f"import os\nos.link({os.__file__!r}, 'x')"
    assert re.match("(Permission|OS)Error", failure(sandbox.run(code)))
    assert secret.read_text() == "found"


def test_the_environment_and_memory_of_the_host_are_out_of_reach(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "found")
    fresh = Sandbox(LIMITS, preload=())
    code = "import os; sorted({*os.environ} - {'LD_LIBRARY_PATH'}), 'SECRET_TOKEN' in os.popen('env').read()"
    assert fresh.run(code).value == "(['HOME', 'LANG', 'PATH', 'TMPDIR'], False)"
    fresh.close()
    code = "import gc; [o for o in gc.get_objects() if isinstance(o, dict) and 'SECRET_TOKEN' in o]"
    assert sandbox.run(code).value == "[]"


def test_the_network_is_out_of_reach(sandbox, layers):
    need(layers, "network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = sandbox.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=0.5)")
        assert re.match("(Permission|OS|ConnectionRefused)Error", failure(result))
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    for kind in ("socket.AF_INET, socket.SOCK_DGRAM", "socket.AF_UNIX", "socket.AF_NETLINK, socket.SOCK_RAW"):
        assert failure(sandbox.run(f"import socket; socket.socket({kind})")).startswith("PermissionError")
    assert sandbox.run("import asyncio\nasync def f(): return 3\nasyncio.run(f())").value == "3"  # it needs a pair


def test_processes_of_others_are_out_of_reach(sandbox, layers):
    need(layers, "processes")
    with subprocess.Popen(["sleep", "60"]) as victim:
        for pid in (victim.pid, os.getpid(), zygote(sandbox)):
            result = sandbox.run(f"import os; os.kill({pid}, 0)")
            assert re.match("(ProcessLookup|Permission)Error", failure(result))
        sandbox.run("import os, signal; os.kill(-1, 9)")
        result = sandbox.run("import os, time; [os.kill(os.getppid(), n) for n in (2, 9, 15, 19)]; time.sleep(0.2)")
        assert result.ended == ""
        assert victim.poll() is None
        victim.kill()
    for call in ("ptrace(16, 1, 0, 0)", "unshare(0x10000000)", "mount(b'x', b'/', b'tmpfs', 0, None)"):
        code = f"import ctypes; c = ctypes.CDLL(None, use_errno=True); c.{call}, ctypes.get_errno()"
        assert sandbox.run(code).value == "(-1, 1)"


def test_every_layer_acts_here(layers):
    if sys.platform != "linux":
        pytest.skip("not Linux")
    lacking = [name for name, found in layers.items() if not found]
    if lacking:
        pytest.skip(f"the kernel lacks what contains {lacking}")
    assert list(layers) == ["files", "network", "processes", "forks", "memory", "calls"]


def test_what_is_required_and_lacking_is_refused(sandbox, lesser):
    assert Sandbox(LIMITS, preload=(), require=("memory",)).run("1").value == "1"
    with pytest.raises(ValueError, match=r"require has \['file'\]; known are \['files', 'network'"):
        Sandbox(LIMITS, preload=(), require=("file",))
    lesser.require = ("processes", "memory", "files")
    if lesser.bare:
        with pytest.raises(RuntimeError, match=r"cannot contain processes, files here\. It takes Linux 5\.13"):
            lesser.run("print('run')")


def test_an_interpreter_that_cannot_contain_itself_runs_nothing(tmp_path, monkeypatch, temporary):
    (tmp_path / "broken.py").write_text(LESS.format(bare=False, broken=True))
    monkeypatch.syspath_prepend(tmp_path)
    sandbox = Sandbox(preload=())
    sandbox._pool = WorkerPool("broken:run", setup="enter")
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"(?s)an interpreter could not start: .*OSError: not here"):
            sandbox.run("print('run')")
    sandbox.close()


def test_with_fewer_layers(lesser, tmp_path, temporary):
    """Landlock and seccomp alone contain nearly as much; without them the deadline and the limits are left."""
    (tmp_path / "secret").write_text("found")
    session = lesser.session()
    session.run("x = 1")
    assert session.run("x").value == "1"
    assert lesser.run("import os\nos.makedirs('a/b'); os.chmod('a', 0)\nos.listdir()").value == "['a']"
    assert lesser.run("import os; os.listdir()").value == "[]"
    assert lesser.run("while True: pass").ended == "it was stopped: no end within 0.4 s"
    assert failure(lesser.run("x = bytearray(10**9)")) == "MemoryError"
    read = lesser.run(f"open({str(tmp_path / 'secret')!r}).read()")
    fork = lesser.run("import os\nif os.fork() == 0: os._exit(0)")
    assert lesser.run("import threading; t = threading.Thread(target=print); t.start(); t.join()").stderr == ""
    if lesser.bare:
        assert read.value == "'found'"
        assert fork.stderr == ""
    else:
        assert failure(read).startswith("PermissionError")
        assert failure(fork).startswith("PermissionError")
        assert failure(lesser.run("import os; os.kill(os.getppid(), 9)")).startswith("PermissionError")
        assert failure(lesser.run("import socket; socket.socket()")).startswith("PermissionError")
        assert failure(lesser.run(f"open({str(tmp_path / 'x')!r}, 'w')")).startswith("PermissionError")
    lesser.run("import os\nfor _ in range(1200):\n    os.mkdir('d'); os.chdir('d')")  # deeper than Python removes
    assert lesser.run("import os; os.listdir()").value == "[]"
    session.close()


# What is left behind


@pytest.mark.parametrize("who", ["zygote", "worker", "supervisor"])
def test_killed_from_outside(temporary, who):
    sandbox = Sandbox(LIMITS, workers=1, preload=())
    top = zygote(sandbox)
    below = descendants(top)
    victim = {"zygote": top, "worker": below[0], "supervisor": below[-1]}[who]
    timer = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
    timer.start()
    result = sandbox.run("import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)")
    timer.join()
    assert re.match("the worker (was killed by|ended with|is gone)", result.ended)
    assert sandbox.run("1").value == "1"
    assert eventually(lambda: all(map(gone, below)))
    sandbox.close()


def test_many_threads_at_once(sandbox):
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: sandbox.run(f"import time; time.sleep(0.02); {n}"), range(24)))
    assert [result.value for result in results] == [str(n) for n in range(24)]

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(sandbox.run, str(n)) for n in range(8)))

    assert [result.value for result in asyncio.run(main())] == [str(n) for n in range(8)]


def test_nothing_piles_up(temporary):
    sandbox = Sandbox(Limits(wall=0.05), preload=())
    top = zygote(sandbox)
    gc.collect()
    before, processes = len(os.listdir("/proc/self/fd")), len(descendants(top))
    for _ in range(10):
        sandbox.run("open('file', 'w')")
        sandbox.run("while True: pass")
        sandbox.session().run("x = 1")
    gc.collect()
    assert eventually(lambda: len(descendants(top)) == processes)
    assert len(os.listdir("/proc/self/fd")) == before
    if os.getuid() == 0:  # the supervisor hides from others
        supervisor = descendants(top)[-1]
        assert len(os.listdir(f"/proc/{supervisor}/fd")) <= 6
    sandbox.close()
    assert not os.path.exists(f"/proc/{top}")


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_nothing_is_left_when_the_host_ends(end, tmp_path, temporary):
    code = f"""
    import os, signal, threading, time
    from grpo_agents.sandbox import Limits, Sandbox
    sandbox = Sandbox(Limits(wall=60.0), preload=())
    session = sandbox.session()
    session.run("x = 1")
    print(sandbox._pool._zygote._pid, flush=True)
    if (child := os.fork()) == 0:
        os._exit(sandbox.run("6 * 7").value != "42" or not session.run("7").lost)
    print(os.waitpid(child, 0)[1], session.run("x").value, flush=True)
    hang = "import subprocess, time; open('f', 'w'); subprocess.Popen(['sleep', '60']); time.sleep(60)"
    threading.Thread(target=sandbox.run, args=(hang,), daemon=True).start()
    time.sleep(0.4)
    {end}
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, env=environment) as host:
        assert host.stdout is not None
        top = int(host.stdout.readline())
        assert host.stdout.readline() == b"0 1\n"  # a fork of the host has interpreters of its own
        assert eventually(lambda: len(descendants(top)) >= 6)
        below = descendants(top)
    assert eventually(lambda: all(map(gone, [top, *below])))


# As a tool


def say(*codes):
    calls = [tool_call("python", {"code": code}, n) for n, code in enumerate(codes)]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def test_the_tool(hasty):
    python = hasty.tool()
    message = say("print(1)", "1 / 0", "while True: pass")
    messages, runs = run_calls({"python": python}, message["tool_calls"])
    assert [message["content"].rpartition("\n")[2] for message in messages] == [
        "1",
        "ZeroDivisionError: division by zero",
        "ended: it was stopped: no end within 0.4 s",
    ]
    assert [run.error for run in runs] == [None] * 3
    assert python.timeout is None  # its own limit is the only one
    assert python.schema["function"]["parameters"]["required"] == ["code"]
    assert python("6 * 7") == "value:\n42"
    kept = hasty.tool(session=True)
    kept("x = 1")
    assert kept("x") == "value:\n1"  # also without an environment
    assert "kept" in kept.schema["function"]["description"]
    assert kept.costing(price=2.0).price == 2.0


def test_an_environment_has_a_session_for_each_episode(sandbox):
    class Lab(AgentEnv):
        tasks = ({"question": "?"},)
        tools = (sandbox.tool(session=True),)

        def start(self, task):
            return "Try it."

        def finish(self, task, message):
            return {"outcome": 1.0}

    def contents(env, *codes):
        return [message["content"] for message in env.step(say(*codes))[0]]

    top = zygote(sandbox)
    resting = len(descendants(top))
    one, two = Lab(), Lab()
    one.reset(seed=1)
    two.reset(seed=1)
    assert contents(one, "x = 1", "x") == ["no output", "value:\n1"]
    assert "NameError" in contents(two, "x")[0]
    assert contents(one, "x + 1") == ["value:\n2"]
    assert len(descendants(top)) == resting + 6
    one.reset(seed=1)
    assert eventually(lambda: len(descendants(top)) == resting + 3)  # the old episode's is gone
    assert "NameError" in contents(one, "x")[0]
    del one, two
    gc.collect()
    assert eventually(lambda: len(descendants(top)) == resting)
