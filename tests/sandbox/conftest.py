"""Sandboxes, of which a file of tests makes each but once."""

import pytest
from processes import eventually
from snippets import HASTY, LIMITS

from grpo_agents.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(LIMITS, preload=())
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def hasty():
    """Stops what takes longer than 0.4 s."""
    sandbox = Sandbox(HASTY, preload=())
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def layers(sandbox):
    return sandbox.containment()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go, which is empty again after the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert eventually(lambda: not list(folder.iterdir()))
