"""What a member may want: each kind draws its part of the database, the words, and what a right agent then does.

A kind that a rule forbids has no calls to make, and says which call would break the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from grpo_agents.envs.library_desk.circulation import LOAN_LIMIT, MOST_FINES, MOST_RENEWALS
from grpo_agents.envs.library_desk.database import Copy, Library, Loan
from grpo_agents.envs.library_desk.world import day

Call = dict[str, Any]
"""A tool call as plain JSON: ``name`` and ``arguments``."""


@dataclass(slots=True)
class Wish:
    """One thing that a member wants.

    Attributes:
        says: How the member puts it.
        details: What of it the member says only when asked for, unless told to say it at once, by what is asked.
        answers: What the member says to other questions about it, by what is asked.
        title: The book it is about, if any: what one looks up.
        calls: What a right agent does about it; nothing where a rule forbids it.
        forbidden: What would break a rule.
        later: True where the member speaks of it only when the rest is done.
    """

    says: str
    details: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    title: str = ""
    calls: list[Call] = field(default_factory=list)
    forbidden: list[Call] = field(default_factory=list)
    later: bool = False


@dataclass(slots=True)
class Draft:
    """A task in the making: wishes set up the database as they need it, each with books of its own.

    Attributes:
        library: The database as it is to be at the start.
        card: Whose wishes they are.
        rng: What everything is drawn with.
        books: Those that no wish is about yet.
    """

    library: Library
    card: str
    rng: np.random.Generator
    books: list[str]

    def take_book(self, *, shelf: bool) -> str:
        """A book nobody waits for, all of its copies on the shelf, or all on loan to others."""
        book = self.books.pop()
        for copy in self.library.copies_of(book):
            self.library.loans.pop(copy, None)
            if not shelf:
                self.library.loans[copy] = Loan(self.other(), day(self.library, int(self.rng.integers(1, 20))))
        return book

    def take_loan(self, *, due: int, renewals: int = 0) -> str:
        """A copy that the member has, due in so many days."""
        copy = str(self.rng.choice(self.library.copies_of(self.take_book(shelf=True))))
        self.library.loans[copy] = Loan(self.card, day(self.library, due), renewals)
        return copy

    def other(self) -> str:
        """Somebody else's card."""
        return str(self.rng.choice(sorted(self.library.members.keys() - {self.card})))

    def title(self, book: str) -> str:
        """In quotation marks."""
        return f'"{self.library.books[book].title}"'

    def owe(self, cents: int) -> None:
        """Sets the member's fines."""
        self.library.members[self.card] = replace(self.library.members[self.card], fines=cents)

    def fill_loans(self) -> None:
        """Gives the member as many loans as the membership allows."""
        while len(self.library.loans_of(self.card)) < LOAN_LIMIT[self.library.members[self.card].membership]:
            self.take_loan(due=int(self.rng.integers(1, 20)))


def call(name: str, **arguments: Any) -> Call:
    """A call as plain JSON."""
    return {"name": name, "arguments": arguments}


def borrow(draft: Draft) -> Wish:
    """A book that is on the shelf; where it is in several formats, one of them."""
    book = draft.take_book(shelf=True)
    title, copies = draft.title(book), draft.library.copies_of(book)
    copy = str(draft.rng.choice(copies))
    kind = draft.library.copies[copy].format
    details = {"format": f"I would like {title} in {kind}."} if len(copies) > 1 else {}
    calls = [call("lend", card=draft.card, copy=copy)]
    says = f"I would like to borrow {title}."
    answers = {"lend": says, "hold": f"I do not want a hold on {title}, I want to take it with me."}
    return Wish(says, details, answers, title=title, calls=calls)


def give_back(draft: Draft) -> Wish:
    """A loan, in time or a little late."""
    copy = draft.take_loan(due=int(draft.rng.integers(-3, 15)))
    title = draft.title(draft.library.copies[copy].book)
    says = f"I am returning {title}."
    return Wish(says, answers={"return": says}, title=title, calls=[call("return_copy", copy=copy)])


def renew(draft: Draft) -> Wish:
    """A loan that may be renewed."""
    copy = draft.take_loan(due=int(draft.rng.integers(0, 10)), renewals=int(draft.rng.integers(MOST_RENEWALS)))
    title = draft.title(draft.library.copies[copy].book)
    says = f"I would like to keep {title} for longer."
    return Wish(says, answers={"renew": says}, title=title, calls=[call("renew", copy=copy)])


def place_hold(draft: Draft) -> Wish:
    """A hold on a book that is out."""
    book = draft.take_book(shelf=False)
    title = draft.title(book)
    says = f"Please put me on the waiting list for {title}."
    return Wish(says, answers={"hold": says}, title=title, calls=[call("place_hold", card=draft.card, book=book)])


def cancel_hold(draft: Draft) -> Wish:
    """A hold that is no longer wanted."""
    book = draft.take_book(shelf=False)
    title, others = draft.title(book), draft.rng.permutation([draft.card, draft.other()]).tolist()
    draft.library.holds[book] = tuple(others)
    says = f"I no longer want to wait for {title}, please cancel my hold."
    calls = [call("cancel_hold", card=draft.card, book=book)]
    return Wish(says, answers={"hold": f"Please cancel my hold on {title}."}, title=title, calls=calls)


