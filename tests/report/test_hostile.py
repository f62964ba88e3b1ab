"""Text that would like to be code is shown as text, wherever it occurs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import grouped, rollout
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from grpo_agents import store
from grpo_agents.report.document import write_report
from grpo_agents.report.sources import find_source
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.scoring import Scoring

pytestmark = pytest.mark.browser
EVIL = (
    "<script>window.owned = 1</script></script><script>window.owned = 2</script><!--<script>window.owned = 3",
    '<img src=x onerror="window.owned = 4">"><svg onload="window.owned = 5">',
    "javascript:window.owned=6",
    "[a](javascript:alert(7)) {{7*7}} ${alert(8)} \u2028window.owned = 8\u2029",
    "__proto__",
    "constructor",
)


def rewards(evil, index):
    """A component of that name, which the second rollout lacks for a reason of that name."""
    if index:
        return {"rewards": {"outcome": 1.0, evil: None}, "missing": {evil: evil}}
    return {"rewards": {"outcome": 0.0, evil: 2.0}}


def hostile_run(folder, evil):
    """A run in which every text is this one."""
    folder = folder / "<img src=x onerror=alert(1)>"
    rng = np.random.default_rng(0)
    vector = RewardVector([Component("outcome", None), Component(evil, None, "min", evil)])
    schema = [{"type": "function", "function": {"name": evil, "description": evil}}]
    texts = {
        "env": evil,
        "task": {"id": evil, evil: evil},
        "preference": {"outcome": 1.0, evil: 0.5},
        "prompt": ({"role": "user", "content": evil, "name": evil}, {"role": evil, "content": [{evil: evil}]}),
        "tools": schema,
        "stop_reason": evil,
    }
    everyone = [
        rollout(rng, group, index, tool=evil, error=evil, text=evil, **texts, **rewards(evil, index))
        for group in range(2)
        for index in range(2)
    ]
    for one in everyone:
        one.error = evil
        one.steps[0].message["tool_calls"][0]["function"]["arguments"] = {evil: evil}
        one.steps[0].message["reasoning_content"] = evil
        one.steps[0].observation[0]["content"] = evil
        one.steps[0].finish_reason = evil
        one.steps[1].rewards = {evil: 1.0}
    scoring = Scoring(vector, {}, None)
    store.write(
        folder / "trajectories" / "eval-000001.parquet", grouped(everyone), step=1, phase="eval", scoring=scoring
    )
    store.write(folder / "trajectories" / "other.parquet", grouped(everyone), step=1, phase=evil, scoring=scoring)
    (folder / "metrics.jsonl").write_text(
        json.dumps({"step": 1, evil: 1.0, f"reward/{evil}": 2.0, f"eval/{evil}": 3.0}) + "\n"
    )
    (folder / "config.toml").write_text(f"run = 'x'\nenv.id = {json.dumps(evil)}\n")
    columns = {
        "run_step": [1],
        "phase": ["eval"],
        "group": [0],
        "index": [0],
        "sample": [0],
        "position": [4],
        evil: [1.0],
    }
    (folder / "lens").mkdir()
    about = {b"grpo_agents.lens": json.dumps({evil: {}}).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(about), folder / "lens" / "a.parquet")
    words = {(evil if not n else f"{evil} {n}"): n for n in range(60)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token=evil)))
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize("evil", EVIL)
def test_no_text_runs_as_code(browser, tmp_path, evil):
    run = hostile_run(tmp_path, evil)
    write_report(find_source(run), tmp_path / "report.html")
    page = browser.new_page()
    trouble = []
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else trouble.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    page.eval_on_selector_all("summary", "all => all.forEach(one => one.parentElement.open = true)")
    for mark in ("#overview svg", ".point circle", ".stack .track"):
        for one in page.locator(mark).all()[:6]:
            one.hover(force=True, timeout=2000)
    page.click(".error-row")
    page.click("#rows a >> nth=0")
    page.wait_for_selector(".rollout.current .token")
    page.hover(".rollout.current .token >> nth=0")
    page.select_option("#colouring", "off")
    page.eval_on_selector_all("summary", "all => all.forEach(one => one.parentElement.open = true)")
    assert evil in page.evaluate("document.querySelector('.rollout.current .turn:nth-of-type(2) .text').textContent")
    assert page.evaluate("[...document.querySelectorAll('a')].every(one => one.getAttribute('href').startsWith('#'))")
    assert page.locator("img, iframe, object, embed").count() == 0
    assert page.evaluate("[typeof window.owned, document.scripts.length]") == ["undefined", 5]
    assert page.title() == "<img src=x onerror=alert(1)> · grpo-agents"
    page.close()
    assert trouble == []


def test_the_policy_stops_what_would_get_through(browser, tmp_path):
    """Were an element made of a text after all, its handler would not run, and nothing would be fetched."""
    write_report(find_source(hostile_run(tmp_path, "x")), tmp_path / "report.html")
    page = browser.new_page()
    blocked = []
    page.on("console", lambda message: blocked.append(message.text))
    page.goto((tmp_path / "report.html").as_uri())
    page.evaluate(
        """() => {
            const box = document.createElement('div');
            document.body.append(box);
            box.innerHTML = '<img src="http://127.0.0.1:9/x" onerror="window.owned = 1">';
            const script = document.createElement('script');
            script.textContent = 'window.owned = 2';
            box.append(script);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("typeof window.owned") == "undefined"
    assert len(blocked) >= 2
    assert all("Content Security Policy" in text for text in blocked)
    page.close()
