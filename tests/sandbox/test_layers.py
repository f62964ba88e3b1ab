"""What contains, layer by layer, and what is left where the kernel lacks some."""

import sys

import pytest
from snippets import HASTY, LIMITS, failure

from grpo_agents.sandbox import Sandbox
from grpo_agents.workers import WorkerError, WorkerPool

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
