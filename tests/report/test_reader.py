"""The page in a browser: what a person sees, clicks and types."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import grouped, make_run, rollout
from playwright.sync_api import expect
from tiny import make_tokenizer

from grpo_agents import store
from grpo_agents.report.document import write_report
from grpo_agents.report.sources import find_source

pytestmark = pytest.mark.browser
LINK = "#step=1&phase=train&trajectory=2.1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a tokenizer, an error in one tool, and one trajectory under the lens."""
    run = make_run(tmp_path_factory.mktemp("page") / "mine", steps=range(4))
    make_tokenizer().save_pretrained(run / "model")
    file = run / "trajectories" / "train-000003.parquet"
    groups = store.read_groups(file)
    wrong = groups[1].trajectories[2]
    wrong.steps[0].tools[0].name, wrong.steps[0].tools[0].error = "expert", "out of reach"
    wrong.stop_reason, wrong.rewards["outcome"] = "turns", None
    wrong.missing["outcome"] = "the judge is down"
    wrong.steps[0].dollars, wrong.steps[0].advantage = 0.25, None
    wrong.prompt = groups[1].trajectories[0].prompt
    store.write(
        file, groups, step=3, phase="train", scoring=store.read_scoring(run / "trajectories" / "eval-000000.parquet")
    )
    columns = {
        "run_step": [1],
        "phase": ["train"],
        "group": [2],
        "index": [1],
        "sample": [0],
        "position": [4],
        "grpo": [-2.5],
    }
    (run / "lens").mkdir()
    about = {b"grpo_agents.lens": json.dumps({"grpo": {}}).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(about), run / "lens" / "train-000001-2.1.parquet")
    write_report(find_source(run), run / "report.html")
    return run


@pytest.fixture(scope="module")
def trajectory(run):
    """The one that LINK names."""
    return next(one for one in store.iterate(run / "trajectories" / "train-000001.parquet") if one.id == "2.1")


@pytest.fixture
def open_page(browser, run):
    """Opens the page from disk; afterwards nothing may have been logged, asked for or raised."""
    contexts, trouble = [], []

    def opened(link="", **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1300, "height": 850}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else trouble.append(request.url))
        page.goto(f"{(run / 'report.html').as_uri()}{link}")
        page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def current(page):
    return page.inner_text(".rollout.current h3")


def test_the_overview_shows_every_kind_of_chart(open_page):
    page = open_page()
    assert page.locator("#overview h2").all_inner_texts() == [
        "In eval 2",
        "Curves",
        "Distributions",
        "Accuracy against cost",
        "Tool calls by preference",
        "How episodes ended",
        "Errors",
    ]
    labels = page.eval_on_selector_all("#overview svg", "all => all.map(svg => svg.getAttribute('aria-label'))")
    assert "Reward. training: last 0.3; evaluation: last 0.6" in labels
    assert any(label.startswith("Distribution of cost.") for label in labels)
    assert any(re.match(r"outcome against cost: 2 preferences, [12] on the front", label) for label in labels)
    assert page.locator("#overview .band").count() == 1
    assert page.locator(".tile").count() == 3


def test_a_chart_says_its_numbers_to_the_pointer_and_to_the_keys(open_page):
    page = open_page()
    chart = page.locator("figure", has_text="Reward").first.locator("svg")
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 16, box["y"] + 60)
    assert page.inner_text("#tip").split("\n") == ["step 3", "training", "0.3"]
    chart.focus()
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#tip").split("\n") == ["step 2", "training", "0.2", "evaluation", "0.6 (0.3 … 0.6)"]


def test_a_series_can_be_left_out(open_page):
    page = open_page()
    assert page.locator(".line.c2").count() > 0
    page.click("button.toggle:has-text('evaluation')")
    assert page.locator(".line.c2").count() == 0
    assert page.get_attribute("button.toggle:has-text('evaluation')", "aria-pressed") == "false"


def test_a_link_opens_its_trajectory(open_page, trajectory):
    page = open_page(LINK)
    assert current(page) == "2.1"
    assert page.inner_text(".group h2") == "train, step 1, group 2"
    assert page.inner_text(".prompt .text") == trajectory.prompt[0]["content"]
    assert page.locator(".rollout").count() == 4
    words = "".join(page.locator(".rollout.current .turn >> nth=1 >> .token").all_inner_texts())
    ids = trajectory.samples[0].ids[slice(*trajectory.steps[1].span)]
    assert words.replace("↵\n", "\n") == "".join(make_tokenizer().decode([number]) for number in ids)
    page.click(".rollout >> nth=3 >> h3 a")
    assert page.url.endswith("#step=1&phase=train&trajectory=2.3")
    assert current(page) == "2.3"
    page.goto(page.url.partition("#")[0] + "#step=0&phase=eval&trajectory=5.0")  # another link in the same page
    expect(page.locator(".group h2")).to_have_text("eval, step 0, group 5")


