"""What the person at the desk has to know: the rules as text, and those that the system does not enforce as code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_agents.envs.library_desk.circulation import DAY_FINE, LOAN_DAYS, LOAN_LIMIT, MOST_FINES, MOST_RENEWALS
from grpo_agents.envs.library_desk.database import Library


def policy(today: str) -> str:
    """The rules of the house, as the policy under training is told them."""
    return f"""\
You work at the desk of a library. Today is {today}. Serve one member: call tools to look things up and to write them \
down, and talk to the member in messages without tool calls.

- Know who it is before you change anything: by card number, or by name and date of birth. Names may occur twice.
- Do what the member asks for and nothing else. Ask where something is not clear, as which of several copies.
- A basic membership allows {LOAN_LIMIT["basic"]} loans of {LOAN_DAYS["basic"]} days, plus {LOAN_LIMIT["plus"]} of \
{LOAN_DAYS["plus"]}.
- Nobody borrows while a loan of theirs is overdue; holds are allowed. The system does not check this.
- Copies of the format "reference" are never lent. The system does not check this.
- A loan is renewed at most {MOST_RENEWALS} times, not while others wait for the book, and not when it is overdue. The \
system does not check the last.
- Copies on the shelf go first to those with a hold, in their order. A hold can be placed where no copy is free; offer \
it where a book to be borrowed is out, and place it if the member agrees.
- A copy that comes back late costs {DAY_FINE} cents a day. Above {MOST_FINES} cents of fines nothing is lent or \
renewed: offer to take the payment of all that is owed, and take it if the member agrees.
- Where a rule forbids a wish, say so and do the rest.

When everything is done, say that it is done and ask whether there is anything else."""


def objection(library: Library, call: Mapping[str, Any]) -> str | None:
    """Which rule that the system does not enforce a call would break; None where it breaks none.

    Args:
        library: The state before the call.
        call: ``name`` and ``arguments``.
    """
    arguments = call["arguments"]
    if call["name"] == "lend":
        if library.overdue(arguments["card"]):
            return f"member {arguments['card']} has an overdue loan and borrows nothing"
        copy = library.copies.get(arguments["copy"])
        if copy is not None and copy.format == "reference":
            return f"copy {arguments['copy']} is for reference and stays in the house"
    if call["name"] == "renew":
        loan = library.loans.get(arguments["copy"])
        if loan is not None and loan.due < library.today:
            return f"the loan of {arguments['copy']} is overdue and is not renewed"
    return None
