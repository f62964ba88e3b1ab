"""What is left behind by those that end, are ended or are killed: nothing."""

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from processes import descendants, eventually, gone
from snippets import LIMITS, zygote

from grpo_agents.sandbox import Limits, Sandbox


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