def test_a_link_to_what_is_not_there_says_so(open_page):
    page = open_page("#step=77&phase=train&trajectory=0.0")
    assert "not on this page" in page.inner_text("#reader")


def test_tokens_are_coloured_by_what_is_chosen(open_page, trajectory):
    page = open_page(LINK)
    step = trajectory.steps[0]
    token = page.locator(".rollout.current .token").first

    def number():
        token.hover()
        lines = page.inner_text("#tip").split("\n")[1:]
        return dict(zip(lines[::2], lines[1::2], strict=True))

    logprob = trajectory.samples[0].logprobs[step.span[0]]
    shown = number()
    assert float(shown["log-prob"].replace("−", "-")) == pytest.approx(logprob, abs=6e-3)
    assert float(shown["advantage"].replace("−", "-")) == pytest.approx(trajectory.advantage, abs=6e-3)
    assert shown["coefficient: grpo"] == "−2.5"
    page.select_option("#colouring", "advantage")
    signs = page.eval_on_selector_all(".rollout.current .token", "all => [...new Set(all.map(one => one.className))]")
    assert all(("minus" in name) == (trajectory.advantage < 0) for name in signs if name != "token t-0")
    second = page.locator(".rollout.current .turn >> nth=1 >> .token").first
    second.hover()
    assert float(page.inner_text("#tip dd >> nth=1").replace("−", "-")) == pytest.approx(
        trajectory.advantage + 0.25, abs=6e-3
    )
    page.select_option("#colouring", "coefficient: grpo")
    assert token.get_attribute("class") == "token t-minus-4"
    assert second.get_attribute("class") == "token t-none"
    page.select_option("#colouring", "off")
    assert page.locator(".token").count() == 0
    assert page.inner_text(".rollout.current .turn >> nth=1 >> .text") == "so it is"


def test_a_turn_says_what_its_tokens_cost_and_that_it_is_not_learned_from(open_page):
    page = open_page("#step=3&phase=train&trajectory=1.2")
    heads = page.locator(".rollout.current .turn h4")
    assert heads.all_inner_texts()[0].startswith("turn 1 · 12 tokens · 0.25 $ · not learned from")
    assert "$" not in heads.all_inner_texts()[1]
    assert "advantage +0.25 here" in heads.all_inner_texts()[1]


def test_calls_are_folded_and_open_on_a_click(open_page):
    page = open_page(LINK)
    call = page.locator(".rollout.current .call")
    assert not call.locator("pre").first.is_visible()
    call.locator("summary").click()
    assert call.locator("pre").all_inner_texts() == ['{\n  "expression": "2+1"\n}', "the result"]
    assert "2 $, 0.5 s" in call.inner_text()


def test_keys_lead_through_rollouts_and_groups(open_page):
    page = open_page("#trajectories")

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)

    def shows(address, rollout=None):
        """The page comes to this: an address changes at once, the page after it."""
        expect(page).to_have_url(re.compile(re.escape(address) + "$"))
        heading = page.locator(".rollout.current h3")
        expect(heading).to_have_count(0) if rollout is None else expect(heading).to_have_text(rollout)

    press("n")
    shows("#step=0&phase=eval&trajectory=0.0", "0.0")
    press(*"n" * 12)
    expect(page.locator(".group h2")).to_have_text("train, step 0, group 0")
    press("j")
    shows("#step=0&phase=train&trajectory=0.1", "0.1")
    press("ArrowRight", "j", "j", "j")  # there are no more
    shows("#step=0&phase=train&trajectory=0.3", "0.3")
    press("k", "ArrowLeft")
    shows("#step=0&phase=train&trajectory=0.1", "0.1")
    press("p")
    expect(page.locator(".group h2")).to_have_text("eval, step 2, group 5")
    press("?")
    expect(page.locator("#keys")).to_be_visible()
    assert "next group" in page.inner_text("#keys")
    press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    press("/")
    page.keyboard.type("jn apples")  # letters, no keys
    assert page.evaluate("document.activeElement.name") == "text"
    assert page.input_value("[name=text]") == "jn apples"
    press("Escape")
    assert page.evaluate("document.activeElement.name") is None
    press("Escape")
    shows("#trajectories")
    press("Escape")
    shows("#overview")


def found(page):
    return page.inner_text("#found")


