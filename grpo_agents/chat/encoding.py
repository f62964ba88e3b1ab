"""Text ⇄ token ids as the tokenizer has them, without encoding the same long text again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np


class Encoding:
    """A fast tokenizer without the batching, padding and special tokens of its own accord.

    Special tokens cut a text before the tokenizer does anything else with it. So the pieces from one to the next are
    encoded on their own and remembered: of a prompt with known instructions, only the question is new.

    Attributes:
        added: Ids of the tokens that are no part of the learned vocabulary.
        specials: Text of those among them that are special, by id.
    """

    def __init__(self, tokenizer: Any):
        self._core = tokenizer.backend_tokenizer
        tokens = self._core.get_added_tokens_decoder()
        self.added = frozenset(tokens)
        self.specials = {number: self.decode([number]) for number, token in tokens.items() if token.special}
        self._piece = lru_cache(4096)(self._encode_whole)
        self._remembered = lru_cache(4096)(self._encode)
        self._cuts = self._find_cuts(tokens)

    def encode(self, text: str, after: str = "") -> np.ndarray:
        """The ids of a text, shape (tokens,), int32; they are shared, so not to be written to.

        Args:
            text: What to encode.
            after: The token that stands before it: some tokenizers treat the space there in a way of its own.
        """
        return self._remembered(text, after)

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """The ids of a text, and of each the characters that it stands for, as (start, stop)."""
        encoded = self._run(text)
        return np.array(encoded.ids, np.int32), encoded.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        return self._core.decode(ids, skip_special_tokens=False)

    def id_of(self, token: str) -> int | None:
        """The id of a token; None where the vocabulary has no such token."""
        return self._core.token_to_id(token)

    def _encode(self, text: str, after: str) -> np.ndarray:
        ids = self._encode_pieces(after + text, self._cuts) if self._cuts else self._encode_whole(after + text)
        return ids[1:] if after else ids

    def _encode_pieces(self, text: str, cuts: re.Pattern[str]) -> np.ndarray:
        first, *rest = cuts.split(text)  # what stands before the first cut, then token and text by turns
        pieces = [first] if first or not rest else []
        pieces += [token + following for token, following in zip(rest[::2], rest[1::2], strict=True)]
        return np.concatenate([self._piece(piece) for piece in pieces])

    def _encode_whole(self, text: str) -> np.ndarray:
        return np.array(self._run(text).ids, np.int32)

    def _run(self, text: str) -> Any:
        if self._core.truncation or self._core.padding:  # left behind by someone's padded batch
            self._core.no_truncation()
            self._core.no_padding()
        return self._core.encode(text, add_special_tokens=False)

    def _find_cuts(self, tokens: dict[int, Any]) -> re.Pattern[str] | None:
        """The tokens before which a text may be cut; None where a probe says that pieces differ from the whole.

        Left out are tokens that look to their left or at normalized text, and those that could overlap with another.
        """
        inside = {character for token in tokens.values() for character in token.content[1:]}
        known = {
            token.content: number
            for number, token in tokens.items()
            if token.special and not (token.normalized or token.lstrip or token.single_word)
            if token.content[0] not in inside
        }
        if not known:
            return None
        cuts = re.compile(f"({'|'.join(map(re.escape, sorted(known, key=len, reverse=True)))})")
        probe = " a b" + "".join(f"{token} c\n\nd {token}{token}e  \n{token}\n" for token in known)
        alone = all(self._encode_whole(token).tolist() == [number] for token, number in known.items())
        return cuts if alone and np.array_equal(self._encode_pieces(probe, cuts), self._encode_whole(probe)) else None
