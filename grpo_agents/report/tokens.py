"""Sampled tokens for a page: their text, and what the lens said of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Place = tuple[int, str, int, int]
"""Where a trajectory belongs: run_step, phase, group and index."""

Lens = dict[Place, dict[str, dict[tuple[int, int], float]]]
"""Coefficients by trajectory, by method, and by sample and position of the token."""

LENS_KEY = b"grpo_agents.lens"

_PLACE = ("run_step", "phase", "group", "index", "sample", "position")


class Vocabulary:
    """The token ids that occur, each with a small number of its own."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, ids: Iterable[int]) -> list[int]:
        """The numbers of token ids, new ones for those that were not seen before."""
        return [self._numbers.setdefault(token, len(self._numbers)) for token in ids]

    def texts(self, tokenizer: Any) -> list[str]:
        """The text of each, by number: every id decoded by itself."""
        return [tokenizer.decode([token]) for token in self._numbers]


def load_tokenizer(folders: Sequence[Path]) -> tuple[Any | None, str]:
    """The tokenizer of the first folder that has one, without any network; or None, and why.

    Args:
        folders: Models on this disk.

    Returns:
        The tokenizer and an empty text, or None and the reason in words for a reader of the page.
    """
    if not folders:
        return None, "there is no model folder on this disk whose tokenizer could give the tokens' text"
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return None, "transformers is not installed, which reads tokenizers: pip install 'grpo-agents[train]'"
    reasons = []
    for folder in folders:
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), ""
        except (OSError, ValueError, KeyError, ImportError) as error:
            reasons.append(f"{folder.name}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}")
    return None, f"no tokenizer could be loaded ({'; '.join(reasons)})"


def read_lens(paths: Iterable[Path]) -> Lens:
    """The coefficients that ``explain --save`` stored.

    Raises:
        ValueError: A file that is not such a table; names it.
    """
    lens: Lens = {}
    for path in paths:
        try:
            table = pq.read_table(path)
            methods = list(json.loads((table.schema.metadata or {})[LENS_KEY]))
            rows = table.select([*_PLACE, *methods]).to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(
                f"{path}: not a table of the lens ({error}). Write it again with `grpo-agents explain --save`, "
                "or remove it."
            ) from error
        for row in rows:
            found = lens.setdefault((row["run_step"], row["phase"], row["group"], row["index"]), {})
            for method in methods:
                if row[method] is not None and math.isfinite(row[method]):
                    found.setdefault(method, {})[row["sample"], row["position"]] = row[method]
    return lens
