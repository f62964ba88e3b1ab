"""The state of a library: members, books, copies, loans, holds and fines. Cheap to copy, and plain JSON as a dict.

Entries are never changed but replaced, so that a copy shares them; what stands in a dict has no order, and a queue of
holds has one.

>>> library = Library.from_dict({
...     "today": "2026-03-02",
...     "members": {"1042": {"name": "Ada Berg", "born": "1980-05-17", "email": "ada@post.example",
...                          "membership": "basic", "fines": 0}},
...     "books": {"B1": {"title": "The Salt Road", "author": "Ines Ward"}},
...     "copies": {"C1": {"book": "B1", "format": "paperback"}},
...     "loans": {"C1": {"card": "1042", "due": "2026-03-01", "renewals": 0}},
...     "holds": {}})
>>> other = library.copy()
>>> del other.loans["C1"]
>>> library.overdue("1042"), other.overdue("1042"), library.differences(other)
(['C1'], [], ['the loan of C1'])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

Format = Literal["hardback", "paperback", "large print", "reference"]
"""What a copy is; those of reference are read in the house."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member, by card number in :attr:`Library.members`; ``born`` is an ISO date, ``fines`` are cents."""

    name: str
    born: str
    email: str
    membership: Literal["basic", "plus"]
    fines: int = 0


@dataclass(frozen=True, slots=True)
class Book:
    """A title, of which there are copies."""

    title: str
    author: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a book."""

    book: str
    format: Format


@dataclass(frozen=True, slots=True)
class Loan:
    """Who has a copy, and the ISO date by which it is due."""

    card: str
    due: str
    renewals: int = 0


@dataclass(slots=True)
class Library:
    """The whole state.

    Attributes:
        today: The date, ISO.
        members: By card number.
        books: By book id.
        copies: By copy id.
        loans: By copy id; a copy that is not here is on the shelf.
        holds: The cards that wait for a book, in their order, by book id; a book nobody waits for is not here.
    """

    today: str
    members: dict[str, Member]
    books: dict[str, Book]
    copies: dict[str, Copy]
    loans: dict[str, Loan]
    holds: dict[str, tuple[str, ...]]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Library:
        """The state that :meth:`as_dict` gave.

        Raises:
            ValueError: Something is missing or of another type, or an id stands for nothing; says which.
        """
        try:
            library = _ADAPTER.validate_python(dict(data))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"the database, {place}: {first['msg']}") from None
        library._check()
        return library

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return _ADAPTER.dump_python(self, mode="json")

    def copy(self) -> Library:
        """Another one that may be changed without this one; what no tool changes is shared."""
        return Library(self.today, dict(self.members), self.books, self.copies, dict(self.loans), dict(self.holds))

    def copies_of(self, book: str) -> list[str]:
        """The ids of a book's copies, in order."""
        return sorted(copy for copy, entry in self.copies.items() if entry.book == book)

    def on_shelf(self, book: str) -> list[str]:
        """Those of a book's copies that may be lent and are not, in order."""
        return [
            copy for copy in self.copies_of(book) if copy not in self.loans and self.copies[copy].format != "reference"
        ]

    def loans_of(self, card: str) -> list[str]:
        """The copies that a member has, in order."""
        return sorted(copy for copy, loan in self.loans.items() if loan.card == card)

    def overdue(self, card: str) -> list[str]:
        """Those of them that were due before today; ISO dates are in order as text."""
        return [copy for copy in self.loans_of(card) if self.loans[copy].due < self.today]

    def differences(self, other: Library) -> list[str]:
        """What is not the same in another state: each loan, each queue, and each detail of a member.

        Two states are equal where there is none.
        """
        found = [
            f"{entry.name} of member {card}"
            for card in sorted(self.members.keys() & other.members.keys())
            for entry in fields(Member)
            if getattr(self.members[card], entry.name) != getattr(other.members[card], entry.name)
        ]
        found += [f"member {card}" for card in sorted(self.members.keys() ^ other.members.keys())]
        for what, mine, theirs in (
            ("book", self.books, other.books),
            ("copy", self.copies, other.copies),
            ("the loan of", self.loans, other.loans),
            ("the holds on", self.holds, other.holds),
        ):
            found += [
                f"{what} {key}" for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)
            ]
        return found + ["today"] * (self.today != other.today)

    def _check(self) -> None:
        named = [
            *((f"copies.{copy}", "book", entry.book, self.books) for copy, entry in self.copies.items()),
            *((f"loans.{copy}", "copy", copy, self.copies) for copy in self.loans),
            *((f"loans.{copy}", "member", loan.card, self.members) for copy, loan in self.loans.items()),
            *((f"holds.{book}", "book", book, self.books) for book in self.holds),
            *((f"holds.{book}", "member", card, self.members) for book, queue in self.holds.items() for card in queue),
        ]
        for place, what, key, known in named:
            if key not in known:
                raise ValueError(f"the database, {place}: there is no {what} {key!r}")
        for book, queue in self.holds.items():
            if not queue or len(set(queue)) < len(queue):
                raise ValueError(
                    f"the database, holds.{book}: a queue holds each card once, and is left out when empty"
                )


_ADAPTER = TypeAdapter(Library)