def test_the_filter(open_page):
    page = open_page("#trajectories")
    whole = "60 trajectories, 24 groups"
    assert found(page) == whole
    for name, value, expected in (
        ("text", "APPLES 5", "2 of 60 trajectories, 2 groups"),
        ("text", "task 5", "2 of 60 trajectories, 2 groups"),
        ("from", "3", "12 of 60 trajectories, 3 groups"),
        ("to", "0", "18 of 60 trajectories, 9 groups"),
    ):
        page.fill(f"[name={name}]", value)
        assert found(page) == expected, name
        page.click("button[type=reset]")
        expect(page.locator("#found")).to_have_text(whole)
    for name, label, expected in (
        ("phase", "train", "48 of 60 trajectories, 12 groups"),
        ("tool", "expert", "1 of 60 trajectories, 1 groups"),
        ("tool", "none called", "0 of 60 trajectories, 0 groups"),
        ("error", "some error", "1 of 60 trajectories, 1 groups"),
        ("error", "expert: out of reach", "1 of 60 trajectories, 1 groups"),
        ("stop", "turns", "1 of 60 trajectories, 1 groups"),
    ):
        page.select_option(f"[name={name}]", label=label)
        assert found(page) == expected, (name, label)
        page.click("button[type=reset]")
        expect(page.locator("#found")).to_have_text(whole)
    page.select_option("[name=component]", label="cost")
    page.fill("[name=least]", "4")
    assert found(page) == "12 of 60 trajectories, 12 groups"  # the last rollout of each group of training
    page.click("#rows a >> nth=1")
    page.wait_for_selector(".rollout.current")
    assert current(page) == "1.3"  # the one that fits
    assert page.locator(".rollout.unmatched").count() == 3
    page.fill("[name=most]", "3.5")
    assert found(page).startswith("0 of 60")


def test_an_error_of_the_overview_leads_to_its_trajectories(open_page):
    page = open_page()
    page.click(".error-row")
    assert page.locator("#rows li").count() == 1
    page.click("#rows a")
    page.wait_for_selector(".rollout.current")
    assert current(page) == "1.2"
    text = page.inner_text(".rollout.current")
    assert "missing: the judge is down" in text
    page.click(".rollout.current .call.failed summary")
    assert "out of reach" in page.inner_text(".rollout.current .call")


def test_a_phone_has_no_page_that_scrolls_sideways(open_page):
    for link in ("", "#trajectories", LINK):
        page = open_page(link, viewport={"width": 390, "height": 844}, has_touch=True)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, link
    page.tap(".rollout.current .token >> nth=0")
    assert "log-prob" in page.inner_text("#tip")
    page.tap(".back")
    page.wait_for_selector("#list", state="visible")
    assert not page.locator("#reader").is_visible()


def luminance(colour):
    """Relative luminance of rgb(…), as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_themes(open_page, scheme):
    page = open_page(LINK, color_scheme=scheme)
    style = (
        "one => [getComputedStyle(one).color, getComputedStyle(one.closest('.rollout, aside, body')).backgroundColor]"
    )
    for place in ("h2", ".where", ".rollout dt", ".turn h4", ".rollout h3 a", "#found", ".cost", ".token"):
        ink, ground = (luminance(colour) for colour in page.eval_on_selector(f"#trajectories {place}", style))
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, place


def test_the_theme_is_that_of_the_system_until_it_is_chosen(open_page):
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    assert luminance(dark) < 0.1
    page.click("#theme")
    assert luminance(page.evaluate(ground)) > 0.8
    page.reload()
    assert luminance(page.evaluate(ground)) > 0.8


def test_every_control_has_a_name(open_page):
    page = open_page(LINK)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, a, svg[role=img]')].filter(one =>
        !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length)).map(one => one.outerHTML)"""
    )
    assert nameless == []


def test_the_list_has_no_more_rows_than_can_be_seen(open_page, browser):
    page = open_page("#trajectories")
    assert page.locator("#rows li").count() < 24
    page.evaluate("document.getElementById('list').scrollTop = 1e6")
    page.wait_for_selector("#rows li[aria-posinset='24']")
    assert page.get_attribute("#rows li >> nth=-1", "aria-setsize") == "24"


def test_files_that_share_phase_and_step_have_links_of_their_own(browser, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        prompt = ({"role": "user", "content": f"of {name}"},)
        store.write(tmp_path / f"{name}.parquet", grouped([rollout(rng, 0, n, prompt=prompt) for n in range(2)]))
    write_report(find_source(tmp_path), tmp_path / "report.html")
    page = browser.new_page()
    page.goto(f"{(tmp_path / 'report.html').as_uri()}#step=-1&phase=rollout&trajectory=0.1&file=b.parquet")
    expect(page.locator(".prompt .text")).to_have_text("of b")
    page.keyboard.press("p")
    expect(page.locator(".prompt .text")).to_have_text("of a")
    assert page.evaluate("location.hash").endswith("trajectory=0.0&file=a.parquet")
    page.close()
