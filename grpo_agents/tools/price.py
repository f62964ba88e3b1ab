"""What using something costs, in dollars."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a call and for the tokens that it reads and writes.

    >>> price = Price(call=0.01, read=2e-6, written=8e-6)
    >>> round(price.of(1000, 500), 6)
    0.016
    >>> str(price)
    '$0.01 a call, $2 per million tokens read, $8 per million tokens written'

    Attributes:
        call: A call.
        read: A token of the prompt.
        written: A token of the answer.

    Raises:
        ValueError: One of them is negative, infinite or no number.
    """

    call: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            check_amount(getattr(self, field.name), f"the price {field.name}")

    @property
    def by_tokens(self) -> bool:
        """Whether it depends on tokens, and is known only when they are counted."""
        return bool(self.read or self.written)

    def of(self, read: int | None, written: int | None) -> float:
        """What one call costs that has read and written so many tokens.

        Raises:
            ValueError: A token has a price and nobody counted them.
        """
        if (read is None and self.read) or (written is None and self.written):
            raise ValueError("its tokens have a price, and nobody counted them")
        return self.call + self.read * (read or 0) + self.written * (written or 0)

    def __str__(self) -> str:
        """As a person reads it."""
        parts = [f"${self.call:g} a call"] if self.call or not self.by_tokens else []
        parts += [
            f"${1e6 * each:g} per million tokens {what}"
            for each, what in ((self.read, "read"), (self.written, "written"))
            if each
        ]
        return ", ".join(parts)


def check_amount(value: float, what: str) -> None:
    """Refuses dollars or seconds that cannot be.

    Raises:
        ValueError: Names what it is.
    """
    if not (isinstance(value, Real) and 0 <= value < math.inf):
        raise ValueError(f"{what} is {value!r}: it must not be negative, and must be a finite number")


FREE = Price()
"""What costs nothing."""
