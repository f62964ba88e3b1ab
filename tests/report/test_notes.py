"""What group rewards left behind is read beside the group."""

import pytest
from made import make_run
from playwright.sync_api import expect

from grpo_agents import store
from grpo_agents.report.contents import note_data
from grpo_agents.report.document import write_report
from grpo_agents.report.sources import find_source

LABEL = {
    "text": "<b>7</b> it is: 7",
    "answer": "7",
    "rollouts": [0, 1, 2],
    "answers": ["7", "8", None],
    "classes": [0, 1, None],
    "agrees": [1.0, 0.0, 0.0],
    "gold": 0.0,
    "calls": 1,
    "read": 1234,
    "written": 56,
}
RUBRIC = {
    "text": "a reference",
    "criteria": [{"criterion": "Is it short?", "points": 1.0}, {"criterion": "Does it guess?", "points": -2.0}],
    "rollouts": [0, 1, 2],
    "verdicts": [[True, False], [False, None], [True, True]],
    "calls": 9,
}


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """The page of a run, opened at a group with notes."""
    run = make_run(tmp_path_factory.mktemp("noted") / "mine", steps=range(2))
    file = run / "trajectories" / "train-000001.parquet"
    groups, scoring = store.read_groups(file), store.read_scoring(run / "trajectories" / "eval-000000.parquet")
    groups[2].notes = {"reference": LABEL, "rubric": RUBRIC, "own": {"seen": 3}}
    store.write(file, groups, step=1, phase="train", scoring=scoring)
    write_report(find_source(run), run / "report.html")
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(f"file://{run / 'report.html'}#step=1&phase=train&trajectory=2.1")
    yield page
    assert errors == []
    page.close()


@pytest.mark.browser
def test_a_reference_is_shown_with_who_agrees_and_what_gold_says(page):
    note = page.locator(".noted", has_text="reference").first
    expect(note.locator("summary")).to_contain_text("7: 1 of 3 agree, wrong by gold (calls 1, read 1,234, written 56)")
    note.locator("summary").click()
    expect(note.locator("pre")).to_have_text("<b>7</b> it is: 7")
    expect(note.locator("thead th")).to_have_text(["", "2.0", "2.1", "2.2"])
    expect(note.locator("tbody td")).to_have_text(["7", "8", "none", "yes", "no", "no"])


@pytest.mark.browser
def test_criteria_are_shown_with_every_verdict(page):
    note = page.locator(".noted", has_text="Is it short?")
    expect(note.locator("summary")).to_contain_text("2 criteria (calls 9)")
    note.locator("summary").click()
    expect(note.locator("tbody th")).to_have_text(["Is it short?", "Does it guess? (-2)"])
    expect(note.locator("tbody td")).to_have_text(["yes", "no", "yes", "no", "missing", "yes"])


@pytest.mark.browser
def test_another_note_is_shown_as_it_is(page):
    note = page.locator(".prompt > .fold", has_text="own")
    note.locator("summary").click()
    expect(note.locator("pre")).to_have_text('{"seen": 3}')


@pytest.mark.parametrize("note", [3, None, "text", [1], {"text": "x"}, {"text": "x", "rollouts": [0], "agrees": [1]}])
def test_what_has_another_form_is_text(note):
    assert note_data("own", note).keys() == {"name", "text"}
