"""What can be done at a desk, under the rules that the library's own system enforces.

Each function changes a :class:`Library` in place, or raises :class:`Refused` and leaves it as it was. Rules that the
system does *not* enforce, and the person at the desk has to know, are those of :mod:`.policy`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from grpo_agents.envs.library_desk.database import Library, Loan, Member

LOAN_LIMIT = {"basic": 3, "plus": 6}
"""Copies that a member may have at once."""

LOAN_DAYS = {"basic": 21, "plus": 42}
"""Days until a copy is due."""

MOST_RENEWALS = 2

MOST_FINES = 500
"""Cents; who owes more can neither borrow nor renew."""

DAY_FINE = 20
"""Cents for each day that a copy comes back late."""


class Refused(ValueError):
    """The system does not do it; says why."""


def lend(library: Library, card: str, copy: str) -> Loan:
    """Lends a copy; a hold of the member's on the book is then served."""
    member, book = _member(library, card), _book_of(library, copy)
    if copy in library.loans:
        raise Refused(f"copy {copy} is on loan")
    _check_fines(library, card)
    limit = LOAN_LIMIT[member.membership]
    if len(library.loans_of(card)) >= limit:
        raise Refused(f"member {card} has {limit} loans, the most that a {member.membership} membership allows")
    queue = library.holds.get(book, ())
    before = queue.index(card) if card in queue else len(queue)
    if library.copies[copy].format != "reference" and before >= len(library.on_shelf(book)):
        raise Refused(f"the copies of {book} on the shelf are kept for {before} members with earlier holds")
    loan = library.loans[copy] = Loan(card, _due(library, member.membership))
    _set_queue(library, book, [other for other in queue if other != card])
    return loan


def give_back(library: Library, copy: str) -> int:
    """Takes a copy back; returns the fine in cents, which is added to what the member owes."""
    loan = _loan(library, copy)
    days = (date.fromisoformat(library.today) - date.fromisoformat(loan.due)).days
    fine = DAY_FINE * max(0, days)
    del library.loans[copy]
    member = library.members[loan.card]
    library.members[loan.card] = replace(member, fines=member.fines + fine)
    return fine


def renew(library: Library, copy: str) -> Loan:
    """Makes a loan due as if it began today."""
    loan, book = _loan(library, copy), _book_of(library, copy)
    _check_fines(library, loan.card)
    if loan.renewals >= MOST_RENEWALS:
        raise Refused(f"the loan of {copy} was renewed {loan.renewals} times, the most there is")
    if book in library.holds:
        raise Refused(f"others wait for {book}, so no loan of it is renewed")
    due = _due(library, library.members[loan.card].membership)
    library.loans[copy] = Loan(loan.card, due, loan.renewals + 1)
    return library.loans[copy]


def place_hold(library: Library, card: str, book: str) -> int:
    """Puts a member at the end of a book's queue; returns the place there, from 1."""
    _member(library, card)
    if book not in library.books:
        raise Refused(f"there is no book {book!r}")
    queue = library.holds.get(book, ())
    if card in queue:
        raise Refused(f"member {card} has a hold on {book}")
    if any(library.copies[copy].book == book for copy in library.loans_of(card)):
        raise Refused(f"member {card} has a copy of {book}")
    if len(library.on_shelf(book)) > len(queue):
        raise Refused(f"a copy of {book} is free: it can be lent, and needs no hold")
    _set_queue(library, book, [*queue, card])
    return len(queue) + 1


def cancel_hold(library: Library, card: str, book: str) -> None:
    """Takes a member out of a book's queue."""
    queue = library.holds.get(book, ())
    if card not in queue:
        raise Refused(f"member {card!r} has no hold on {book!r}")
    _set_queue(library, book, [other for other in queue if other != card])


def pay_fines(library: Library, card: str, cents: int) -> int:
    """Takes a payment; returns the cents that are still owed."""
    member = _member(library, card)
    if not 0 < cents <= member.fines:
        raise Refused(f"member {card} owes {member.fines} cents, and {cents} cannot be paid of it")
    library.members[card] = replace(member, fines=member.fines - cents)
    return member.fines - cents


def change_email(library: Library, card: str, email: str) -> None:
    """Writes down another address."""
    member = _member(library, card)
    if "@" not in email.strip("@ ") or " " in email:
        raise Refused(f"{email!r} is no e-mail address")
    library.members[card] = replace(member, email=email)


def _member(library: Library, card: str) -> Member:
    if card not in library.members:
        raise Refused(f"there is no member with card {card!r}")
    return library.members[card]


def _book_of(library: Library, copy: str) -> str:
    if copy not in library.copies:
        raise Refused(f"there is no copy {copy!r}")
    return library.copies[copy].book


def _loan(library: Library, copy: str) -> Loan:
    _book_of(library, copy)
    if copy not in library.loans:
        raise Refused(f"copy {copy} is not on loan")
    return library.loans[copy]


def _check_fines(library: Library, card: str) -> None:
    if (fines := library.members[card].fines) > MOST_FINES:
        raise Refused(f"member {card} owes {fines} cents; above {MOST_FINES} nothing is lent or renewed")


def _due(library: Library, membership: str) -> str:
    return (date.fromisoformat(library.today) + timedelta(days=LOAN_DAYS[membership])).isoformat()


def _set_queue(library: Library, book: str, queue: list[str]) -> None:
    if queue:
        library.holds[book] = tuple(queue)
    else:
        library.holds.pop(book, None)
