r"""The pieces of an answer: numbers, words, LaTeX commands and signs.

>>> [token.text for token in tokens(r"2xy + \sinh x")]
['2', 'x', 'y', '+', 'sinh', 'x']
"""

from __future__ import annotations

import re

from grpo_agents.rewards.math_answer import units
from grpo_agents.rewards.math_answer.expression import Unreadable

MAX_DIGITS = 1_000
"""Digits of a number."""

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3}(?![\d.A-Za-z]))?)"
    r"|(?P<word>[^\W\d_]+)"
    r"|\\(?P<command>[A-Za-z]+|[{}|%$&\\#])"
    r"|(?P<sign>\*\*|<=|>=|!=|==|=<|->|=>|[-+*/^_!'%=<>:;,.|()\[\]{}&€£])"
    r"|(?P<space>\s+)"
)
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth log ln lg exp sqrt abs floor ceil"
    " gcd lcm max min det arg Re Im deg sgn cis".split()
)
WRITTEN_AS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "ceiling": "ceil", "sign": "sgn"}
CONSTANTS = {
    "pi": "pi", "infty": "oo", "infinity": "oo", "inf": "oo", "emptyset": "empty", "varnothing": "empty",
    "ldots": "…", "dots": "…", "cdots": "…", "dotsc": "…", "dotsb": "…",
}  # fmt: skip
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar".split()
)
_TEXTS = frozenset("text textbf textit textrm textnormal textsf mbox mathrm mathbf mathit mathsf mathcal rm bf".split())
_BOLD = frozenset("mathbf mathit mathcal bf".split())
DECORATED = frozenset("overline bar vec hat tilde overrightarrow angle triangle mathbb widehat".split())
RELATIONS = {
    "=": "=", "==": "=", "equiv": "=", "<": "<", ">": ">", "lt": "<", "gt": ">", "<=": "<=", "=<": "<=", ">=": ">=",
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "!=": "!=", "ne": "!=",
    "neq": "!=", "approx": "≈", "simeq": "≈", "sim": "≈", "in": "in",
}  # fmt: skip
TIMES = frozenset(("*", "cdot", "times"))
MATRICES = frozenset("matrix pmatrix bmatrix Bmatrix vmatrix array smallmatrix".split())
CLOSING = {"(": ")", "[": "]", "{": "}", "langle": "rangle", "lfloor": "rfloor", "lceil": "rceil", "lvert": "rvert"}
AND = frozenset(("and", "or"))
NAMED = frozenset((*FUNCTIONS, *WRITTEN_AS, *CONSTANTS, *GREEK, *AND, "mod"))
"""Words that are no units."""


class Token:
    """A piece: of which kind, its text, and whether a space stands before it."""

    __slots__ = ("kind", "spaced", "text")

    def __init__(self, kind: str, text: str, spaced: bool):
        self.kind, self.text, self.spaced = kind, text, spaced


END = Token("end", "", False)


def tokens(text: str) -> list[Token]:
    """What the text is made of; a word that is a run of variables becomes one token a letter."""
    tokens: list[Token] = []
    spaced, at = False, 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Unreadable(f"holds {text[at]!r}, which is not read here")
        kind, part, at = str(found.lastgroup), found[found.lastgroup or 0], found.end()
        if kind == "space":
            spaced = True
            continue
        if kind == "number":
            if sum(map(str.isdigit, part)) > MAX_DIGITS:
                raise Unreadable(f"has a number of more than {MAX_DIGITS:,} digits")
        elif kind == "command" and (part in _TEXTS or part == "operatorname"):
            is_bold = part in _BOLD
            part, at = _group(text, at)
            is_name = (
                part in FUNCTIONS
                or part in WRITTEN_AS
                or part in ("e", "i")
                or (is_bold and len(part) == 1 and part.isalpha())
            )
            kind = "word" if is_name else "text"
        if kind == "word":
            tokens += [Token("word", piece, spaced and not number) for number, piece in enumerate(_pieces(part))]
        else:
            tokens.append(Token(kind, part, spaced))
        spaced = False
    return tokens


def _group(text: str, at: int) -> tuple[str, int]:
    """The inside of the braces that open at this place, and where they end."""
    while text[at : at + 1] == " ":
        at += 1
    if text[at : at + 1] != "{":
        return text[at : at + 1], at + 1
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if not depth:
            return text[at + 1 : end].strip(), end + 1
    raise Unreadable("has a brace that is not closed")


def _pieces(word: str) -> list[str]:
    """A known name or a word whole; letters that stand for variables one by one."""
    if word in FUNCTIONS or word in WRITTEN_AS or word in CONSTANTS or word in GREEK or len(word) == 1:
        return [word]
    if word.isascii() and not _is_word(word):
        return list(word)
    for length in (6, 4, 3, 2):  # "sinx", "sqrtx"
        rest = word[length:]
        if word[:length] in FUNCTIONS and 1 <= len(rest) <= 2:
            return [word[:length], *rest]
    return [word]


def _is_word(letters: str) -> bool:
    """Words have three letters and more, unless those are neighbours in the alphabet, as names of variables are."""
    if len(letters) < 3:
        return letters in (
            "or",
            "is",
            "no",
            "at",
            "of",
            "to",
            "cm",
            "km",
            "kg",
            "mm",
            "ml",
            "dm",
            "mg",
            "ft",
            "in",
            "lb",
            "oz",
            "yd",
            "hr",
        )
    distinct = sorted(set(letters))
    return len(distinct) < len(letters) or ord(distinct[-1]) - ord(distinct[0]) > len(letters)


def is_unit(token: Token) -> bool:
    """Whether this can be the words of a unit."""
    return token.kind in ("text", "word") and bool(units.WORDS.fullmatch(token.text.strip()))


def folded(words: str) -> str:
    """Words in lower case, one space between them."""
    return " ".join(words.casefold().replace(".", " ").split())
