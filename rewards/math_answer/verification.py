"""Two answers in, a verdict out.

Nearly everything is decided here, in bounded work; what only sympy can decide goes to a worker process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

from grpo_agents.rewards.math_answer.atoms import decimal
from grpo_agents.rewards.math_answer.comparison import Comparison, Finding, Prover
from grpo_agents.rewards.math_answer.exact import exact
from grpo_agents.rewards.math_answer.expression import Expr, Unreadable
from grpo_agents.rewards.math_answer.extraction import LENIENT, adjacent_boxes, boxed, extract
from grpo_agents.rewards.math_answer.grammar import MAX_LENGTH, read, words_of
from grpo_agents.rewards.math_answer.meaning import meant
from grpo_agents.rewards.math_answer.spelling import clean, comma_readings
from grpo_agents.rewards.math_answer.verdict import COMMON, Conventions, Status, Verdict
from grpo_agents.workers import WorkerDied, WorkerError, WorkerFailure, WorkerPool, WorkerTimeout

MAX_TEXT = 1_000_000
"""Characters of what an answer is looked for in."""

PROOF_SECONDS = 0.4
"""Processor time that sympy may take for one pair, so that no verdict depends on what else a machine does."""

PROOF_PATIENCE = 4.0
"""Seconds after which one is given up that does not even get that."""

PROOF_BYTES = 96 << 20
"""Memory that it may take beyond what it starts with."""

CHUNK = 512
"""Pairs that one process is handed at once."""

MIN_SHARED = 20_000
"""Pairs from which they are shared out among processes; fewer are judged sooner than these have started."""

CHUNK_SECONDS = 120.0
"""What a process may take for them."""

_PLAIN = re.compile(r"-?\d{1,300}(?:\.\d{1,300})?")


class VerifierError(RuntimeError):
    """The process that was to decide failed, so the answer was not judged."""


def verify(gold: str, answer: str, conventions: Conventions = COMMON) -> Verdict:
    r"""Compares an answer with the gold answer.

    Safe to call from any thread; in an event loop use ``asyncio.to_thread``, since it may take up to a second.

    Args:
        gold: The right answer: bare, in ``$…$`` or in a ``\boxed{}``.
        answer: The answer to judge, likewise.
        conventions: What counts as the same.

    Raises:
        ValueError: One of them is no text.
        VerifierError: The process that was to decide failed.
    """
    _check(gold, answer)
    return _judged(gold, answer, conventions, _prove)


def verify_all(pairs: Sequence[tuple[str, str]], conventions: Conventions = COMMON) -> list[Verdict]:
    """Compares many answers, on all cores.

    Args:
        pairs: Gold answers and the answers to judge.
        conventions: What counts as the same.

    Returns:
        A verdict for each pair, in their order.

    Raises:
        ValueError: One of them is no text.
        VerifierError: A process that was to decide failed.
    """
    for pair in pairs:
        _check(*pair)
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as threads:
        if len(pairs) < MIN_SHARED or workers == 1:
            found = judge_chunk({"pairs": pairs, "conventions": asdict(conventions)})
        else:
            found = _share_out(pairs, conventions, workers, threads)
        hard = [pair for pair, fields in zip(pairs, found, strict=True) if not fields]
        proved = threads.map(lambda pair: verify(pair[0], pair[1], conventions), hard)
        return [Verdict(*fields) if fields else next(proved) for fields in found]


def _share_out(
    pairs: Sequence[tuple[str, str]], conventions: Conventions, workers: int, threads: ThreadPoolExecutor
) -> list[list[Any] | None]:
    """What :func:`judge_chunk` says of all pairs, by as many processes."""
    chunks = [pairs[at : at + CHUNK] for at in range(0, len(pairs), CHUNK)]
    pool = WorkerPool(f"{__name__}:judge_chunk", workers=workers, memory=1 << 30, reply_bytes=1 << 28)

    def judge(chunk: Sequence[tuple[str, str]]) -> list[list[Any] | None]:
        try:
            return pool.call({"pairs": list(map(list, chunk)), "conventions": asdict(conventions)}, CHUNK_SECONDS)
        except WorkerFailure as error:
            raise VerifierError(f"a process that judged {len(chunk)} pairs failed: {error}") from error

    try:
        return [fields for found in threads.map(judge, chunks) for fields in found]
    finally:
        pool.close()


def judge_chunk(request: dict[str, Any]) -> list[list[Any] | None]:
    """A part of :func:`verify_all`, in a worker of its: the verdicts' fields, or None for a pair that takes sympy."""

    def refuse(*_: Expr) -> bool | None:
        raise _TakesProof

    conventions = Conventions(**request["conventions"])
    verdicts: list[list[Any] | None] = []
    for gold, answer in request["pairs"]:
        try:
            verdicts.append(list(astuple(_judged(gold, answer, conventions, refuse))))
        except _TakesProof:
            verdicts.append(None)
    return verdicts


