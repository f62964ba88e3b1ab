"""What calls share, and what they do not."""

import asyncio
import os
import signal
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

from snippets import failure

from grpo_agents.sandbox import Result


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


def test_many_threads_at_once(sandbox):
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: sandbox.run(f"import time; time.sleep(0.02); {n}"), range(24)))
    assert [result.value for result in results] == [str(n) for n in range(24)]

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(sandbox.run, str(n)) for n in range(8)))

    assert [result.value for result in asyncio.run(main())] == [str(n) for n in range(8)]