def pay(draft: Draft) -> Wish:
    """All of the fines that are owed."""
    cents = int(draft.rng.integers(2, 25)) * 20
    draft.owe(cents)
    says = f"I would like to pay the {cents} cents that I owe."
    return Wish(says, answers={"pay": says}, calls=[call("pay_fines", card=draft.card, cents=cents)])


def change_email(draft: Draft) -> Wish:
    """Another address."""
    name = draft.library.members[draft.card].name.split()[0].lower()
    email = f"{name}{int(draft.rng.integers(10, 100))}@mail.example"
    calls = [call("change_email", card=draft.card, email=email)]
    return Wish("I have a new e-mail address.", {"email": f"My new e-mail address is {email}."}, calls=calls)


def borrow_or_hold(draft: Draft) -> Wish:
    """A book that is out: when asked, the member agrees to wait for it."""
    book = draft.take_book(shelf=False)
    title = draft.title(book)
    says, details = f"I would like to borrow {title}.", {"hold": f"If {title} is out, yes, put me on the waiting list."}
    calls = [call("place_hold", card=draft.card, book=book)]
    return Wish(says, details, {"lend": says}, title=title, calls=calls)


def pay_and_borrow(draft: Draft) -> Wish:
    """A book, for which fines have to be paid first: when asked, the member agrees."""
    wish = borrow(draft)
    cents = MOST_FINES + int(draft.rng.integers(1, 15)) * 20
    draft.owe(cents)
    wish.details["pay"] = "If I have to pay my fines first, yes, I pay all of them now."
    wish.calls.insert(0, call("pay_fines", card=draft.card, cents=cents))
    return wish


def swap(draft: Draft) -> Wish:
    """A book, for which another has to come back first."""
    returned, wish = give_back(draft), borrow(draft)
    draft.fill_loans()
    wish.says = f"{wish.says} {returned.says}"
    wish.answers |= returned.answers
    wish.calls = [*returned.calls, *wish.calls]
    return wish


def borrow_reference(draft: Draft) -> Wish:
    """A copy that is read in the house."""
    book = draft.take_book(shelf=True)
    copy = draft.library.copies_of(book)[0]
    for other in draft.library.copies_of(book)[1:]:
        del draft.library.copies[other]
    draft.library.copies[copy] = Copy(book, "reference")
    return _forbidden(draft, book, call("lend", card=draft.card, copy=copy))


def borrow_held(draft: Draft) -> Wish:
    """A book whose copies on the shelf are kept for others."""
    book = draft.take_book(shelf=True)
    copies = draft.library.copies_of(book)
    others = sorted(draft.library.members.keys() - {draft.card})
    draft.library.holds[book] = tuple(draft.rng.choice(others, size=len(copies), replace=False).tolist())
    return _forbidden(draft, book, *(call("lend", card=draft.card, copy=copy) for copy in copies))


def borrow_while_overdue(draft: Draft) -> Wish:
    """A book, while another should have come back."""
    draft.take_loan(due=-int(draft.rng.integers(1, 10)))
    book = draft.take_book(shelf=True)
    return _forbidden(
        draft, book, *(call("lend", card=draft.card, copy=copy) for copy in draft.library.copies_of(book))
    )


def borrow_beyond_limit(draft: Draft) -> Wish:
    """One book more than the membership allows."""
    book = draft.take_book(shelf=True)
    draft.fill_loans()
    return _forbidden(
        draft, book, *(call("lend", card=draft.card, copy=copy) for copy in draft.library.copies_of(book))
    )


def renew_overdue(draft: Draft) -> Wish:
    """A loan that should have come back."""
    return _forbidden_renewal(draft, draft.take_loan(due=-int(draft.rng.integers(1, 10))))


def renew_again(draft: Draft) -> Wish:
    """A loan that was renewed as often as there is."""
    return _forbidden_renewal(draft, draft.take_loan(due=int(draft.rng.integers(0, 10)), renewals=MOST_RENEWALS))


def renew_held(draft: Draft) -> Wish:
    """A loan for which another waits."""
    copy = draft.take_loan(due=int(draft.rng.integers(0, 10)))
    draft.library.holds[draft.library.copies[copy].book] = (draft.other(),)
    return _forbidden_renewal(draft, copy)


def _forbidden(draft: Draft, book: str, *calls: Call) -> Wish:
    title = draft.title(book)
    says = f"I would like to borrow {title}."
    answers = {"lend": says, "hold": f"I do not want a hold on {title}.", "format": f"Any copy of {title} will do."}
    return Wish(says, answers=answers, title=title, forbidden=list(calls))


def _forbidden_renewal(draft: Draft, copy: str) -> Wish:
    title = draft.title(draft.library.copies[copy].book)
    says = f"I would like to keep {title} for longer."
    return Wish(says, answers={"renew": says}, title=title, forbidden=[call("renew", copy=copy)])


Kind = Callable[[Draft], Wish]

PLAIN: tuple[Kind, ...] = (borrow, give_back, renew, place_hold, cancel_hold, pay, change_email)
"""Wishes that are granted."""

CONDITIONAL: tuple[Kind, ...] = (borrow_or_hold, pay_and_borrow, swap)
"""Wishes that are granted when something else is done first, or instead."""

FORBIDDEN: tuple[Kind, ...] = (
    borrow_reference, borrow_held, borrow_while_overdue, borrow_beyond_limit, renew_overdue, renew_again, renew_held,
)  # fmt: skip
"""Wishes that a rule forbids: some the system refuses, others only the policy does."""
