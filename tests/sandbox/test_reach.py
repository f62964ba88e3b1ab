"""What is out of reach."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import LIMITS, failure, need, zygote

from grpo_agents.sandbox import Sandbox


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
