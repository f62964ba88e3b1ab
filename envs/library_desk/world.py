"""A library to begin with: members, books and their copies, and what other people have borrowed or wait for."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from grpo_agents.envs.library_desk.circulation import LOAN_LIMIT
from grpo_agents.envs.library_desk.database import Book, Copy, Format, Library, Loan, Member

FIRST = "Ada Bela Carl Dora Emil Fatma Gino Hanna Igor Jana Kofi Lena Marco Nora Omar Petra Rosa Sven Tara Uma".split()
LAST = (
    "Abt Berg Costa Diaz Engel Fuchs Grau Haas Ivers Jung Kern Lang Moser Nagy Ortiz Peer Ruiz Stark Thoma Voss".split()
)
ADJECTIVES = "Salt Silent Copper Winter Hidden Paper Long Broken Golden Northern Velvet Distant".split()
NOUNS = "Road Harbour Garden Letters Orchard Mirror River Bridge Lantern Island Clock Forest".split()
FORMATS: tuple[Format, ...] = ("hardback", "paperback", "large print")
MEMBERS, BOOKS = 6, 12


def draw_library(rng: np.random.Generator) -> Library:
    """Draws a library in which nobody's loan is overdue and a third of the copies is out."""
    today = date(2026, 1, 1) + timedelta(days=int(rng.integers(365)))
    cards = [str(number) for number in sorted(rng.choice(np.arange(1000, 10_000), size=MEMBERS, replace=False))]
    firsts, lasts = (rng.choice(names, size=MEMBERS, replace=False).tolist() for names in (FIRST, LAST))
    members = {
        card: Member(
            name=f"{first} {last}",
            born=draw_birthday(rng),
            email=f"{first}.{last}@post.example".lower(),
            membership="plus" if rng.random() < 0.5 else "basic",
            fines=int(rng.integers(1, 20)) * 10 if rng.random() < 0.3 else 0,
        )
        for card, first, last in zip(cards, firsts, lasts, strict=True)
    }
    titles = rng.choice(len(ADJECTIVES) * len(NOUNS), size=BOOKS, replace=False)
    books, copies = {}, {}
    for number, title in enumerate(titles.tolist(), 1):
        author = f"{FIRST[rng.integers(len(FIRST))]} {LAST[rng.integers(len(LAST))]}"
        books[f"B{number}"] = Book(f"The {ADJECTIVES[title % 12]} {NOUNS[title // 12]}", author)
        for kind in rng.permutation(len(FORMATS))[: rng.integers(1, 4)].tolist():
            copies[f"C{len(copies) + 101}"] = Copy(f"B{number}", FORMATS[kind])
    library = Library(today.isoformat(), members, books, copies, {}, {})
    for copy in copies:
        card = cards[rng.integers(MEMBERS)]
        if rng.random() < 1 / 3 and len(library.loans_of(card)) < LOAN_LIMIT[members[card].membership] - 1:
            library.loans[copy] = Loan(card, day(library, int(rng.integers(1, 21))))
    return library


def draw_birthday(rng: np.random.Generator) -> str:
    """A date of birth, ISO."""
    return (date(1940, 1, 1) + timedelta(days=int(rng.integers(25_000)))).isoformat()


def day(library: Library, later: int) -> str:
    """The ISO date so many days from today."""
    return (date.fromisoformat(library.today) + timedelta(days=later)).isoformat()
