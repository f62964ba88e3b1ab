"""The library's state and the rules that its system enforces, by cases worked out by hand."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.envs.library_desk.circulation import (
    Refused,
    cancel_hold,
    change_email,
    give_back,
    lend,
    pay_fines,
    place_hold,
    renew,
)
from grpo_agents.envs.library_desk.database import Library
from grpo_agents.envs.library_desk.policy import objection
from grpo_agents.envs.library_desk.tools import WRITES, Desk
from grpo_agents.spaces import tool_call
from grpo_agents.tools import run_calls


def member(name, **changed):
    return {"name": name, "born": "1980-05-17", "email": "a@b.example", "membership": "basic", "fines": 0, **changed}


def state(**changed):
    """Ada (1001, basic) and Ben (1002, plus); B1 in two copies, B2 in one, B3 for reference; 2 March 2026."""
    formats = {
        "C1": ("B1", "hardback"),
        "C2": ("B1", "paperback"),
        "C3": ("B2", "paperback"),
        "C4": ("B3", "reference"),
    }
    made = {
        "today": "2026-03-02",
        "members": {"1001": member("Ada Berg"), "1002": member("Ben Costa", membership="plus")},
        "books": {f"B{number}": {"title": f"The Book {number}", "author": "Ines Ward"} for number in (1, 2, 3)},
        "copies": {copy: {"book": book, "format": kind} for copy, (book, kind) in formats.items()},
        "loans": {},
        "holds": {},
        **changed,
    }
    return copy.deepcopy(made)


def library(**changed):
    return Library.from_dict(state(**changed))


def loan(card, due, renewals=0):
    return {"card": card, "due": due, "renewals": renewals}


@pytest.mark.parametrize(("card", "due"), [("1001", "2026-03-23"), ("1002", "2026-04-13")])
def test_a_loan_is_of_three_weeks_or_six(card, due):
    desk = library()
    assert lend(desk, card, "C3").due == due
    assert desk.on_shelf("B2") == []


def test_a_copy_is_lent_once():
    desk = library(loans={"C3": loan("1002", "2026-03-10")})
    with pytest.raises(Refused, match="copy C3 is on loan"):
        lend(desk, "1001", "C3")


def test_a_basic_membership_has_three_loans():
    copies = {f"C{number}": {"book": f"B{number}", "format": "paperback"} for number in range(1, 5)}
    books = {f"B{number}": {"title": f"T{number}", "author": "A"} for number in range(1, 5)}
    desk = library(copies=copies, books=books)
    for number in (1, 2, 3):
        lend(desk, "1001", f"C{number}")
    with pytest.raises(Refused, match="has 3 loans, the most that a basic membership allows"):
        lend(desk, "1001", "C4")
    lend(desk, "1002", "C4")


@pytest.mark.parametrize(("fines", "refused"), [(500, False), (501, True)])
def test_above_five_dollars_of_fines_nothing_is_lent_or_renewed(fines, refused):
    desk = library(members={"1001": member("Ada Berg", fines=fines)}, loans={"C1": loan("1001", "2026-03-04")})
    for action in (lambda: lend(desk, "1001", "C3"), lambda: renew(desk, "C1")):
        if refused:
            with pytest.raises(Refused, match="owes 501 cents; above 500 nothing"):
                action()
        else:
            action()


def test_holds_come_first_in_their_order():
    desk = library(holds={"B1": ["1002"]})
    lend(desk, "1001", "C1")  # two copies on the shelf, one of them kept
    desk = library(holds={"B2": ["1002"]})
    with pytest.raises(Refused, match="kept for 1 members with earlier holds"):
        lend(desk, "1001", "C3")
    lend(desk, "1002", "C3")
    assert desk.holds == {}


def test_a_renewal_counts_from_today_and_there_are_two():
    desk = library(loans={"C1": loan("1001", "2026-03-20")})
    assert [renew(desk, "C1").renewals for _ in range(2)] == [1, 2]
    assert desk.loans["C1"].due == "2026-03-23"
    with pytest.raises(Refused, match="renewed 2 times"):
        renew(desk, "C1")


def test_what_others_wait_for_is_not_renewed():
    with pytest.raises(Refused, match="others wait for B1"):
        renew(library(loans={"C1": loan("1001", "2026-03-20")}, holds={"B1": ["1002"]}), "C1")


@pytest.mark.parametrize(("due", "fine"), [("2026-03-02", 0), ("2026-03-01", 20), ("2026-02-20", 200)])
def test_a_late_return_costs_twenty_cents_a_day(due, fine):
    desk = library(loans={"C1": loan("1001", due)})
    assert give_back(desk, "C1") == fine
    assert desk.members["1001"].fines == fine
    assert desk.loans == {}


def test_holds_are_for_books_that_are_not_free():
    desk = library(loans={"C3": loan("1002", "2026-03-10")})
    with pytest.raises(Refused, match="a copy of B1 is free"):
        place_hold(desk, "1001", "B1")
    with pytest.raises(Refused, match="member 1002 has a copy of B2"):
        place_hold(desk, "1002", "B2")
    assert place_hold(desk, "1001", "B2") == 1
    with pytest.raises(Refused, match="member 1001 has a hold on B2"):
        place_hold(desk, "1001", "B2")
    cancel_hold(desk, "1001", "B2")
    assert desk.holds == {}
    with pytest.raises(Refused, match="has no hold"):
        cancel_hold(desk, "1001", "B2")


def test_fines_are_paid_up_to_what_is_owed():
    desk = library(members={"1001": member("Ada Berg", fines=120)})
    assert pay_fines(desk, "1001", 100) == 20
    for cents in (0, -5, 21):
        with pytest.raises(Refused, match="owes 20 cents"):
            pay_fines(desk, "1001", cents)


def test_an_address_has_a_name_and_a_place():
    desk = library()
    change_email(desk, "1001", "ada@new.example")
    assert desk.members["1001"].email == "ada@new.example"
    for wrong in ("ada", "ada@", "@new.example", "a da@new.example"):
        with pytest.raises(Refused, match="is no e-mail address"):
            change_email(desk, "1001", wrong)


def test_three_rules_are_left_to_the_policy():
    """The system does each of these; only the policy's text forbids it."""
    late = {"C1": loan("1001", "2026-03-01")}
    for desk, call in (
        (library(loans=late), {"name": "lend", "arguments": {"card": "1001", "copy": "C3"}}),
        (library(loans=late), {"name": "renew", "arguments": {"copy": "C1"}}),
        (library(), {"name": "lend", "arguments": {"card": "1001", "copy": "C4"}}),
    ):
        assert objection(desk, call)
        _, (run,) = _run(desk, call["name"], **call["arguments"])
        assert run.error is None
    on_time = library(loans={"C1": loan("1001", "2026-03-02")})
    assert objection(on_time, {"name": "lend", "arguments": {"card": "1001", "copy": "C3"}}) is None
    assert objection(on_time, {"name": "renew", "arguments": {"copy": "C1"}}) is None


