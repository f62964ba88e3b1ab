"""The desk's tools: what the policy may call. Each acts on the ``database`` of what it is bound to.

Looking something up costs a cent and writing something down two, so that asking the system at random does not pay.
"""

from __future__ import annotations

from typing import Any

from grpo_agents.envs.library_desk import circulation
from grpo_agents.envs.library_desk.circulation import Refused
from grpo_agents.envs.library_desk.database import Library
from grpo_agents.tools import tool

READ = {"price": 0.01, "latency": 0.2, "timeout": None}
WRITE = {"price": 0.02, "latency": 0.5, "timeout": None}
MOST_FOUND = 5
"""Books that one search shows."""


class Desk:
    """A desk with a database. An environment that has one lends itself to the tools in its place.

    Args:
        database: What the tools look into and change.
    """

    def __init__(self, database: Library):
        self.database = database

    @tool(**READ)
    def find_members(self, name: str) -> list[dict[str, Any]]:
        """Finds the members of a name: their cards and dates of birth.

        Args:
            name: The full name.
        """
        return [
            {"card": card, "name": member.name, "born": member.born}
            for card, member in sorted(self.database.members.items())
            if member.name.casefold() == name.strip().casefold()
        ]

    @tool(**READ)
    def show_member(self, card: str) -> dict[str, Any]:
        """Shows a member's account: details, fines in cents, loans and holds.

        Args:
            card: The card number.
        """
        library = self.database
        if card not in library.members:
            raise Refused(f"there is no member with card {card!r}")
        member = library.members[card]
        return {
            "card": card,
            "name": member.name,
            "born": member.born,
            "email": member.email,
            "membership": member.membership,
            "fines": member.fines,
            "loans": [_loan(library, copy) for copy in library.loans_of(card)],
            "holds": [
                {"book": book, "title": library.books[book].title, "place": queue.index(card) + 1}
                for book, queue in sorted(library.holds.items())
                if card in queue
            ],
        }

    @tool(**READ)
    def search_books(self, words: str) -> list[dict[str, Any]]:
        """Finds books by words of title or author: their copies, and how many members wait.

        Args:
            words: Words that all have to occur.
        """
        library, wanted = self.database, words.casefold().split()
        if not wanted:
            raise Refused("a search needs a word")
        found = [
            book
            for book, entry in sorted(library.books.items())
            if all(word in f"{entry.title} {entry.author}".casefold() for word in wanted)
        ]
        return [
            {
                "book": book,
                "title": library.books[book].title,
                "author": library.books[book].author,
                "copies": [
                    {
                        "copy": copy,
                        "format": library.copies[copy].format,
                        "due": library.loans[copy].due if copy in library.loans else "on the shelf",
                    }
                    for copy in library.copies_of(book)
                ],
                "waiting": len(library.holds.get(book, ())),
            }
            for book in found[:MOST_FOUND]
        ]

    @tool(**WRITE)
    def lend(self, card: str, copy: str) -> dict[str, Any]:
        """Lends a copy to a member.

        Args:
            card: The card number.
            copy: The id of the copy.
        """
        circulation.lend(self.database, card, copy)
        return _loan(self.database, copy)

    @tool(**WRITE)
    def return_copy(self, copy: str) -> dict[str, Any]:
        """Takes a copy back; a fine for lateness, in cents, goes on the member's account.

        Args:
            copy: The id of the copy.
        """
        return {"copy": copy, "fine": circulation.give_back(self.database, copy)}

    @tool(**WRITE)
    def renew(self, copy: str) -> dict[str, Any]:
        """Renews a loan, from today.

        Args:
            copy: The id of the copy.
        """
        circulation.renew(self.database, copy)
        return _loan(self.database, copy)

    @tool(**WRITE)
    def place_hold(self, card: str, book: str) -> dict[str, Any]:
        """Puts a member into the queue for a book.

        Args:
            card: The card number.
            book: The id of the book.
        """
        return {"book": book, "place": circulation.place_hold(self.database, card, book)}

    @tool(**WRITE)
    def cancel_hold(self, card: str, book: str) -> str:
        """Takes a member out of the queue for a book.

        Args:
            card: The card number.
            book: The id of the book.
        """
        circulation.cancel_hold(self.database, card, book)
        return f"The hold on {book} is cancelled."

    @tool(**WRITE)
    def pay_fines(self, card: str, cents: int) -> dict[str, Any]:
        """Takes a payment of fines.

        Args:
            card: The card number.
            cents: How much is paid.
        """
        return {"card": card, "fines": circulation.pay_fines(self.database, card, cents)}

    @tool(**WRITE)
    def change_email(self, card: str, email: str) -> str:
        """Writes down a member's new e-mail address.

        Args:
            card: The card number.
            email: The new address.
        """
        circulation.change_email(self.database, card, email)
        return f"The address of {card} is {email} now."


LOOK_UPS = (Desk.find_members, Desk.show_member, Desk.search_books)
WRITES = (
    Desk.lend,
    Desk.return_copy,
    Desk.renew,
    Desk.place_hold,
    Desk.cancel_hold,
    Desk.pay_fines,
    Desk.change_email,
)


def _loan(library: Library, copy: str) -> dict[str, Any]:
    entry, loan = library.copies[copy], library.loans[copy]
    title = library.books[entry.book].title
    return {
        "copy": copy,
        "book": entry.book,
        "title": title,
        "format": entry.format,
        "due": loan.due,
        "renewals": loan.renewals,
    }
