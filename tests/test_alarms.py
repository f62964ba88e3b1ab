"""What alarms say, how often, and when they stop a run."""

import math
import re
import threading

import pytest
from tiny import REPOSITORY

from grpo_agents.alarms import ALARMS, Alarms, AlarmsConfig
from grpo_agents.config import Config, list_keys
from grpo_agents.section import keys_of
from grpo_agents.threads import HANGING

GOOD = {"loss": 0.1, "entropy": 0.5, "groups_tied": 0.5}
NOT_FINITE = {"loss": math.nan, "entropy": math.nan, "skipped/non_finite": 1.0}
TIED = {"groups_tied": 1.0, "skipped/no_gradient": 2.0}


@pytest.fixture
def said():
    return []


@pytest.fixture
def alarms(said):
    """Makes alarms of some settings."""
    return lambda *, samples=True, **settings: Alarms(AlarmsConfig(**settings), said.append, samples=samples)


@pytest.fixture
def hang():
    """Starts so many threads that hang as given up ones do, until the test ends."""
    release, started = threading.Event(), []

    def start(count):
        started.extend(threading.Thread(target=release.wait, args=(60,), name=HANGING) for _ in range(count))
        for thread in started[-count:]:
            thread.start()

    yield start
    release.set()
    for thread in started:
        thread.join()


def look(alarms, step, figures, *, failed="", not_finite=""):
    return alarms.look(step, figures, failed=failed, not_finite=not_finite)


@pytest.mark.parametrize(
    ("name", "figures", "reasons", "line"),
    [
        ("non_finite", NOT_FINITE, {"not_finite": "trajectory 0.3: log π is not finite"},
         "trajectory 0.3: log π is not finite; its update was not made"),
        ("ratio", {"kl_old": 3.25, "skipped/ratio": 2.0}, {},
         "π/π_old exploded: KL(π_old‖π) is 3.25 nats a token, above 1 (alarms.kl_old); 2 updates were not made"),
        ("failed", {**TIED, "left_out": 8.0}, {"failed": "error: shop: no pears"},
         "every episode of the batch lacks a reward, most for this: error: shop: no pears"),
        ("tied", TIED, {}, "groups_tied is 1: in every group all episodes earned the same, or are left out; 2 updates "
         "were not made"),
        ("tied", {"groups_tied": 1.0, "kl": 0.1}, {}, "groups_tied is 1: in every group all episodes earned the same, "
         "or are left out; updates follow only what else the loss has"),
        ("entropy", {**GOOD, "entropy": 0.0049}, {}, "entropy has collapsed: 0.0049 nats a token, below 0.005 "
         "(alarms.entropy_share of the first step's 0.5, alarms.entropy_floor)"),
    ],
)  # fmt: skip
def test_an_alarm_says_what_where_and_what_to_try(alarms, said, name, figures, reasons, line):
    one = alarms()
    assert look(one, 0, GOOD) == {}
    assert said == []
    assert look(one, 11, figures, **reasons) == {f"alarms/{name}": 1.0}
    assert said == [f"step 12: {line}. Try: {ALARMS[name].remedy}"]
    assert one.over == ""


def test_what_goes_on_is_said_again_only_every_so_often(alarms, said):
    one = alarms(again=4, stop_after_stuck=0)
    assert all(look(one, step, TIED) == {"alarms/tied": 1.0} for step in range(2, 11))
    assert [line.split(":")[0] for line in said] == ["step 3", "step 7", "step 11"]
    assert one.over == ""


@pytest.mark.parametrize(("figures", "key", "limit"), [(NOT_FINITE, "stop_after", 3), (TIED, "stop_after_stuck", 5)])
def test_so_many_in_a_row_stop_the_run_and_one_good_step_begins_anew(alarms, figures, key, limit):
    one = alarms(**{key: limit})
    for step in range(limit - 1):
        look(one, step, figures, not_finite="the loss")
    look(one, limit, GOOD)
    for step in range(limit):
        assert one.over == ""
        look(one, step, figures, not_finite="the loss")
    assert one.over.startswith(f"{limit} steps in a row went wrong (alarms.{key}), the last one so: ")
    assert {"spoiled": 0, "stuck": 0}.items() <= one.state.items()  # whoever goes on has all of them again


def test_a_spoiled_step_between_tied_ones_teaches_no_more_than_they_do(alarms):
    one = alarms(stop_after_stuck=4)
    for step in range(4):
        look(one, step, NOT_FINITE if step == 2 else TIED, not_finite="the loss")
    assert "4 steps in a row went wrong (alarms.stop_after_stuck)" in one.over


def test_what_was_counted_goes_on_from_a_checkpoint(alarms):
    """The same steps ring and stop, also those for which the first entropy counts."""
    steps = [GOOD, {**GOOD, "entropy": 0.004}, NOT_FINITE, NOT_FINITE, NOT_FINITE]
    for cut in range(len(steps)):
        whole, before, after = alarms(), alarms(), alarms()
        for step in range(cut):
            assert look(before, step, steps[step], not_finite="x") == look(whole, step, steps[step], not_finite="x")
        after.restore(before.state)
        for step in range(cut, len(steps)):
            assert look(after, step, steps[step], not_finite="x") == look(whole, step, steps[step], not_finite="x")
        assert after.over == whole.over != ""


@pytest.mark.parametrize(("first", "now", "rings"), [
    (0.5, 0.006, False), (0.5, 0.004, True), (0.05, 0.0006, True), (0.05, 0.0011, False), (math.nan, 0.0011, False),
])  # fmt: skip
def test_entropy_collapses_below_a_share_of_the_first_or_the_floor(alarms, first, now, rings):
    for samples in (True, False):  # imitation is there to lower it
        one = alarms(samples=samples)
        look(one, 0, {"entropy": first})
        assert look(one, 1, {"entropy": now}) == ({"alarms/entropy": 1.0} if rings and samples else {})


def test_threads_that_hang_are_a_figure_an_alarm_and_the_end(alarms, said, hang):
    one = alarms(hanging=6)
    hang(2)
    assert look(one, 0, GOOD) == {"threads/hanging": 2.0}
    hang(1)
    assert look(one, 1, GOOD) == {"alarms/hanging": 1.0, "threads/hanging": 3.0}
    assert len(said) == 1
    assert one.over == ""
    hang(3)
    look(one, 2, GOOD)
    assert one.over.startswith("6 threads hang in steps of environments")


def test_the_keys_that_an_alarm_names_are_those_of_a_config():
    known = {key.name for key in list_keys()}
    for name, alarm in ALARMS.items():
        words = re.findall(
            r"\b(?:learner|method|rollout|model|source|curriculum|rewards)\.[a-z_.]*[a-z_]", alarm.remedy
        )
        assert words, name
        assert set(words) <= known, name
    assert {key.name for key in keys_of(AlarmsConfig, "alarms")} <= known
    assert Config.model_fields["alarms"].annotation is AlarmsConfig


def test_the_table_of_the_readme_is_that_of_the_alarms():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = re.search(r"^\| `alarms/…` \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert cells == [[f"`{name}`", alarm.meaning, alarm.remedy] for name, alarm in ALARMS.items()]
    for key in keys_of(AlarmsConfig, "alarms"):
        assert f"`{key.name}` ({key.default})" in text
