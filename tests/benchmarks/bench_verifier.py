"""How often the math verifier is right and how long it takes, beside math-verify (the extra ``bench``) in the same run.

Without a folder of data it judges cases that it makes itself: answers of known value in many spellings, and inputs
that want to hang whoever reads them. With one (``make bench-verifier DATA=folder``) also the files in there:
``math_cases.jsonl`` and ``math_cases_auto.jsonl.gz`` (gold, answer, equal), ``math_hostile.jsonl`` (gold, answer,
expect) and ``gsm8k_test.jsonl`` (answer, final). ``math_cases.toml`` says under which conventions rows are judged.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import logging
import statistics
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from record import record
from rich.progress import track

from grpo_agents.rewards.math_answer import COMMON, LENIENT, Conventions, extract, verify, verify_all
from grpo_agents.rewards.math_answer.verification import _understood

LIMIT = 1.0
"""Seconds that a hostile input may take."""


@dataclass(frozen=True)
class Case:
    """Two answers and whether they are equal (None where either verdict will do)."""

    gold: str
    answer: str
    equal: bool | None
    conventions: Conventions = COMMON
    response: bool = False


def made_cases(count: int = 2_000) -> list[Case]:
    """Rational numbers in two spellings each, and others that differ from them."""
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(count):
        above, below = int(rng.integers(-200, 200)), int(rng.choice([1, 1, 2, 4, 5, 8, 25]))
        value = Fraction(above, below)
        spellings = [
            f"{value}",
            rf"\frac{{{above}}}{{{below}}}",
            f"{float(value)}",
            f"x = {value}",
            rf"\boxed{{{value}}}",
        ]
        spellings += [
            rf"{value} \text{{ cm}}",
            rf"\sqrt{{{value**2}}}" if value > 0 else f"-({-value})",
            f"{value} + 0",
        ]
        first, second = rng.choice(len(spellings), 2)
        equal = bool(rng.integers(2))
        other = spellings[second] if equal else f"{value + Fraction(1, int(rng.integers(1, 9)))}"
        cases.append(Case(spellings[first], other, equal))
    return cases


def made_hostile() -> list[Case]:
    """What has hung verifiers: towers, factorials, nesting, lengths."""
    answers = [
        "9^{9^{9^{9}}}", "((9!)!)!", r"\binom{10^9}{10^8}", r"\sum_{k=1}^{10^{9}} k", "(x+y+z)^{500}",
        r"\lim_{n\to\infty} (1+1/n)^{n^{n^n}}", r"\int_0^1 \sin(x^x)^{x^x} dx",
        "(" * 5_000 + "1" + ")" * 5_000, r"\sqrt{" * 300 + "2" + "}" * 300, "9" * 100_000, "$" * 20_000,
        "1,2," * 20_000, "{" * 9_000, r"\frac" * 5_000, "x" * 200_000, "1^" * 3_000 + "1",
    ]  # fmt: skip
    return [Case("1", answer, False) for answer in answers]


def read_cases(folder: Path) -> dict[str, list[Case]]:
    """The files of a folder that are there, by name."""
    found: dict[str, list[Case]] = {}
    judged = tomllib.loads(Path(__file__).with_name("math_cases.toml").read_text(encoding="utf-8"))
    if (path := folder / "math_cases.jsonl").exists():
        found["math_cases"] = [
            Case(
                str(row["gold"]),
                row["answer"],
                row["equal"],
                _conventions(judged, row["source"]),
                row["kind"] == "response",
            )
            for number, row in enumerate(_rows(path))
            if str(number) not in judged["left_out"]
        ]
    if (path := folder / "math_cases_auto.jsonl.gz").exists():
        found["math_cases_auto"] = [Case(row["gold"], row["answer"], row["equal"]) for row in _rows(path)]
    if (path := folder / "gsm8k_test.jsonl").exists():
        found["gsm8k"] = [Case(str(row["final"]), extract(row["answer"], "####") or "", True) for row in _rows(path)]
    if (path := folder / "math_hostile.jsonl").exists():
        expected = {"True": True, "False": False}
        found["hostile"] = [Case(row["gold"], row["answer"], expected.get(row["expect"])) for row in _rows(path)]
    return found


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return (json.loads(line) for line in text.decode().splitlines())


def _conventions(judged: dict[str, Any], source: str) -> Conventions:
    prefixes = [prefix for prefix in judged["conventions"] if source.startswith(prefix)]
    return Conventions(**judged["conventions"][max(prefixes, key=len)]) if prefixes else COMMON


def ours(case: Case) -> bool:
    """This project's verdict; a response goes through the lenient extraction first."""
    answer: str | None = case.answer
    if case.response and not (case.conventions.boxes == "adjacent" and "boxed" in case.answer):
        answer = extract(case.answer, "####", modes=LENIENT)
    return bool(verify(case.gold, answer or "", case.conventions))


def math_verify(case: Case) -> bool:
    """Its verdict, with its own extraction and time limits; bare answers stand in dollars, as it wants LaTeX."""
    from math_verify import parse
    from math_verify import verify as compare

    texts = [case.gold, case.answer]
    if not case.response and not case.conventions.prose:
        texts = [text if "$" in text or "boxed" in text else f"${text}$" for text in texts]
    gold, answer = map(parse, texts)
    return bool(compare(gold, answer, float_rounding=case.conventions.digits, allow_set_relation_comp=True))