def _run(desk, tool, /, **arguments):
    return run_calls({entry.name: entry.of(Desk(desk)) for entry in LibraryDeskEnv.tools}, [tool_call(tool, arguments)])


def test_a_refusal_is_a_message_and_changes_nothing():
    desk = library()
    (message,), (run,) = _run(desk, "lend", card="1001", copy="C9")
    assert message["content"] == "Error: tool 'lend' failed: Refused: there is no copy 'C9'"
    assert run.dollars == 0.02
    assert desk == library()


def test_what_the_look_ups_show():
    desk = library(loans={"C1": loan("1001", "2026-03-20", 1)}, holds={"B2": ["1002", "1001"]})
    before = desk.copy()

    def shown(tool, **arguments):
        content = _run(desk, tool, **arguments)[0][0]["content"]
        return content if content.startswith("Error") else json.loads(content)

    assert shown("find_members", name=" ada BERG") == [{"card": "1001", "name": "Ada Berg", "born": "1980-05-17"}]
    assert shown("find_members", name="Ada") == []
    account = shown("show_member", card="1001")
    (lent,) = account["loans"]
    assert (lent["copy"], lent["title"], lent["due"], lent["renewals"]) == ("C1", "The Book 1", "2026-03-20", 1)
    assert account["holds"] == [{"book": "B2", "title": "The Book 2", "place": 2}]
    (found,) = shown("search_books", words="1 BOOK")
    assert found["copies"] == [
        {"copy": "C1", "format": "hardback", "due": "2026-03-20"},
        {"copy": "C2", "format": "paperback", "due": "on the shelf"},
    ]
    assert [book["waiting"] for book in shown("search_books", words="ward")] == [0, 2, 0]
    assert shown("search_books", words="whale") == []
    assert "a search needs a word" in shown("search_books", words=" ")
    assert "there is no member with card '7'" in shown("show_member", card="7")
    assert not desk.differences(before)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"loans": {"C9": loan("1001", "2026-03-01")}}, r"loans\.C9: there is no copy 'C9'"),
        ({"loans": {"C1": loan("7", "2026-03-01")}}, r"loans\.C1: there is no member '7'"),
        ({"holds": {"B1": ["7"]}}, r"holds\.B1: there is no member '7'"),
        ({"holds": {"B9": ["1001"]}}, r"holds\.B9: there is no book 'B9'"),
        ({"holds": {"B1": []}}, r"holds\.B1: a queue holds each card once"),
        (
            {"members": {"1001": member("Ada", membership="gold")}},
            r"members\.1001\.membership: Input should be 'basic'",
        ),
        ({"copies": {"C1": {"book": "B1"}}}, r"copies\.C1\.format: Field required"),
    ],
)
def test_a_broken_database_is_named(changed, problem):
    with pytest.raises(ValueError, match=f"the database, {problem}"):
        library(**changed)


