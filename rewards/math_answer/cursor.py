"""Where the reading of an answer is, and how it moves."""

from __future__ import annotations

from collections.abc import Callable

from grpo_agents.rewards.math_answer.expression import Expr, Unreadable
from grpo_agents.rewards.math_answer.tokens import AND, END, Token, tokens

MAX_DEPTH = 25
"""Brackets, roots, fractions and exponents inside one another."""


class Cursor:
    """A place among the tokens of an answer.

    Attributes:
        bars: Whether an absolute value is open, so that a bar closes it.
        in_set: Whether a colon means "such that".
        has_words: Whether words were read.
    """

    def __init__(self, text: str):
        self.tokens = tokens(text)
        self.at = 0
        self.depth = 0
        self.bars = False
        self.in_set = False
        self.has_words = False

    @property
    def token(self) -> Token:
        """The token at hand."""
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def peek(self, ahead: int = 1) -> Token:
        """A token further on."""
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else END

    def accept(self, *texts: str) -> str:
        """Steps over one of these signs or commands; which it was, or an empty text."""
        token = self.token
        if token.kind in ("sign", "command") and token.text in texts:
            self.at += 1
            return token.text
        return ""

    def minus(self) -> bool:
        """Steps over signs of plus and minus; whether they make a negative."""
        negative = False
        while sign := self.accept("-", "+"):
            negative ^= sign == "-"
        return negative

    def expect(self, text: str) -> None:
        """Steps over this sign, which must be there."""
        if not self.accept(text):
            raise self.unexpected(f"{text!r} is missing")

    def unexpected(self, wanted: str = "a number or a name is expected") -> Unreadable:
        """What to say of the token at hand."""
        if self.token is END:
            return Unreadable(f"ends where {wanted}")
        return Unreadable(f"holds {self.token.text[:40]!r} where {wanted}")

    def nested(self, method: Callable[[], Expr]) -> Expr:
        """One level deeper, in a bracket of its own."""
        if self.depth >= MAX_DEPTH:
            raise Unreadable(f"is nested more than {MAX_DEPTH} deep")
        before = self.bars, self.in_set
        self.depth += 1
        self.bars = self.in_set = False
        found = method()
        self.depth -= 1
        self.bars, self.in_set = before
        return found

    def is_and(self) -> bool:
        """Whether "and" or "or" follows, in words or as a sign."""
        if self.token.kind == "command":
            return self.token.text in ("land", "wedge", "lor", "vee")
        return self.token.kind in ("text", "word") and self.token.text.casefold().strip() in AND

    def and_or(self) -> str:
        """Steps over "and" or "or"; which it was, or an empty text."""
        if not self.is_and():
            return ""
        self.at += 1
        word = self.tokens[self.at - 1].text.casefold().strip()
        return {"land": "and", "wedge": "and", "lor": "or", "vee": "or"}.get(word, word)

    def raw(self) -> str:
        """A subscript as it is written, without its braces and spaces."""
        if self.token is END:
            raise self.unexpected()
        if not self.accept("{"):
            self.at += 1
            return self.tokens[self.at - 1].text
        depth, start = 1, self.at
        while depth:
            if self.token is END:
                raise self.unexpected("'}' is missing")
            depth += (self.token.text == "{" and self.token.kind == "sign") - (
                self.token.text == "}" and self.token.kind == "sign"
            )
            self.at += 1
        return "".join(token.text for token in self.tokens[start : self.at - 1])