def judge(name: str, verifier: str, cases: list[Case], function: Callable[[Case], bool]) -> dict[str, Any]:
    """One row of the table."""
    seconds, wrong, false_positives = [], 0, 0
    for case in track(cases, f"{verifier}: {name}", transient=True):
        started = time.perf_counter()
        try:
            found = function(case)
        except Exception:  # it is a verdict on the verifier, and counted as a wrong one
            found = None
        seconds.append(time.perf_counter() - started)
        if case.equal is not None and found is not case.equal:
            wrong += 1
            false_positives += found is True
    return _row(name, verifier, seconds, wrong, false_positives)


def _row(name: str, verifier: str, seconds: list[float], wrong: int, false_positives: int) -> dict[str, Any]:
    return {
        "cases": name,
        "verifier": verifier,
        "count": len(seconds),
        "right %": 100 * (1 - wrong / len(seconds)),
        "wrongly equal": false_positives,
        "mean µs": statistics.fmean(seconds) * 1e6,
        "median µs": statistics.median(seconds) * 1e6,
        "99 % ms": float(np.quantile(seconds, 0.99)) * 1e3,
        "longest s": max(seconds),
        "over 1 s": sum(taken > LIMIT for taken in seconds),
    }


def from_threads(cases: list[Case]) -> dict[str, Any]:
    """All hostile inputs from eight threads at once."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(_timed, [case for case in cases for _ in range(8)]))
    return _several("hostile, 8 threads", found)


def from_asyncio(cases: list[Case]) -> dict[str, Any]:
    """All hostile inputs from an event loop."""

    async def run() -> list[tuple[float, bool]]:
        gate = asyncio.Semaphore(8)

        async def one(case: Case) -> tuple[float, bool]:
            async with gate:
                return await asyncio.to_thread(_timed, case)

        return await asyncio.gather(*map(one, cases))

    return _several("hostile, asyncio", asyncio.run(run()))


def _timed(case: Case) -> tuple[float, bool]:
    started = time.perf_counter()
    found = ours(case)
    return time.perf_counter() - started, case.equal in (None, found)


def _several(name: str, found: list[tuple[float, bool]]) -> dict[str, Any]:
    wrong = sum(not right for _, right in found)
    return _row(name, "grpo-agents", [seconds for seconds, _ in found], wrong, 0)


def in_batch(cases: list[Case]) -> list[dict[str, Any]]:
    """Many cases one by one and then at once, on all cores; seconds are those of the whole, shared out."""
    pairs = [(case.gold, case.answer) for case in cases]
    rows = []
    for name, job in (
        ("one by one", lambda: [verify(*pair) for pair in pairs]),
        ("in a batch", lambda: verify_all(pairs)),
    ):
        _understood.cache_clear()
        started = time.perf_counter()
        verdicts = job()
        seconds = (time.perf_counter() - started) / len(cases)
        wrong = sum(bool(verdict) is not case.equal for verdict, case in zip(verdicts, cases, strict=True))
        positives = sum(bool(verdict) and not case.equal for verdict, case in zip(verdicts, cases, strict=True))
        rows.append(_row(f"made here, {name}", "grpo-agents", [seconds] * len(cases), wrong, positives))
    return rows


class Memory(threading.Thread):
    """The largest proportional set size of this process and its descendants, in bytes (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, _family_size())

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.most


def _family_size() -> int:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family, grown = {Path("/proc/self").resolve().name}, True
    while grown:
        children = {str(pid) for pid, parent in parents.items() if str(parent) in family} - family
        family |= children
        grown = bool(children)
    total = 0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with files of cases")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # math-verify logs each of its timeouts
    cases = {"made here": made_cases(), "hostile, made here": made_hostile()}
    if arguments.data:
        cases |= read_cases(arguments.data)
    rows = []
    hostile = [case for name, found in cases.items() if name.startswith("hostile") for case in found]
    plain = [case for found in cases.values() for case in found if _is_plain(case)]
    memory = Memory()
    memory.start()
    rows += [from_threads(hostile), from_asyncio(hostile)]
    most = memory.stop()
    packages = ["sympy"]
    verifiers: dict[str, Callable[[Case], bool]] = {"grpo-agents": ours}
    if find_spec("math_verify"):
        verifiers["math-verify"] = math_verify
        packages.append("math-verify")
    else:
        print("math-verify is not installed (pip install 'grpo-agents[bench]'): measured alone")
    for name, found in {"plain numbers": plain, **cases}.items():
        for verifier, function in verifiers.items():
            _understood.cache_clear()
            rows.append(judge(name, verifier, found, function))
    rows += in_batch(made_cases(40_000))
    record("verifier", f"Math verifier; family of processes at most {most / 2**20:.0f} MiB", rows, packages)


def _is_plain(case: Case) -> bool:
    return all(text.lstrip("-").replace(".", "", 1).isdigit() and len(text) < 20 for text in (case.gold, case.answer))


if __name__ == "__main__":
    main()