def test_order_matters_in_a_queue_only():
    one = library(holds={"B1": ["1001", "1002"]})
    turned = Library.from_dict({**state(), "members": dict(reversed(state()["members"].items()))})
    assert not library().differences(turned)
    assert one.differences(library(holds={"B1": ["1002", "1001"]})) == ["the holds on B1"]
    assert one.differences(library()) == ["the holds on B1"]


CARDS, COPIES, BOOKS = ("1001", "1002", "7"), ("C1", "C2", "C3", "C4", "C9"), ("B1", "B2", "B3", "B9")
ARGUMENTS = {
    "card": st.sampled_from(CARDS),
    "copy": st.sampled_from(COPIES),
    "book": st.sampled_from(BOOKS),
    "cents": st.integers(-10, 700),
    "email": st.sampled_from(["x@y.example", "nothing"]),
}
ACTIONS = st.one_of(
    [
        st.tuples(
            st.just(tool.name),
            st.fixed_dictionaries({key: ARGUMENTS[key] for key in tool.schema["function"]["parameters"]["properties"]}),
        )
        for tool in WRITES
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_whatever_is_done_copies_are_kept_and_states_are_sound(actions):
    begun = library(
        members={"1001": member("Ada Berg", fines=620), "1002": member("Ben Costa", membership="plus")},
        loans={"C1": loan("1001", "2026-02-20"), "C3": loan("1002", "2026-03-20")},
    )
    before, again = begun.copy(), begun.copy()
    for name, arguments in actions:
        then = begun.copy()
        _, (run,) = _run(begun, name, **arguments)
        _, (other,) = _run(again, name, **arguments)
        assert run == other
        assert run.error is None or begun == then  # what is refused changes nothing
    assert begun == again
    assert Library.from_dict(begun.as_dict()) == begun  # every id stands for something, and queues are sound
    for book in begun.books:
        lent = [copy for copy in begun.copies_of(book) if copy in begun.loans]
        shelf = [copy for copy in begun.copies_of(book) if copy not in begun.loans]
        assert sorted(lent + shelf) == before.copies_of(book)
        assert set(begun.on_shelf(book)) <= set(shelf)
    assert all(entry.fines >= 0 for entry in begun.members.values())
    assert len(begun.loans_of("1001")) <= 3
