"""The page of a run that goes on: for this machine alone, and anew when there is more."""

import http.client
import json
import socket

import numpy as np
import pytest
from made import make_run, rollout, write
from playwright.sync_api import expect

from grpo_agents.report.sources import find_source
from grpo_agents.report.watch import Watch


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "mine", steps=(0, 1))


@pytest.fixture
def said():
    return []


@pytest.fixture
def watch(run, said):
    with Watch(find_source(run), run / "report.html", 5000, say=said.append) as served:
        yield served


def ask(watch, path="/", host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", watch.port, timeout=5)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{watch.port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def go_on(run, step):
    write(run, "train", step, [rollout(np.random.default_rng(step), 0, n) for n in range(4)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "reward": 0.9}) + "\n")


def test_it_serves_the_page_and_its_version(watch, run):
    status, page, headers = ask(watch)
    assert (status, page) == (200, (run / "report.html").read_text())
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(watch, "/version")[:2] == (200, watch.version)
    assert ask(watch, "/config.toml")[0] == ask(watch, "/../mine/metrics.jsonl")[0] == 404
    assert ask(watch, method="POST")[0] == 501


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}"]
)
def test_another_host_is_refused(watch, host):
    """As a page elsewhere comes with, that has its own name lead to 127.0.0.1."""
    for path in ("/", "/version"):
        status, text, _ = ask(watch, path, host.format(port=watch.port))
        assert (status, text) == (403, "this page is for 127.0.0.1 alone")
    assert ask(watch, host=f"localhost:{watch.port}")[0] == 200


def test_only_this_machine_reaches_it(watch):
    assert watch._server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_an_error(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            Watch(find_source(run), run / "report.html", 5000, taken.getsockname()[1])


def test_it_is_built_again_when_something_has_changed_and_only_then(watch, run):
    before = watch.version
    assert not watch.refresh()
    go_on(run, 2)
    assert watch.refresh()
    assert watch.version != before
    assert '"train",2,' in ask(watch)[1]
    assert not watch.refresh()


def test_what_cannot_be_read_is_said_and_the_page_stays(watch, run, said):
    page = watch.page
    (run / "trajectories" / "train-000001.parquet").write_bytes(b"half of it")
    assert not watch.refresh()
    assert watch.page is page
    (message,) = said
    assert message.startswith("not drawn again: ")
    assert "train-000001.parquet: not a readable trajectory file" in message


def test_a_run_that_has_just_begun_is_waited_for(tmp_path, said):
    (tmp_path / "metrics.jsonl").touch()
    with Watch(find_source(tmp_path), tmp_path / "report.html", 5000, say=said.append) as watch:
        assert "trajectories/" not in watch.page.decode()
        go_on(tmp_path, 0)
        assert watch.refresh()
        assert "train-000000.parquet" in watch.page.decode()


@pytest.mark.browser
def test_a_page_that_is_watched_refreshes_itself_and_keeps_its_place(watch, run, browser):
    page = browser.new_page(viewport={"width": 1300, "height": 500})
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: None if "favicon" in str(message.location) else trouble.append(message.text))
    page.goto(f"{watch.url}#step=1&phase=train&trajectory=2.3")
    page.wait_for_selector(".rollout.current")
    page.select_option("[name=phase]", label="train")
    side = page.locator("#reader .rollouts")
    side.evaluate("one => { one.scrollLeft = 1; }")
    page.evaluate("document.activeElement.blur()")
    scrolled = side.evaluate("one => one.scrollLeft")  # where a column begins
    assert page.inner_text("#found") == "24 of 36 trajectories, 6 groups"
    go_on(run, 2)
    assert watch.refresh()
    expect(page.locator("#found")).to_have_text("28 of 40 trajectories, 7 groups", timeout=8000)
    expect(page.locator(".rollout.current h3")).to_have_text("2.3")
    assert page.evaluate("location.hash") == "#step=1&phase=train&trajectory=2.3"
    assert page.input_value("[name=phase]") != ""
    assert side.evaluate("one => one.scrollLeft") == scrolled
    page.close()
    assert trouble == []
