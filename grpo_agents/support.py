"""Which tokens could have been sampled, where top-k and top-p cut the distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Support:
    """The support of each of some tokens: what could have been sampled in its place, itself among it.

    The *keep sampling mask* of DeepSeek-V3.2 (arXiv 2512.02556): the learner's distributions are renormalised over it,
    as the sampler's was.

    Attributes:
        ids: Token ids, those of one token after those of another, (sum of counts,), int32.
        counts: How many are each token's, (tokens,), int32; 0 where all of the vocabulary could have been sampled, and
            where nothing was.
    """

    ids: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, padded: np.ndarray) -> Support:
        """That of ids (tokens, width), in which −1 is none."""
        kept = padded >= 0  # (tokens, width)
        return cls(padded[kept].astype(np.int32), kept.sum(-1, dtype=np.int32))

    def padded(self) -> np.ndarray:
        """The ids of each token side by side, (tokens, largest count), in which −1 is none; what :meth:`of` takes."""
        filled = np.arange(self.counts.max(initial=0)) < self.counts[:, None]  # (tokens, largest count)
        ids = np.full(filled.shape, -1, np.int32)
        ids[filled] = self.ids
        return ids

    @classmethod
    def join(cls, parts: Sequence[tuple[Support | None, int]]) -> Support | None:
        """Those of tokens side by side, each part with its number of tokens; None where none of them was cut."""
        known = [support for support, _ in parts if support is not None]
        if not known:
            return None
        counts = [np.zeros(tokens, np.int32) if support is None else support.counts for support, tokens in parts]
        return cls(np.concatenate([support.ids for support in known]), np.concatenate(counts))

    def at(self, places: np.ndarray) -> Support:
        """Those of some of the tokens, (places,), whose places rise."""
        chosen = np.zeros(len(self.counts), bool)
        chosen[places] = True
        return Support(self.ids[np.repeat(chosen, self.counts)], self.counts[places])

    def split(self, size: int) -> list[Support]:
        """Those of every ``size`` tokens."""
        tokens = len(self.counts)
        ends = np.concatenate([[0], np.cumsum(self.counts)])  # (tokens + 1,)
        return [
            Support(self.ids[ends[start] : ends[min(start + size, tokens)]], self.counts[start : start + size])
            for start in range(0, tokens, size)
        ]

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Whether each of the tokens (tokens,) is in its support, (tokens,)."""
        of = np.repeat(np.arange(len(ids)), self.counts)  # (sum of counts,)
        found = np.bincount(of, self.ids == ids[of], len(ids)) > 0
        return found | (self.counts == 0)


def among_likeliest(ids: np.ndarray, logprobs: np.ndarray) -> tuple[Support, np.ndarray]:
    """Reads the support off the k likeliest tokens, which vLLM gives beside the sampled one.

    Where several tie for the k-th place, vLLM samples from all of them and gives no more than k. So the log-probability
    is renormalised over those that are known.

    Args:
        ids: The sampled token, then the likeliest, (tokens, 1 + k).
        logprobs: Theirs, (tokens, 1 + k); −∞ for one that was cut, or that fills a row up.

    Returns:
        The support, and the log-probability of each sampled token over it, (tokens,).
    """
    kept = np.isfinite(logprobs)
    kept[:, 1:] &= ids[:, 1:] != ids[:, :1]
    mass = np.where(kept, np.exp(logprobs), 0.0).sum(-1)  # (tokens,)
    return Support.of(np.where(kept, ids, -1)), logprobs[:, 0] - np.log(mass)
