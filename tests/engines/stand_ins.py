"""Engines for a child process to make: quick ones with the faults that processes have, and one with a real model."""

import os
import time
from pathlib import Path

import numpy as np

from grpo_agents.engines import Completion, EngineFailure, mix, uniform


class Drawing:
    """Draws tokens from the seeds alone, as long as its version says."""

    context_length = 256
    lockstep = True

    def __init__(self):
        self.version = 0
        self.progress = 0

    def submit(self, requests, sampling, deliver):
        for request in requests:
            places = np.arange(request.max_tokens, dtype=np.uint64)
            noise = uniform(np.full(request.max_tokens, mix(request.seed, self.version), np.uint64), places)
            ids = (noise * 100).astype(int).tolist()
            deliver(Completion(request.session, ids, np.log(noise).tolist(), "length", self.version))

    def release(self, sessions):
        pass

    def score(self, sequences):
        return [np.arange(len(ids), dtype=np.float32) for ids in sequences]

    def update_weights(self, weights, version):
        if "nothing" in weights:
            raise ValueError("there is no weight 'nothing'")
        self.version = version

    def sleep(self):
        self.version = -1

    def wake(self):
        self.version = 0


class Faulty(Drawing):
    """Has a fault at the first requests of each process, as long as its file counts them down.

    Args:
        fault: ``die``, ``stall``, ``fail`` (says that it cannot go on) or ``slow`` (works for long).
        left: A file that holds how often.
    """

    def __init__(self, fault, left):
        super().__init__()
        self.fault = fault
        self.left = Path(left)

    def submit(self, requests, sampling, deliver):
        if (left := int(self.left.read_text())) == 0:
            super().submit(requests, sampling, deliver)
            return
        self.left.write_text(str(left - 1))
        half = len(requests) // 2
        super().submit(requests[:half], sampling, deliver)
        if self.fault == "die":
            print("the last thing it says", flush=True)
            os._exit(7)
        if self.fault == "fail":
            deliver(EngineFailure("no memory left"))
            return
        if self.fault == "stall":
            time.sleep(600)
        for _ in range(8):
            time.sleep(0.25)
            self.progress += 1
        super().submit(requests[half:], sampling, deliver)


class Refusing:
    """Cannot be made."""

    def __init__(self):
        raise ValueError("there is no model nowhere/at-all")


class Dying:
    """Dies while it is made."""

    def __init__(self):
        print("out of memory", flush=True)
        os._exit(3)


class DyingLater(Drawing):
    """Can be made once, and dies with its first request."""

    def __init__(self, once):
        if Path(once).exists():
            os._exit(4)
        Path(once).touch()
        super().__init__()

    def submit(self, requests, sampling, deliver):
        os._exit(5)


class Deaf(Drawing):
    """Does not take new weights in."""

    def update_weights(self, weights, version):
        time.sleep(600)


def tiny(seed=0):
    """A model of two layers, sampled with transformers."""
    from tiny import make_model

    from grpo_agents.engines.transformers import TransformersEngine

    engine = TransformersEngine(make_model(seed=seed), 0)
    engine.progress = 0
    return engine
