"""Whether the engine samples from the policy that is trained.

An engine whose weights never arrived, or which divides by another temperature, samples fluent text and spoils every
gradient. So now and then it samples a few tokens, and the learner computes their log-probabilities.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from grpo_agents.chat import Chat
from grpo_agents.engines import Completion, EngineFailure, Request, Sampling, TokenEngine, mix
from grpo_agents.engines.settings import CheckConfig
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.trajectory import Sample, Trajectory

if TYPE_CHECKING:
    from grpo_agents.cluster.learner import RemoteLearner

QUESTIONS = (
    "What is 17 + 25?",
    "Write one sentence about the sea.",
    "Name a prime number above 100, and say why it is one.",
    "Which of these is a fruit: a stone, a pear, a chair?",
)
"""What the engine is asked; the texts are of no importance."""

TOKENS = 16
"""How many tokens it may say to each."""

MOVED = 1e-3
"""From this difference on, the learner's log-probabilities of the same tokens have changed by more than rounding."""


@dataclass
class _Probe:
    """What was found: tokens (tokens,), and their log-probabilities by engine and learner, (tokens,) each."""

    version: int
    ids: np.ndarray
    engine: np.ndarray
    learner: np.ndarray


class SyncCheck:
    """Probes an engine, which samples nothing else meanwhile, with the same seeds every time.

    Args:
        engine: To be probed.
        learner: Knows the policy, and the temperature.
        chat: Writes the prompts.
        config: How far log-probabilities may differ.
        requests: How many prompts to ask for, if more than there are questions: one a worker of a cluster.
        seconds: The engine's deadline.
        seed: The run's.
    """

    def __init__(
        self,
        engine: TokenEngine,
        learner: Learner | RemoteLearner,
        chat: Chat,
        config: CheckConfig,
        *,
        requests: int = 0,
        seconds: float,
        seed: int,
    ):
        self.engine = engine
        self.learner = learner
        self.tolerance = config.largest_difference(learner.dtype)
        self.mean_tolerance = config.mismatch
        self.seconds = seconds
        asked = list(islice(cycle(QUESTIONS), max(len(QUESTIONS), requests)))
        self._prompts = [chat.start([{"role": "user", "content": text}]).ids for text in asked]
        self._seeds = [mix(seed, 6, number) for number in range(len(asked))]
        self._sampling = Sampling(learner.temperature, stop_ids=chat.stop_ids)
        self._last: _Probe | None = None

    def probe(self, version: int) -> dict[str, float]:
        """Samples, and compares.

        Args:
            version: Of the weights that the engine was given last, and the learner has now.

        Returns:
            ``sync/max_difference`` and ``sync/mean_difference`` between log-probabilities of engine and learner.

        Raises:
            ValueError: The engine samples from another policy; says what shows it, the likely causes and what to do.
            EngineFailure: It cannot go on, or delivers nothing.
        """
        completions = self._sample()
        for completion in completions:
            if completion.version != version:
                self._refuse(
                    f"version {version} of the weights was handed to it, and it samples with version "
                    f"{completion.version}"
                )
        found = self._compare(completions, version)
        last = self._last
        if last is not None and np.array_equal(last.ids, found.ids) and np.array_equal(last.engine, found.engine):
            moved = float(np.abs(found.learner - last.learner).max())
            if moved > MOVED:
                self._refuse(
                    f"its log-probabilities are bit for bit those of version {last.version}, while the learner's moved "
                    f"by up to {moved:.3g}: the weights of version {version} did not arrive"
                )
        differences = np.abs(found.learner - found.engine)  # (tokens,)
        largest, mean = float(differences.max()), float(differences.mean())
        if not (largest <= self.tolerance and mean <= self.mean_tolerance):
            self._refuse(
                f"log-probabilities of {len(differences)} tokens that it sampled with version {version} of the weights "
                f"differ from the learner's by up to {largest:.3g} and by {mean:.3g} on average, and at most "
                f"{self.tolerance:g} (engine.check.tolerance) and {self.mean_tolerance:g} (engine.check.mismatch) pass"
            )
        self._last = found
        return {"sync/max_difference": largest, "sync/mean_difference": mean}

    def _sample(self) -> list[Completion]:
        """What the engine says to each prompt."""
        inbox: queue.SimpleQueue[Completion | EngineFailure] = queue.SimpleQueue()
        requests = [
            Request(session, prompt.tolist(), seed, TOKENS)
            for session, (prompt, seed) in enumerate(zip(self._prompts, self._seeds, strict=True))
        ]
        deadline = time.monotonic() + self.seconds
        done: dict[int, Completion] = {}
        self.engine.submit(requests, self._sampling, inbox.put)
        try:
            while len(done) < len(requests):
                event = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
                if isinstance(event, EngineFailure):
                    raise event
                done[event.session] = event
        except queue.Empty:
            raise EngineFailure(
                f"the engine delivered {len(done)} of the {len(requests)} completions of a probe in {self.seconds:g} s "
                "(rollout.episode_timeout). Look at its log; then go on with `grpo-agents train --resume RUN`"
            ) from None
        finally:
            self.engine.release(range(len(requests)))
        return [done[session] for session in range(len(requests))]

    def _compare(self, completions: Sequence[Completion], version: int) -> _Probe:
        batch = make_batch(
            [_as_trajectory(prompt, completion) for prompt, completion in zip(self._prompts, completions, strict=True)]
        )
        scored = list(self.learner.score(batch.rows))
        return _Probe(
            version,
            np.concatenate([row.ids[row.trained] for row, _ in scored]),
            np.concatenate([row.sampler for row, _ in scored]),
            np.concatenate([values for _, values in scored]),
        )

    def _refuse(self, finding: str) -> None:
        affected = ""
        if self._last is not None:
            affected = f" (up to step {self._last.version}, where a probe was good; later ones may be spoiled)"
        raise ValueError(
            f"the engine does not sample from the policy that is trained: {finding}.\n"
            "Likely causes: weights that did not arrive; a server with another model; an engine that divides by "
            f"another temperature than {self.learner.temperature:g}, cuts the distribution, or returns "
            "log-probabilities from before the temperature (vLLM: logprobs_mode 'processed_logprobs'); another dtype "
            f"than {self.learner.dtype}, which wants another tolerance.\n"
            f"Checkpoints are intact{affected}: mend it, then go on with `grpo-agents train --resume RUN`"
        )


def _as_trajectory(prompt: np.ndarray, completion: Completion) -> Trajectory:
    """A completion as the learner takes what is sampled."""
    ids = np.concatenate([prompt, np.array(completion.ids, np.int32)])
    logprobs = np.concatenate([np.zeros(len(prompt), np.float32), np.array(completion.logprobs, np.float32)])
    return Trajectory(samples=[Sample(ids, np.arange(len(ids)) >= len(prompt), logprobs)], advantage=0.0)
