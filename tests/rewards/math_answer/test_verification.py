import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.math_answer import (
    Conventions,
    Verdict,
    VerifierError,
    math_answer,
    score_answer,
    verification,
    verify,
    verify_all,
)
from grpo_agents.trajectory import Group, Step, Trajectory
from grpo_agents.workers import WorkerDied

SYMBOLIC = (r"\int_0^1 x^2 dx", "1/3")
"""A pair that takes sympy."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


def children(pid):
    """The processes below a process, by their parents."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child, *children(child)]
    return found


@pytest.fixture
def fresh_pool():
    """A pool of this test's own."""
    verification._pool.cache_clear()
    yield
    verification._pool().close()
    verification._pool.cache_clear()


def test_a_verdict_says_what_decided_and_why():
    assert verify("1/2", "0.5") == Verdict("equal", "number", "1/2", "1/2")
    assert verify("1/2", "0.5").sentence == "The answer 1/2 is 1/2."
    assert verify("1/3", "0.333333").sentence == "The answer 333333/1000000 is 1/3, correctly rounded."
    different = verify("5 cm", "5 kg")
    assert (different.status, different.rule) == ("different", "unit")
    assert different.sentence == "The answer 5 kg is not 5 cm: their units differ."
    assert bool(Verdict("equal", "")) is True
    assert [bool(Verdict(status, "")) for status in ("different", "unparsed", "undecided")] == [False] * 3


def test_unparsed_says_which_and_why():
    verdict = verify("1", r"\unknown{2}")
    assert (verdict.status, verdict.rule) == ("unparsed", "answer")
    assert verdict.sentence == "The answer cannot be read: it holds 'unknown' where a number or a name is expected."
    verdict = verify(r"\unknown{2}", "1")
    assert (verdict.status, verdict.rule) == ("unparsed", "gold")
    assert verdict.sentence.startswith("The gold answer cannot be read")
    assert verify("1", "").sentence == "The answer cannot be read: it is empty."
    assert verify("7 = 8", "7").rule == "gold"
    assert verify("7", "7 = 8").rule == "answer"


def test_what_cannot_be_read_equals_itself():
    assert verify(r"\unknown{2}", r"$\unknown{2}$")
    assert verify(r"\text{Rule 30, part b)}", r"Rule 30, Part b)")


@pytest.mark.parametrize("value", [None, 5, 0.5, b"5", ["5"], float("nan")])
def test_what_is_no_text_is_named(value):
    with pytest.raises(ValueError, match="answer must be a str, not"):
        verify("5", value)
    with pytest.raises(ValueError, match="gold must be a str, not"):
        verify(value, "5")


def reward(final, answer):
    trajectory = Trajectory(task={"answer": answer}, steps=[Step({"role": "assistant", "content": final})])
    RewardVector([math_answer]).score([Group({}, {}, [trajectory])])
    return trajectory.rewards["math_answer"], trajectory.missing.get("math_answer")


@pytest.mark.parametrize(
    ("final", "value"),
    [
        (r"\boxed{0.5}", 1.0),
        (r"\boxed{0.6}", 0.0),
        ("0.5", 0.0),
        ("", 0.0),
        (r"\boxed{\unknown}", 0.0),
        (r"\boxed{9^{9^{9^9}}}", 0.0),
        (r"\boxed{" + "1" * 5_000 + "}", 0.0),
        (r"\boxed{1/2 = 3/4}", 0.0),
    ],
)
def test_the_reward_of_an_answer(final, value):
    assert reward(final, "1/2") == (value, None)


def test_the_gold_answer_may_be_a_number():
    assert reward(r"\boxed{7}", 7) == (1.0, None)


@pytest.mark.parametrize("final", [r"\boxed{1}", "no answer", r"\boxed{\broken}"])
@pytest.mark.parametrize("gold", [r"\unknown{2}", "7 = 8", ""])
def test_a_gold_answer_nobody_can_read_is_missing_whatever_was_said(final, gold):
    value, reason = reward(final, gold)
    assert value is None
    assert f"the gold answer {gold!r} cannot be read" in reason


def test_a_verifier_that_failed_is_missing(monkeypatch):
    def die(*_):
        raise WorkerDied("the worker was killed by signal 9 (Killed)")

    monkeypatch.setattr(verification.WorkerPool, "call", die)
    value, reason = reward(rf"\boxed{{{SYMBOLIC[1]}}}", SYMBOLIC[0])
    assert value is None
    assert reason.startswith("VerifierError: the process that compares two answers failed twice")
    with pytest.raises(VerifierError, match="killed by signal 9"):
        score_answer(*SYMBOLIC)


@linux
@pytest.mark.usefixtures("fresh_pool")
def test_killed_processes_are_replaced():
    before = set(children(os.getpid()))
    assert verify(*SYMBOLIC)
    started = set(children(os.getpid())) - before
    assert started
    for pid in started:
        os.kill(pid, signal.SIGKILL)
    while any(_runs(pid) for pid in started):
        time.sleep(0.01)
    assert verify(*SYMBOLIC).rule == "symbolic"


