import asyncio
import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import eventually, gone

from grpo_agents.workers import WorkerDied, WorkerError, WorkerPool, WorkerTimeout

TARGET = """
import os, signal, subprocess, sys, time

ready = []
scope = dict(globals())

def run(code):
    scope["reply"] = None
    exec(code, scope)
    return scope["reply"]

def prepare():
    ready.append(os.getpid())

def fail():
    raise OSError("no such luck")
"""
PID = "reply = os.getpid()"
ZYGOTE = "reply = os.getppid()"
CHANNEL = """
import os, socket, struct
def is_socket(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False
fd, = filter(is_socket, range(64))
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A module to run, a secret, and a folder for temporary files that is to be empty again."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "worker_target.py").write_text(TARGET)
    monkeypatch.syspath_prepend(tmp_path / "code")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("SECRET", "in the environment")
    yield folder
    assert eventually(lambda: not list(folder.iterdir()))
    monkeypatch.delitem(sys.modules, "worker_target", raising=False)


@pytest.fixture
def pool():
    pool = WorkerPool("worker_target:run", workers=2)
    yield pool
    pool.close()


def file_descriptors():
    return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))


def script(code, tmp_path, **kwargs):
    """Runs a script of its own that has a pool, and gives what it printed."""
    path = tmp_path / "script.py"
    head = f"""
    import os, signal, sys, time
    sys.path.append({str(tmp_path / "code")!r})
    from grpo_agents.workers import WorkerPool
    pool = WorkerPool("worker_target:run", workers=2)
    print("begin", flush=True)
    """
    path.write_text(textwrap.dedent(head) + textwrap.dedent(code))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, **kwargs)
    return done.stdout, done.stderr, done.returncode


def test_no_process_before_the_first_call_and_none_after_closing(pool, temporary):
    assert not list(temporary.iterdir())
    assert pool.call("reply = 6 * 7", 5.0) == 42
    worker, zygote = pool.call(PID, 5.0), pool.call(ZYGOTE, 5.0)
    pool.close()
    assert gone(worker)
    assert gone(zygote)
    assert not list(temporary.iterdir())
    assert pool.call("reply = 43", 5.0) == 43  # closed is not broken


def test_a_worker_is_used_again_and_starts_in_an_empty_folder_of_its_own(pool, temporary):
    pid = pool.call("open('file', 'w').write('x'); " + PID, 5.0)
    assert pool.call(PID, 5.0) == pid
    assert pool.call("reply = os.listdir()", 5.0) == ["file"]
    other = pool.worker()
    assert other.call("reply = os.listdir()", 5.0) == []
    assert Path(other.call("reply = os.getcwd()", 5.0)).parent.parent == temporary.resolve()


def test_what_the_target_raises_is_told_and_the_worker_goes_on(pool):
    pid = pool.call(PID, 5.0)
    with pytest.raises(WorkerError, match=r"^KeyError: 'there'$") as caught:
        pool.call("raise KeyError('there')", 5.0)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (str(error), error.type, error.message) == ("KeyError: 'there'", "KeyError", "'there'")
    for code, name in (("sys.exit(3)", "SystemExit"), ("reply = {1}", "TypeError"), ("reply = 10**9999", "ValueError")):
        with pytest.raises(WorkerError, match=name):
            pool.call(code, 5.0)
    with pytest.raises(WorkerError) as caught:
        pool.call("raise ValueError('x' * 10**7)", 5.0)
    assert len(caught.value.message) == 2000
    with pytest.raises(TypeError, match="not JSON serializable"):
        pool.call({1, 2}, 5.0)
    assert pool.call(PID, 5.0) == pid


@linux
def test_memory_is_bounded(pool):
    with pytest.raises(WorkerError, match="MemoryError"):
        pool.call("reply = len(bytearray(300 << 20))", 5.0)
    assert pool.call("reply = len(bytearray(100 << 20))", 5.0) == 100 << 20
    small = WorkerPool("worker_target:run", memory=50 << 20)
    with pytest.raises(WorkerError, match="MemoryError"):
        small.call("reply = len(bytearray(100 << 20))", 5.0)
    small.close()


def test_a_late_worker_is_killed_with_all_that_it_started(pool, tmp_path):
    pid, note = pool.call(PID, 5.0), tmp_path / "pid"
    code = f"open({str(note)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid)); time.sleep(60)"
    began = time.monotonic()
    with pytest.raises(WorkerTimeout, match=r"no reply within 0\.5 s"):
        pool.call(code, 0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert eventually(lambda: gone(pid))
    assert eventually(lambda: gone(int(note.read_text())))
    assert pool.call(PID, 5.0) != pid


def test_processor_time_is_what_a_call_computes_and_not_how_long_it_waits(temporary):
    pool = WorkerPool("worker_target:run", workers=1, cpu=0.3)
    assert pool.call("time.sleep(0.6); reply = 1", 10.0) == 1
    with pytest.raises(WorkerTimeout, match="no reply within the processor time"):
        pool.call("import re; re.match('(a*)*b', 'a' * 100)", 60.0)  # in C, where no handler of Python's would run
    for _ in range(3):  # each has as much, also after one that raised
        with pytest.raises(WorkerError):
            pool.call("start = time.process_time()\nwhile time.process_time() < start + 0.2: pass\n1 / 0", 10.0)
    pool.close()


@linux
def test_a_daemon_ends_with_the_pool(pool):
    code = """
    note = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(note[1], str(os.getpid()).encode())
            time.sleep(60)
        os._exit(0)
    os.waitpid(child, 0)
    reply = int(os.read(note[0], 20))
    """
    daemon = pool.call(textwrap.dedent(code), 5.0)
    assert not gone(daemon)
    pool.close()
    assert gone(daemon)


def test_a_worker_that_ignores_signals_and_hangs_in_c_is_killed(pool):
    code = "import re; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]; "
    with pytest.raises(WorkerTimeout):
        pool.call(code + "re.match('(a*)*b', 'a' * 100)", 0.3)
    assert pool.call("reply = 1", 5.0) == 1


def test_no_time_at_all_is_too_little(pool):
    with pytest.raises(WorkerTimeout, match="no reply within 0 s"):
        pool.call("time.sleep(60)", 0.0)


def test_a_request_that_the_worker_does_not_read_is_given_up(pool):
    worker = pool.worker()
    pid = worker.call(PID, 5.0)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerTimeout):
        worker.call("#" * 10_000_000, 0.2)
    assert eventually(lambda: gone(pid))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os._exit(3)", r"the worker ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"the worker was killed by signal 11 \(Segmentation fault"),
    ],
)
def test_a_worker_that_dies_says_how(pool, code, said):
    with pytest.raises(WorkerDied, match=said):
        pool.call(code, 5.0)
    assert pool.call("reply = 1", 5.0) == 1


@linux
@pytest.mark.parametrize(
    "sent",
    [
        "b'\\0\\0\\0\\3abc'",
        "b'\\0\\0\\0\\2{}'",
        "b'\\0\\0\\0\\4null'",
        "struct.pack('!I', 13) + b'{\"error\": [1]}'",
        "struct.pack('!I', 60_000) + b'[' * 60_000",
        "struct.pack('!I', 10_000) + b'9' * 10_000",
        "struct.pack('!I', 1 << 31) + b'x' * 1000",
        "struct.pack('!Ii', 0xFFFFFFFF, -2**31) * 100",
        "struct.pack('!I', 0xFFFFFFFF)",
        "b'\\0\\0'",
    ],
)
def test_a_worker_that_breaks_the_protocol_is_killed(pool, sent):
    pid = pool.call(PID, 5.0)
    with pytest.raises((WorkerDied, WorkerTimeout)):
        pool.call(f"{CHANNEL}\nos.write(fd, {sent})\ntime.sleep(60)", 0.5)
    assert eventually(lambda: gone(pid))
    assert pool.call("reply = 1", 5.0) == 1


@linux
def test_what_nobody_asked_for_is_not_taken_for_the_next_reply(pool):
    late = f'{CHANNEL}\nimport threading, time\nsaid = b\'{{"value": "stale"}}\'\n'
    late += "def talk():\n    time.sleep(0.1)\n    os.write(fd, struct.pack('!I', len(said)) + said)\n"
    pool.call(late + "threading.Thread(target=talk).start()", 5.0)
    time.sleep(0.5)
    assert pool.call("reply = 'fresh'", 5.0) == "fresh"


def test_a_reply_too_long_is_refused():
    pool = WorkerPool("worker_target:run", reply_bytes=100)
    assert pool.call("reply = 'x' * 80", 5.0) == "x" * 80
    with pytest.raises(WorkerError, match="the reply has 112 bytes; 100 are allowed"):
        pool.call("reply = 'x' * 99", 5.0)
    pool.close()


@pytest.mark.parametrize("who", [PID, ZYGOTE], ids=["worker", "zygote"])
def test_killed_from_outside(pool, who):
    """While it serves the call fails; while it rests nobody notices."""
    pids = [pool.call(PID, 5.0), pool.call(ZYGOTE, 5.0)]
    victim = pool.call(who, 5.0)
    timer = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
    timer.start()
    with pytest.raises(WorkerDied, match=r"killed by signal 9|is gone, and the process that forked it"):
        pool.call("time.sleep(60)", 30.0)
    timer.join()
    assert eventually(lambda: gone(pids[0]))
    os.kill(pool.call(who, 5.0), signal.SIGKILL)
    time.sleep(0.2)
    assert pool.call("reply = 'healed'", 5.0) == "healed"


def test_many_callers_wait_for_their_turn(pool):
    """Nine calls of 0.2 s on two workers; the timeout of 1 s does not count the waiting."""

    def ask(number):
        return pool.call(f"time.sleep(0.2); reply = [{number}, os.getpid()]", 1.0)

    with ThreadPoolExecutor(9) as threads:
        replies = list(threads.map(ask, range(12)))
    assert [number for number, _ in replies] == list(range(12))
    assert len({pid for _, pid in replies}) == 2


def test_under_asyncio(pool):
    async def main():
        return await asyncio.gather(*(asyncio.to_thread(pool.call, f"reply = {n}", 5.0) for n in range(20)))

    assert asyncio.run(main()) == list(range(20))


def test_a_worker_of_ones_own_keeps_its_state_and_takes_no_turn():
    pool = WorkerPool("worker_target:run", workers=1)
    one, two = pool.worker(), pool.worker()
    one.call("n = 1", 5.0)
    two.call("n = 2", 5.0)
    assert [one.call("reply = n", 5.0), two.call("reply = n", 5.0)] == [1, 2]
    with pytest.raises(WorkerError, match="NameError"):
        pool.call("reply = n", 5.0)
    pids = [one.call(PID, 5.0), two.call(PID, 5.0)]
    assert one.alive
    one.close()
    del two
    assert eventually(lambda: all(map(gone, pids)))
    assert not one.alive
    with pytest.raises(WorkerDied, match="cannot be reached"):
        one.call("reply = 1", 5.0)
    pool.close()


def test_setup_and_preloading():
    pool = WorkerPool("worker_target:run", setup="prepare", preload=("decimal",))
    assert pool.call("reply = [ready == [os.getpid()], 'decimal' in sys.modules]", 5.0) == [True, True]
    pool.close()
    for settings, said in (({"setup": "fail"}, "OSError: no such luck"), ({"preload": ("no_such",)}, "'no_such'")):
        pool = WorkerPool("worker_target:run", **settings)
        for _ in range(2):
            with pytest.raises(WorkerError, match=said):
                pool.call("reply = 1", 5.0)
        pool.close()


@pytest.mark.parametrize("target", ["worker_target", "nothing_there:run", "no.such:run", "__main__:run", ":"])
def test_a_target_that_cannot_be_imported_elsewhere_is_refused(target):
    with pytest.raises(ValueError, match="is no `module:function`"):
        WorkerPool(target)


def test_the_packages_above_a_target_are_not_run(tmp_path):
    package = tmp_path / "code" / "loud" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("import decimal")
    (package / "__init__.py").write_text("")
    (package / "sibling.py").write_text("number = 7")
    code = "import sys\nfrom loud.inner.sibling import number\n"
    (package / "target.py").write_text(code + "def run(_):\n    return [number, 'decimal' in sys.modules]")
    pool = WorkerPool("loud.inner.target:run")
    assert pool.call(None, 5.0) == [7, False]
    pool.close()


def test_workers_import_and_see_little(pool):
    heavy = ["torch", "numpy", "grpo_agents", "pytest"]
    assert pool.call(f"reply = [name in sys.modules for name in {heavy}]", 5.0) == [False] * 4
    assert pool.call("reply = [os.environ.get('SECRET'), os.environ['PATH']]", 5.0) == [
        None,
        os.environ["PATH"],
    ]
    assert pool.call("import resource; reply = resource.getrlimit(resource.RLIMIT_CORE)", 5.0) == [0, 0]


@linux
def test_a_worker_holds_no_file_of_the_host_or_of_other_workers(pool, tmp_path):
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        others = [pool.worker() for _ in range(3)]
        code = """
        reply = []
        for fd in range(64):
            try:
                reply.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                pass
        """
        names = pool.call(textwrap.dedent(code), 5.0)
    assert others
    assert sum(name.startswith("socket:") for name in names) == 1
    assert not any(name.endswith("/open") for name in names)


def test_a_hundred_kills_leave_nothing(pool):
    pool.call("reply = 1", 5.0)
    gc.collect()
    before, zygote = file_descriptors(), pool.call(ZYGOTE, 5.0)
    for _ in range(50):
        with pytest.raises(WorkerTimeout):
            pool.call("time.sleep(60)", 0.005)
        with pytest.raises(WorkerDied):
            pool.call("os._exit(1)", 5.0)
    gc.collect()
    assert pool.call(ZYGOTE, 5.0) == zygote
    assert file_descriptors() <= before + 1  # the worker that rests
    if sys.platform == "linux":
        fds = pool.call(f"reply = len(os.listdir('/proc/{zygote}/fd'))", 5.0)
        assert eventually(lambda: fds <= 9)
        children = Path(f"/proc/{zygote}/task/{zygote}/children")
        assert eventually(lambda: len(children.read_text().split()) == 1)


def test_a_forgotten_pool_ends_its_processes():
    pool = WorkerPool("worker_target:run")
    pids = [pool.call(PID, 5.0), pool.call(ZYGOTE, 5.0)]
    del pool
    gc.collect()
    assert eventually(lambda: all(map(gone, pids)))


@pytest.mark.parametrize(
    "end",
    ["pass", "raise RuntimeError('end')", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(1)"],
)
def test_nothing_is_left_however_the_host_ends(end, tmp_path, temporary):
    said, _, _ = script(
        f"""
        import threading
        print(pool.call({PID!r}, 5.0), pool.call({ZYGOTE!r}, 5.0), flush=True)
        hang = "open('file', 'w'); subprocess.Popen(['sleep', '60']); time.sleep(60)"
        threading.Thread(target=pool.call, args=(hang, 60.0), daemon=True).start()
        time.sleep(0.3)
        {end}
        """,
        tmp_path,
    )
    pids = [int(pid) for pid in re.findall(r"\d+", said)]
    assert len(pids) == 2
    assert eventually(lambda: all(map(gone, pids)))
    assert eventually(lambda: not list(temporary.iterdir()))


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    said, errors, code = script("print(pool.call('reply = 1', 5.0))", tmp_path)
    assert (said, errors, code) == ("begin\n1\n", "", 0)


def test_a_forked_host_gets_a_pool_of_its_own(tmp_path, temporary):
    said, errors, code = script(
        f"""
        own = pool.worker()
        first = [pool.call({ZYGOTE!r}, 5.0), own.call({PID!r}, 5.0)]
        if (child := os.fork()) == 0:
            print(pool.call({ZYGOTE!r}, 5.0) != first[0], own.alive, flush=True)
            sys.exit(0)
        print(os.waitpid(child, 0)[1], [pool.call({ZYGOTE!r}, 5.0), own.call({PID!r}, 5.0)] == first)
        """,
        tmp_path,
    )
    assert (said, errors, code) == ("begin\nTrue False\n0 True\n", "", 0)
    assert not list(temporary.iterdir())
