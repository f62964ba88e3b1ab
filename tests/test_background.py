import signal
import subprocess
import sys
import threading
import time

import pytest

from grpo_agents.background import in_background


def test_a_job_runs_beside_and_gives_its_result():
    go = threading.Event()
    future = in_background(lambda: go.wait(10) and threading.current_thread() is not threading.main_thread())
    assert not future.done()
    go.set()
    assert future.result(10) is True


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whoever_asks_gets_what_it_raised(error):
    def job():
        raise error("of the job")

    with pytest.raises(error, match="of the job"):
        in_background(job).result(10)


def test_a_job_that_hangs_keeps_nobody_from_leaving():
    """Neither an interrupt while its result is waited for, nor the program's end."""
    program = (
        "import signal, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from grpo_agents.background import in_background\nprint('begun', flush=True)\n"
        "in_background(threading.Event().wait).result()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == b"begun\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
