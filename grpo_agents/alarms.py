"""What tells a person that learning goes wrong, and stops a run that has gone wrong for too long.

Every alarm is a figure of the steps where it rings, ``alarms/NAME``, and a line: what is wrong, at which step, the
figure and its bound, and what to try.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from grpo_agents.section import Section
from grpo_agents.threads import hanging


class AlarmsConfig(Section):
    """When something is said to go wrong with learning, and when a run stops for it."""

    stop_after: int = Field(
        default=3,
        ge=1,
        description="Stop after so many spoiled steps in a row: something was not finite, π/π_old exploded, or every "
        "episode failed.",
    )
    stop_after_stuck: int = Field(
        default=50,
        ge=0,
        description="Stop after so many steps in a row from which the policy learns nothing more: all groups are tied, "
        "or entropy has collapsed. 0 never stops for it.",
    )
    kl_old: float = Field(
        default=1.0,
        gt=0,
        description="An update is not made where the policy is further from the one that sampled: KL(π_old‖π), k3, "
        "nats a token. For methods that weigh by π/π_old.",
    )
    entropy_share: float = Field(
        default=0.01, ge=0, lt=1, description="Entropy has collapsed below this share of the first step's."
    )
    entropy_floor: float = Field(default=1e-3, ge=0, description="And below so many nats a token.")
    hanging: int = Field(
        default=1000,
        ge=2,
        description="Stop where so many threads hang in steps of environments that were given up; from half as many "
        "on it is said.",
    )
    again: int = Field(default=20, ge=1, description="An alarm that goes on is said again after so many steps.")


@dataclass(frozen=True)
class Alarm:
    """One kind of alarm.

    Attributes:
        meaning: What is wrong, and what becomes of the step.
        remedy: What to try, with keys of a config.
        streak: In which row such a step counts: that of ``stop_after``, of ``stop_after_stuck``, or none.
    """

    meaning: str
    remedy: str
    streak: Literal["spoiled", "stuck"] | None


ALARMS = {
    "non_finite": Alarm(
        "a loss, a gradient or what they are computed from is NaN or infinite: the update is not made",
        'a lower learner.optimizer.lr, model.dtype = "float32"; where one trajectory is named, its rewards and the '
        "engine's log-probabilities",
        "spoiled",
    ),
    "ratio": Alarm(
        "π/π_old exploded, as the policy moved too far on one batch: the update is not made",
        "a lower learner.optimizer.lr, fewer learner.updates, method.dual_clip = 3.0; fresh samples instead of stored "
        "ones (source.kind)",
        "spoiled",
    ),
    "failed": Alarm(
        "every episode of the batch lacks a reward, as environments or judges failed: there is nothing to learn from",
        "`grpo-agents check ENV`, what the environment or the judge asks over the network, a longer "
        "rollout.step_timeout or rollout.episode_timeout",
        "spoiled",
    ),
    "tied": Alarm(
        "in every group (with `reinforce_pp` and `ppo`, in the whole batch) all episodes earned the same or are left "
        "out: rewards say nothing, and no update is made unless something else has a gradient (a KL term, an entropy "
        "bonus, a critic)",
        "tasks that are neither too easy nor too hard (curriculum.sampler, method.resample), a finer rewards.vector, a "
        "larger rollout.group_size",
        "stuck",
    ),
    "entropy": Alarm(
        "entropy has collapsed, so that the policy hardly tries anything new; updates go on, as only they can raise it",
        "an earlier checkpoint with method.entropy_bonus, a larger method.clip_high or method.kl_weight; a lower "
        "learner.optimizer.lr",
        "stuck",
    ),
    "hanging": Alarm(
        "threads hang in steps of environments that were given up at rollout.step_timeout; each keeps its environment "
        "in memory until its step returns",
        "a deadline on whatever the environment waits for (tools' timeout), a longer rollout.step_timeout; a run that "
        "goes on in a new process begins with none",
        None,
    ),
}
"""Every alarm by its name."""


class LearningStopped(RuntimeError):
    """A run stops itself, as learning went wrong for too long."""


class Alarms:
    """Looks at every step of a run.

    Args:
        config: The bounds.
        say: Told what is wrong.
        samples: Whether the policy samples what it learns from: for imitation, low entropy is no fault.

    Attributes:
        over: Why the run has to stop, or nothing.
    """

    def __init__(self, config: AlarmsConfig, say: Callable[[str], None], *, samples: bool):
        self.config = config
        self.say = say
        self.samples = samples
        self.over = ""
        self._rows = {"spoiled": 0, "stuck": 0}
        self._entropy: float | None = None  # of the first step that has one
        self._said: dict[str, int] = {}

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint notes, plain JSON."""
        return {**self._rows, "entropy": self._entropy}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what a checkpoint noted."""
        self._rows = {name: state.get(name, 0) for name in self._rows}
        self._entropy = state.get("entropy")

    def look(self, step: int, figures: Mapping[str, float], *, failed: str, not_finite: str) -> dict[str, float]:
        """Says what is wrong with a step, where something is, and whether that was once too often (:attr:`over`).

        Args:
            step: Which, counted from 0.
            figures: Its figures.
            failed: Why every episode of it lacks a reward, or nothing.
            not_finite: What was not finite, and of which trajectory, or nothing.

        Returns:
            ``alarms/NAME`` = 1 of each alarm, and ``threads/hanging`` where threads do.
        """
        threads = hanging()
        found = dict(self._found(figures, failed, not_finite, threads))
        for name, text in found.items():
            if step - self._said.get(name, -self.config.again) >= self.config.again:
                self._said[name] = step
                self.say(f"step {step + 1}: {text}. Try: {ALARMS[name].remedy}")
        self._count(found, threads)
        return {f"alarms/{name}": 1.0 for name in found} | ({"threads/hanging": float(threads)} if threads else {})

    def _found(
        self, figures: Mapping[str, float], failed: str, not_finite: str, threads: int
    ) -> Iterator[tuple[str, str]]:
        """Each alarm that rings, and in words why."""
        config = self.config
        if count := figures.get("skipped/non_finite"):
            yield "non_finite", f"{not_finite}; {_not_made(count)}"
        if count := figures.get("skipped/ratio"):
            far = f"KL(π_old‖π) is {figures['kl_old']:.3g} nats a token, above {config.kl_old:g} (alarms.kl_old)"
            yield "ratio", f"π/π_old exploded: {far}; {_not_made(count)}"
        if failed:
            yield "failed", f"every episode of the batch lacks a reward, most for this: {failed}"
        elif figures.get("groups_tied", 0.0) >= 1:
            count = figures.get("skipped/no_gradient")
            moved = _not_made(count) if count else "updates follow only what else the loss has"
            yield "tied", f"groups_tied is 1: in every group all episodes earned the same, or are left out; {moved}"
        entropy = figures.get("entropy", math.nan)
        if self.samples and math.isfinite(entropy):
            self._entropy = first = entropy if self._entropy is None else self._entropy
            low = max(config.entropy_share * first, config.entropy_floor)
            if entropy < low:
                bound = f"below {low:.3g} (alarms.entropy_share of the first step's {first:.3g}, alarms.entropy_floor)"
                yield "entropy", f"entropy has collapsed: {entropy:.3g} nats a token, {bound}"
        if threads >= config.hanging / 2:
            stop = f"the run stops at {config.hanging} (alarms.hanging)"
            yield "hanging", f"{threads} threads hang in steps of environments that were given up; {stop}"

    def _count(self, found: Mapping[str, str], threads: int) -> None:
        """Counts steps in a row; a run that goes on after it was stopped for them begins to count anew."""
        streaks = {ALARMS[name].streak for name in found}
        limits = {"spoiled": self.config.stop_after, "stuck": self.config.stop_after_stuck}
        self._rows["spoiled"] = self._rows["spoiled"] + 1 if "spoiled" in streaks else 0
        self._rows["stuck"] = self._rows["stuck"] + 1 if streaks - {None} else 0
        for row, key in (("spoiled", "stop_after"), ("stuck", "stop_after_stuck")):
            if limits[row] and self._rows[row] >= limits[row]:
                why = [text for name, text in found.items() if ALARMS[name].streak in ("spoiled", row)]
                self.over = f"{limits[row]} steps in a row went wrong (alarms.{key}), the last one so: {'; '.join(why)}"
        if threads >= self.config.hanging:
            self.over = found["hanging"]
        if self.over:
            self._rows = dict.fromkeys(self._rows, 0)


def _not_made(count: float) -> str:
    return "its update was not made" if count == 1 else f"{count:.0f} updates were not made"