def _check(gold: str, answer: str) -> None:
    for which, text in (("gold", gold), ("answer", answer)):
        if not isinstance(text, str):
            raise ValueError(f"{which} must be a str, not {type(text).__name__}: {text!r:.80}")


class _TakesProof(Exception):
    """Arithmetic does not decide this pair."""


@cache
def _pool() -> WorkerPool:
    return WorkerPool(
        "grpo_agents.rewards.math_answer.symbolic:decide",
        workers=8,
        memory=PROOF_BYTES,
        cpu=PROOF_SECONDS,
        preload=("sympy",),
    )


def _prove(left: Expr, right: Expr) -> bool | None:
    """Asks sympy, in a process of its own."""
    request = {"left": _plain(left), "right": _plain(right)}
    for attempt in (1, 2):
        try:
            return _pool().call(request, PROOF_PATIENCE)
        except (WorkerTimeout, WorkerError):  # it takes too long or too much, or is beyond sympy
            break
        except WorkerDied as error:  # killed from outside, perhaps
            if attempt == 2:
                raise VerifierError(f"the process that compares two answers failed twice: {error}") from error
    return None


def _plain(tree: Any) -> Any:
    """A tree as JSON."""
    if isinstance(tree, Expr):
        return [tree.head, *map(_plain, tree.args)]
    if type(tree) is tuple:
        return [_plain(part) for part in tree]
    return tree if tree is None or isinstance(tree, str | int) else str(tree)


class _Understood(NamedTuple):
    """What a text says, in each way that its commas can be read; or why it cannot be read."""

    readings: tuple[Expr, ...]
    text: str
    problem: str = ""


def _judged(gold: str, answer: str, conventions: Conventions, prove: Prover) -> Verdict:
    if gold == answer and _PLAIN.fullmatch(gold):
        return Verdict("equal", "text", gold, answer)
    comparison = Comparison(conventions, prove)
    if _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(answer):  # most of all, and in a fraction of the time
        left, right = decimal(gold), decimal(answer)
        return _spoken(comparison.scalars(left, right), left, right)
    wanted, given = _understood(gold, conventions), _understood(answer, conventions)
    if wanted.text and wanted.text == given.text:
        return Verdict("equal", "text", wanted.text, given.text)
    for side, understood in (("gold", wanted), ("answer", given)):
        if understood.problem:
            if wanted.text and words_of(wanted.text) == words_of(given.text):
                return Verdict("equal", "text", wanted.text, given.text)
            return Verdict("unparsed", side, problem=understood.problem)
    findings: list[Finding] = []
    for left, right in product(wanted.readings, given.readings):
        try:
            finding = comparison.answers(left, right)
        except Unreadable as error:
            return Verdict("unparsed", "answer", problem=str(error))
        if finding.same:
            return _spoken(finding, left, right)
        findings.append(finding)
    undecided = next((finding for finding in findings if finding.same is None), None)
    return _spoken(undecided or findings[-1], wanted.readings[-1], given.readings[-1])


def _spoken(finding: Finding, left: Expr, right: Expr) -> Verdict:
    status: Status = "undecided" if finding.same is None else "equal" if finding.same else "different"
    return Verdict(status, finding.rule, _normal(left), _normal(right))


def _normal(answer: Expr) -> str:
    """An answer as it was understood; a number by its value."""
    value = meant(answer).value
    rational = exact(value)
    return str(value) if rational is None else str(rational)


@lru_cache(maxsize=4096)
def _understood(text: str, conventions: Conventions) -> _Understood:
    if len(text) > MAX_TEXT:
        return _Understood((), "", f"has {len(text):,} characters; {MAX_TEXT:,} are allowed")
    if "box" in text:
        boxes = adjacent_boxes(text) if conventions.boxes == "adjacent" else boxed(text)
        if conventions.boxes == "refuse" and len(boxes) > 1:
            return _Understood((), "", f"has {len(boxes)} boxes")
        if boxes:
            text = ", ".join(boxes) if conventions.boxes == "adjacent" else boxes[-1]
    found = _read(text)
    if conventions.prose and (found.problem or found.readings[-1].head == "text"):
        inside = extract(text, modes=LENIENT)
        return found if inside is None else _read(inside)
    return found


def _read(text: str) -> _Understood:
    if len(text) > 5 * MAX_LENGTH:  # what cleaning takes away is less
        return _Understood((), text.strip(), f"has {len(text):,} characters; {MAX_LENGTH:,} are allowed")
    cleaned = clean(text)
    problem = ""
    readings = []
    for reading in comma_readings(cleaned):
        try:
            found = read(reading)
            for member in found.args if found.head == "list" else (found,):
                meant(member)  # a false chain is no answer
            readings.append(found)
        except Unreadable as error:
            problem = str(error)
    return _Understood(tuple(readings), cleaned, "" if readings else problem)
