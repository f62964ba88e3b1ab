"""Tests marked `browser` run where a Chromium is; elsewhere they say why not."""

from pathlib import Path

import browser
import pytest

pytest_plugins = "pytester"


@pytest.mark.browser
def test_where_the_marker_lets_a_test_run_a_page_can_be_looked_at(browser):
    page = browser.new_page()
    page.set_content("<p>to be seen")
    assert page.inner_text("p") == "to be seen"
    page.close()


@pytest.mark.parametrize(("require", "outcome"), [("", "skipped"), ("1", "errors")])
def test_without_a_browser(pytester, monkeypatch, require, outcome):
    def find_chromium():
        raise ImportError("There is no Chromium: neither playwright's nor")

    monkeypatch.setattr(browser, "find_chromium", find_chromium)
    monkeypatch.setenv("GRPO_AGENTS_REQUIRE_BROWSER", require)
    pytester.makeini("[pytest]\nmarkers =\n    vllm\n    browser")
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile("import pytest\n@pytest.mark.browser\ndef test_a(): pass\ndef test_b(): pass")
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(**{"passed": 1, outcome: 1})
    assert "There is no Chromium: neither playwright's nor" in result.stdout.str()


def test_no_browser_names_what_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(ImportError, match=r"neither playwright's nor chromium, .* on the PATH. `make test` sets"):
        browser.find_chromium()
    (tmp_path / ".browser").write_text("It cannot be\nfetched.\n")
    with pytest.raises(ImportError, match=r"on the PATH. It cannot be fetched.$"):
        browser.find_chromium()
