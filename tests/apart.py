"""Engines with weights of their own, as in another process; and some that are broken."""

import copy
from dataclasses import replace

from grpo_agents import trainer
from grpo_agents.build import build
from grpo_agents.engines.transformers import TransformersEngine
from grpo_agents.engines.weights import Weights


class Frozen(TransformersEngine):
    """Takes no weights, and says that it did."""

    def update_weights(self, weights):
        super().update_weights(Weights({}, weights.version))


class Behind(TransformersEngine):
    """Says of everything that the version before sampled it."""

    def submit(self, requests, sampling, deliver):
        super().submit(requests, sampling, lambda completion: deliver(replace(completion, version=self.version - 1)))


class Hotter(TransformersEngine):
    """Divides by twice the temperature."""

    def submit(self, requests, sampling, deliver):
        super().submit(requests, replace(sampling, temperature=2 * sampling.temperature), deliver)


class Raw(TransformersEngine):
    """Returns log-probabilities from before the temperature, as vLLM does where it is not told otherwise."""

    def submit(self, requests, sampling, deliver):
        prompts = {request.session: list(request.ids) for request in requests}

        def raw(completion):
            (scored,) = self.score([prompts[completion.session] + completion.ids])
            deliver(replace(completion, logprobs=scored[-completion.tokens :].tolist()))

        super().submit(requests, sampling, raw)


class Silent(TransformersEngine):
    """Delivers all but the last completion."""

    def submit(self, requests, sampling, deliver):
        super().submit(requests[:-1], sampling, deliver)


def engine_apart(parts, kind=TransformersEngine):
    """An engine on a copy of the model."""
    return kind(copy.deepcopy(parts.model), parts.chat.pad_id, decode=parts.chat.tokenizer.decode)


def sample_apart(monkeypatch, kind=TransformersEngine):
    """Gives every run from now on an engine of that kind on a copy of its model; returns them, as they are made."""
    engines = []

    def build_apart(config, **options):
        engine = config.engine.model_copy(update={"backend": "transformers"})
        parts = build(config.model_copy(update={"engine": engine}), **options)
        engines.append(engine_apart(parts, kind))
        return replace(parts, engine=engines[-1])

    monkeypatch.setattr(trainer, "build", build_apart)
    return engines