@linux
def test_no_process_for_what_arithmetic_decides_and_none_is_left():
    code = f"""
        import asyncio, os, sys
        from grpo_agents.rewards.math_answer import verification, verify
        verification.PROOF_PATIENCE = 60.0  # a busy machine takes seconds to load sympy
        def children(pid):
            return open(f"/proc/{{pid}}/task/{{pid}}/children").read().split()
        assert verify("1/2", "0.5") and verify(r"\\sqrt8", r"2\\sqrt2") and not verify("(1, 2)", "[1, 2)")
        assert not children(os.getpid()) and "sympy" not in sys.modules and "torch" not in sys.modules
        assert asyncio.run(asyncio.to_thread(verify, *{SYMBOLIC!r}))
        assert "sympy" not in sys.modules
        zygote, = children(os.getpid())
        print(zygote, *children(zygote))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    started = list(map(int, done.stdout.split()))
    assert len(started) == 2
    assert not any(map(_runs, started))


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_from_many_threads(monkeypatch):
    monkeypatch.setattr(verification, "PROOF_SECONDS", 20.0)  # of wall time, which a busy machine has little of
    pairs = [SYMBOLIC, ("1/2", "0.5"), ("x^2 + x", "x(x+1)"), ("(1, 2)", "(2, 1)")] * 6
    barrier = threading.Barrier(8)

    def judge(pair):
        return verify(*pair)

    with ThreadPoolExecutor(8, initializer=barrier.wait) as threads:
        verdicts = list(threads.map(judge, pairs))
    assert [bool(verdict) for verdict in verdicts] == [True, True, True, False] * 6


def test_under_asyncio():
    async def judge():
        return await asyncio.gather(*(asyncio.to_thread(verify, *SYMBOLIC) for _ in range(6)))

    assert all(asyncio.run(judge()))

    async def block():
        return verify(*SYMBOLIC)

    assert asyncio.run(block())


def test_many_at_once_are_judged_as_one_by_one(monkeypatch):
    monkeypatch.setattr(verification, "CHUNK", 2)
    monkeypatch.setattr(verification, "MIN_SHARED", 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pairs = [("1/2", "0.5"), ("1/2", "0.6"), SYMBOLIC, ("1", r"\unknown"), ("50%", "50"), ("x", "y"), ("2", "2")] * 2
    conventions = Conventions(percent="value")
    assert verify_all(pairs, conventions) == [verify(*pair, conventions) for pair in pairs]
    assert verify_all([]) == []
    assert verify_all(pairs[:2]) == [verify(*pair) for pair in pairs[:2]]
    with pytest.raises(ValueError, match="answer must be a str"):
        verify_all([("1", None)])  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(verification, "CHUNK_SECONDS", 1e-6)
    with pytest.raises(VerifierError, match="a process that judged 2 pairs failed"):
        verify_all(pairs)


HOSTILE = {
    "tower": "9**9**9**9",
    "latex tower": "9^{9^{9^9}}",
    "power": "2^{10000000000}",
    "nested powers": "(((9^{99})^{99})^{99})^{99}",
    "scaled powers": "5" + " trillion" * 200,
    "small divisor": r"2^{1/0.00000001}",
    "root index": r"\sqrt[\frac{1}{999999999999}]{7}",
    "factorial": "1000000000!",
    "factorials": "((((9!)!)!)!)!",
    "many factorials": "5" + "!" * 1_900,
    "deep": "(" * 5_000 + "1" + ")" * 5_000,
    "roots": r"\sqrt{" * 40 + "2" + "}" * 40,
    "digits": "9" * 1_900,
    "bars": "|" * 1_900,
    "signs": "-" * 1_900 + "x",
    "megabyte": "x+" * 500_000 + "1",
    "megabyte of digits": "1" * 1_000_000,
    "expansion": "(x+y+z+w)^{201}",
    "product": r"\prod_{n=1}^{100000000} n",
    "series": r"\sum_{n=1}^{10^9} \sqrt{n}",
    "nested series": r"\sum_{a=1}^{400} \sum_{b=1}^{400} \sum_{c=1}^{400} a^b",
    "limit": r"\lim_{n \to \infty} (1+\frac{1}{n})^{n^{n^n}}",
    "integral": r"\int_0^1 e^{e^{e^x}} \sin(\tan(x^{x})) dx",
    "inequality": r"\sin(x^5) + x^{17} - 3 > \cos(e^x)",
    "set": r"\{" + ",".join(rf"\sqrt{{{n}}}" for n in range(190)) + r"\}",
    "code": "__import__('os').system('touch pwned')",
    "attributes": "().__class__.__mro__",
    "logarithms": r"\ln(\ln(999999999999^{9999}+1))",
    "nested sines": r"\sin " * 300 + "x",
    "quotients": "x/" * 900 + "y",
    "degrees": "5" + r"^\circ" * 300,
    "dollars": r"\$" * 900 + "5",
    "long product": "(x+1)" * 390,
    "list": ",".join("abcdefghijklmnopqrstuvwxyz" * 5),
    "matrix": r"\begin{pmatrix}" + r"1&2&3\\" * 60 + r"\end{pmatrix}",
    "determinant": r"\det\begin{pmatrix}"
    + r"\\".join("&".join(f"x^{{{i}}}" for i in range(9)) for _ in range(9))
    + r"\end{pmatrix}",
    "binary": "\x00\xff\ud800\u202e" * 100,
    "zalgo": "5" + "\u0300" * 1_000,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "answer",
    [pytest.param(HOSTILE[name], id=name, marks=[pytest.mark.slow] * (name == "integral")) for name in HOSTILE],
)  # which takes all of its time, twelve times
def test_hostile_answers_are_never_right_and_end(answer):
    for gold in ("1", "x^2+1", "(1,2)", "x>2"):
        assert not verify(gold, answer)
        assert score_answer(gold, answer) == 0.0
        assert not verify(answer, gold)
