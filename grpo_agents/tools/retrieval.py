"""Search in a local corpus as a tool: passages by BM25, the same for the same question on every machine.

The scores are those of Robertson et al. (BM25, with bm25s's defaults k1 = 1.5, b = 0.75); among equals the earlier
passage comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from grpo_agents.tools.definition import Tool, tool
from grpo_agents.tools.price import Price

WORD = re.compile(r"\w+")


def search_tool(
    corpus: str | Path | Sequence[str] | Mapping[str, str],
    *,
    name: str = "search",
    description: str = "Searches a collection of texts for words.",
    passages: int = 3,
    characters: int = 1000,
    price: float | Price = 0.0,
    latency: float | None = None,
) -> Tool:
    """A tool that finds the passages of a corpus that fit a question best.

    Each passage is shown with its id: a text's key or number, and of a file its path. A file is cut into passages at
    empty lines, which are numbered: ``notes/rivers.md#2``.

    Args:
        corpus: A folder, of which every file but hidden ones is read; or texts, with their ids where they have any.
        name: What the tool is called.
        description: What the policy is told of it.
        passages: How many are shown at most.
        characters: How much of each is.
        price: Of a call.
        latency: Declared seconds a call; measured where None.

    Raises:
        ValueError: A corpus without texts, an empty text, or a file that is no text in UTF-8; names them.
        FileNotFoundError: No such folder.
        ImportError: The library is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ImportError("search in a corpus needs the bm25s library: pip install 'grpo-agents[retrieval]'") from error
    texts = _texts(corpus)
    ids, kept = list(texts), list(texts.values())
    index = bm25s.BM25()
    index.index([_words(text) for text in kept], show_progress=False)

    def search(query: str) -> str:
        known = [word for word in _words(query) if word in index.vocab_dict]
        scores = index.get_scores(known) if known else np.zeros(len(kept))  # (passages,)
        best = [at for at in np.argsort(-scores, kind="stable")[:passages].tolist() if scores[at] > 0]
        return "\n\n".join(f"[{ids[at]}] {_cut(kept[at], characters)}" for at in best) or "Nothing was found."

    search.__doc__ = f"{description}\n\nArgs:\n    query: The words to look for."
    return tool(name=name, price=price, latency=latency, timeout=None)(search)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters].rstrip()} …"


def _texts(corpus: str | Path | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """The passages by id."""
    if isinstance(corpus, str | Path):
        return _of_folder(Path(corpus))
    texts = dict(corpus) if isinstance(corpus, Mapping) else {str(number): text for number, text in enumerate(corpus)}
    _refuse(texts, "a corpus", (key for key, text in texts.items() if not _words(text)))
    return texts


def _of_folder(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.absolute()} to search in")
    texts: dict[str, str] = {}
    broken = []
    for path in sorted(folder.rglob("*")):
        shown = path.relative_to(folder).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in Path(shown).parts):
            continue
        try:
            parts = [part.strip() for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))]
        except UnicodeDecodeError:
            parts = []
        parts = [part for part in parts if _words(part)]
        if not parts:
            broken.append(shown)
        texts |= {shown if len(parts) == 1 else f"{shown}#{number}": part for number, part in enumerate(parts, 1)}
    _refuse(texts, str(folder), broken)
    return texts


def _refuse(texts: Mapping[str, str], where: str, broken: Iterable[str]) -> None:
    """Refuses what cannot be searched.

    Raises:
        ValueError: Nothing is there, or some of it is no text.
    """
    if named := ", ".join(broken):
        raise ValueError(f"{where} to search in: without a word of text (in UTF-8): {named}. Take them out.")
    if not texts:
        raise ValueError(f"{where} to search in has no texts")
