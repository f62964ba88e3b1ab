"""Sampling with a transformers model in this process: many episodes in one batch, their KV cache kept between turns.

Works in lockstep: :meth:`TransformersEngine.submit` finishes every request handed over. Episodes that started
together form a *block* with one cache. A prompt that several of them share is computed once; what the environment
said between two turns is fed as it is; only new tokens are ever computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from grpo_agents.engines import Completion, Deliver, Request, Sampling, check_requests, uniform
from grpo_agents.engines.weights import Weights
from grpo_agents.support import Support


@dataclass
class _Block:
    """Episodes that share a cache.

    Attributes:
        sessions: Which episode each row is.
        known: The ids in the cache, by row.
        cache: Keys and values of every slot, (rows, heads, slots, size) a layer.
        real: Which slots hold a token of the row, (rows, slots).
    """

    sessions: list[int]
    known: list[list[int]]
    cache: DynamicCache
    real: torch.Tensor
    released: set[int] = field(default_factory=set)


class TransformersEngine:
    """Samples with a transformers causal language model.

    Args:
        model: The model; it may be the learner's own, which then needs no copy at a weight update.
        pad_id: Fills unused slots.
        decode: Ids to text, where stop texts are used.
        max_rows: How many episodes at most are computed together; more wait for their turn.
        computing: Gives the context of every forward pass (autocast).

    Raises:
        ValueError: A model with sliding-window attention shorter than its context: cached slots would not be its
            positions.
    """

    lockstep = True

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int,
        decode: Callable[[Sequence[int]], str] | None = None,
        max_rows: int = 512,
        computing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        config = model.config.get_text_config()
        self.context_length = int(getattr(config, "max_position_embeddings", 1 << 20))
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        if window and window < self.context_length:
            raise ValueError(
                f"{type(model).__name__} attends through a window of {window} tokens, which the transformers engine "
                "does not keep track of. Use a model with full attention."
            )
        self.model = model
        self.pad_id = pad_id
        self.decode = decode
        self.max_rows = max_rows
        self.computing = computing
        self.version = 0
        self._blocks: list[_Block] = []

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @torch.no_grad()
    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Finishes every request.

        Raises:
            ValueError: See :func:`~grpo_agents.engines.check_requests`.
        """
        check_requests(requests, self.context_length, ())
        was_training = self.model.training
        self.model.eval()
        with self.computing():
            for block, mine in self._assign({request.session: request for request in requests}):
                for completion in self._sample(block, mine, sampling):
                    deliver(completion)
        self.model.train(was_training)

    def release(self, sessions: Iterable[int]) -> None:
        """Forgets episodes that have ended; their rows leave the cache with the next turn."""
        sessions = set(sessions)
        for block in self._blocks:
            block.released |= sessions.intersection(block.sessions)
        self._blocks = [block for block in self._blocks if len(block.released) < len(block.sessions)]

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probability of every token of each sequence given those before it, shape (tokens,); 0 for the first."""
        scored = []
        was_training = self.model.training
        self.model.eval()
        for ids in sequences:
            tokens = torch.tensor([list(ids)], device=self.device)
            with self.computing():
                logits = self.model(input_ids=tokens, use_cache=False).logits
            logits = logits[0, :-1].float()  # (tokens-1, V)
            picked = torch.log_softmax(logits, -1).gather(-1, tokens[0, 1:, None])[:, 0]
            scored.append(np.concatenate([[0.0], picked.cpu().numpy()]).astype(np.float32))
        self.model.train(was_training)
        return scored

    def update_weights(self, weights: Weights) -> None:
        """Takes over named tensors; a tensor that is the model's own already costs nothing.

        Raises:
            ValueError: A name that the model does not have.
        """
        own = dict(self.model.named_parameters())
        with torch.no_grad(), weights.reading() as (named, version):
            for name, tensor in named.items():
                if name not in own:
                    raise ValueError(
                        f"the engine's model has no weight {name!r}: learner and engine hold different models"
                    )
                if own[name].data_ptr() != tensor.data_ptr():
                    own[name].copy_(tensor)
        self._blocks.clear()
        self.version = version

    def sleep(self) -> None:
        """Drops the caches; the weights are few or the learner's own."""
        self._blocks.clear()

    def wake(self) -> None:
        """Nothing to undo."""

    def close(self) -> None:
        """Started nothing."""

    # One block at a time

    def _assign(self, requests: dict[int, Request]) -> list[tuple[_Block | None, list[Request]]]:
        """Sorts requests to the blocks that hold their sessions; new ones form blocks of at most ``max_rows``."""
        assigned: list[tuple[_Block | None, list[Request]]] = []
        for block in self._blocks:
            mine = []
            for session, known in zip(block.sessions, block.known, strict=True):
                request = requests.get(session)
                if request is None or session in block.released:
                    continue
                if list(request.ids[: len(known)]) == known and len(request.ids) > len(known):
                    mine.append(requests.pop(session))
                else:  # its history was rewritten: it starts anew
                    block.released.add(session)
            if mine:
                assigned.append((block, mine))
        self._blocks = [block for block in self._blocks if len(block.released) < len(block.sessions)]
        new = list(requests.values())
        assigned += [(None, new[start : start + self.max_rows]) for start in range(0, len(new), self.max_rows)]
        return assigned

    def _sample(self, block: _Block | None, requests: list[Request], sampling: Sampling) -> list[Completion]:
        if block is None:
            block, logits = self._begin(requests)
        else:
            self._drop_released(block)
            by_session = {request.session: request for request in requests}
            fed = [
                by_session[session].ids[len(known) :] if session in by_session else []
                for session, known in zip(block.sessions, block.known, strict=True)
            ]
            logits = self._feed(block, fed)
        return self._decode(block, requests, logits, sampling)

    def _begin(self, requests: list[Request]) -> tuple[_Block, torch.Tensor]:
        """Computes each distinct prompt once and gives every episode its copy; returns logits (rows, V) as well."""
        prompts: dict[tuple[int, ...], int] = {}
        which = [prompts.setdefault(tuple(request.ids), len(prompts)) for request in requests]
        rows = list(prompts)
        empty = torch.zeros((len(rows), 0), dtype=torch.bool, device=self.device)
        block = _Block(list(range(len(rows))), [[] for _ in rows], DynamicCache(), empty)
        logits = self._feed(block, rows)
        if len(rows) < len(requests):
            index = torch.tensor(which, device=self.device)
            block.cache.batch_select_indices(index)
            block.real, logits = block.real[index], logits[index]
        block.sessions = [request.session for request in requests]
        block.known = [list(request.ids) for request in requests]
        self._blocks.append(block)
        return block, logits

    def _drop_released(self, block: _Block) -> None:
        keep = [row for row, session in enumerate(block.sessions) if session not in block.released]
        if len(keep) < len(block.sessions):
            index = torch.tensor(keep, device=self.device)
            block.cache.batch_select_indices(index)
            block.real = block.real[index]
            block.sessions = [block.sessions[row] for row in keep]
            block.known = [block.known[row] for row in keep]
            block.released.clear()

    def _feed(self, block: _Block, fed: Sequence[Sequence[int]]) -> torch.Tensor:
        """Computes new tokens of each row, right-aligned in new slots; gives the logits at the last slot, (rows, V)."""
        width = max(len(ids) for ids in fed)
        tokens = np.full((len(fed), width), self.pad_id, np.int64)
        fresh = np.zeros((len(fed), width), bool)
        for row, ids in enumerate(fed):
            if len(ids):
                tokens[row, width - len(ids) :] = ids
                fresh[row, width - len(ids) :] = True
        block.known = [known + list(ids) for known, ids in zip(block.known, fed, strict=True)]
        return self._forward(block, torch.from_numpy(tokens).to(self.device), torch.from_numpy(fresh).to(self.device))

    def _forward(self, block: _Block, tokens: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        """One forward pass over new slots (rows, width); gives the logits at the last slot, (rows, V)."""
        before = block.real.sum(1, keepdim=True)  # (rows, 1)
        positions = (before + fresh.cumsum(1) - 1).clamp_min(0)  # (rows, width)
        block.real = torch.cat([block.real, fresh], 1)
        output = self.model(
            input_ids=tokens,
            attention_mask=block.real,
            position_ids=positions,
            past_key_values=block.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _decode(
        self, block: _Block, requests: list[Request], logits: torch.Tensor, sampling: Sampling
    ) -> list[Completion]:
        row_of = {session: row for row, session in enumerate(block.sessions)}
        rows = np.array([row_of[request.session] for request in requests])
        order = torch.from_numpy(rows).to(self.device)
        limits = np.array([request.max_tokens for request in requests])
        seeds = np.array([request.seed for request in requests], np.uint64)
        lengths = np.array([len(request.ids) for request in requests], np.uint64)
        stop_ids = np.array(sampling.stop_ids, np.int64)
        taken: list[np.ndarray] = []  # tokens of every request, one array a step
        scores: list[np.ndarray] = []
        supports: list[np.ndarray] = []  # where top-k cuts
        counts = np.zeros(len(requests), np.int64)
        finished = np.zeros(len(requests), bool)
        stopped = np.zeros(len(requests), bool)
        while True:
            noise = uniform(seeds, lengths + counts.astype(np.uint64))
            drawn, logprobs, support = draw(logits[order], sampling, noise)
            taken.append(drawn)
            scores.append(logprobs)
            if support is not None:
                supports.append(support)
            alive = ~finished
            counts += alive
            stopped |= alive & np.isin(drawn, stop_ids)
            if sampling.stop:
                for row in np.flatnonzero(alive & ~stopped):
                    stopped[row] = self._says_stop([int(step[row]) for step in taken], sampling.stop)
            finished |= stopped | (counts >= limits)
            if finished.all():
                break
            tokens = np.full((len(block.sessions), 1), self.pad_id, np.int64)
            fresh = np.zeros((len(block.sessions), 1), bool)
            tokens[rows, 0] = np.where(finished, self.pad_id, drawn)
            fresh[rows, 0] = ~finished
            logits = self._forward(
                block, torch.from_numpy(tokens).to(self.device), torch.from_numpy(fresh).to(self.device)
            )
        ids, values = np.stack(taken, 1), np.stack(scores, 1)  # (requests, steps)
        could = np.stack(supports, 1) if supports else None  # (requests, steps, k)
        completions = []
        for index, request in enumerate(requests):
            count = counts[index]
            said = ids[index, :count].tolist()
            block.known[rows[index]] += said[:-1]  # the last one was drawn, not fed
            reason = "stop" if stopped[index] else "length"
            support = None if could is None else Support.of(could[index, :count])
            scored = values[index, :count].tolist()
            completions.append(Completion(request.session, said, scored, reason, self.version, support))
        return completions

    def _says_stop(self, ids: Sequence[int], stop: Sequence[str]) -> bool:
        if self.decode is None:
            raise ValueError("stop texts need a decoder: TransformersEngine(…, decode=tokenizer.decode)")
        text = self.decode(ids)
        return any(entry in text for entry in stop)


def draw(
    logits: torch.Tensor, sampling: Sampling, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Draws one token a row by inverting the cumulative distribution at ``noise``.

    Args:
        logits: Shape (rows, V), float32.
        sampling: Temperature, top-k and top-p.
        noise: A number in (0, 1) a row, shape (rows,).

    Returns:
        The tokens (rows,) and their log-probabilities (rows,) under the distribution drawn from. At temperature 0 the
        likeliest token and its log-probability at temperature 1. And where :attr:`Sampling.gives_support`, the tokens
        that could have been drawn, (rows, k), int32, in which −1 is none.
    """
    ids = None
    if sampling.temperature == 0:
        logprobs = torch.log_softmax(logits, -1)
        place = logits.argmax(-1, keepdim=True)  # (rows, 1)
    else:
        logits, ids = _cut(logits / sampling.temperature, sampling)
        logprobs = torch.log_softmax(logits, -1)
        cumulative = logprobs.double().exp().cumsum(-1)  # (rows, tokens left)
        threshold = torch.from_numpy(noise).to(logits.device)[:, None] * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, threshold).clamp_max(logits.shape[-1] - 1)
    drawn = place if ids is None else ids.gather(-1, place)
    support = None
    if ids is not None and sampling.gives_support:
        support = ids.masked_fill(logits == -torch.inf, -1).int().cpu().numpy()
    return drawn[:, 0].cpu().numpy(), logprobs.gather(-1, place)[:, 0].cpu().numpy(), support


def _cut(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Applies top-k and top-p to (rows, V).

    Returns:
        The logits that are left, the likeliest first, −∞ where top-p cuts, and which tokens they are, (rows, tokens
        left) both; the same logits and None where nothing cuts.
    """
    if sampling.top_k:
        logits, ids = logits.topk(min(sampling.top_k, logits.shape[-1]), -1)
    elif sampling.top_p < 1:
        logits, ids = logits.sort(-1, descending=True)
    else:
        return logits, None
    if sampling.top_p < 1:
        probabilities = logits.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # probability of all likelier tokens
        logits = logits.masked_fill(before >= sampling.top_p, -torch.inf)
    return logits, ids
