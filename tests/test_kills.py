"""SIGKILL at any moment: a run that goes on ends as if nothing had happened."""

import json
from collections import Counter

import pytest
from forked import forking_server
from kills import HOW, kill_again_and_again

from grpo_agents.config import save_config
from runs import grpo, left_behind


@pytest.mark.parametrize(
    ("kills", "seed"), [(4, 0), pytest.param(50, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(unbroken, warm, tmp_path, kills, seed):
    """At random times, at accesses to its files, and in the middle of writes."""

    def config(run, file):
        save_config(grpo(run, warm), file)
        return file

    with forking_server() as forks:
        log, runs = kill_again_and_again(forks, config, tmp_path / "killed", kills, seed)
    (tmp_path / "kills.json").write_text(json.dumps(log, indent=1))
    assert len(log) == kills
    assert Counter(entry["how"] for entry in log).keys() == set(HOW)
    written = [entry for entry in log if entry["signal"] == "SIGXFSZ" or entry["how"] == "sync"]
    assert len(written) >= min(10, kills // 2)  # half of a file was there, or not yet what is surely on the disk
    expected = left_behind(unbroken)
    for run in runs:
        assert left_behind(run) == expected, run
        left = [file for file in run.rglob("*") if "partial" in file.name or "unfinished" in file.name]
        assert not left
