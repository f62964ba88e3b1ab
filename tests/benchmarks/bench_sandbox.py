"""What a snippet of Python costs in the sandbox beyond what it computes: from the call to the result, one at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from record import record

from grpo_agents.sandbox import Sandbox

REPEATS, COLD_REPEATS = 100, 5
SNIPPET = "print(sum(range(10)))"


def main() -> None:
    """Measures a cold start, fresh interpreters and sessions, with and without preloaded modules."""
    rows = []
    for preload in ((), ("numpy", "sympy")):
        sandbox = Sandbox(preload=preload)

        def cold(sandbox: Sandbox = sandbox) -> None:
            sandbox.close()
            assert sandbox.run(SNIPPET).stdout == "45\n"

        def fresh(sandbox: Sandbox = sandbox) -> None:
            assert sandbox.run(SNIPPET).stdout == "45\n"

        def first(sandbox: Sandbox = sandbox) -> None:
            assert sandbox.session().run(SNIPPET).stdout == "45\n"

        session = sandbox.session()

        def kept() -> None:
            assert session.run(SNIPPET).stdout == "45\n"  # noqa: B023  called before the next loop

        for name, job, repeats in (
            ("first snippet of a sandbox", cold, COLD_REPEATS),
            ("fresh interpreter", fresh, REPEATS),
            ("first snippet of a session", first, REPEATS),
            ("later snippet of a session", kept, REPEATS),
        ):
            median, worst = measure(job, repeats)
            row = {"measured": name, "preloaded": ", ".join(preload) or "nothing", "ms": median, "ms, slowest": worst}
            rows.append(row)
        sandbox.close()
    record("sandbox", "Snippets of Python in the sandbox, one at a time", rows, ["sympy"])


def measure(job: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median and greatest milliseconds of a job, after a warm-up."""
    job()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        job()
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken), max(taken)


if __name__ == "__main__":
    main()
