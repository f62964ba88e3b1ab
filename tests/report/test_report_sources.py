"""What a report is of, and which of it is shown."""

from pathlib import Path

import pytest
from made import make_run

from grpo_agents.report.sources import Batch, choose, evenly, find_batches, find_source


def batch(phase, step, groups=4, size=8):
    return Batch(Path(f"{phase}-{step}"), phase, step, dict.fromkeys(range(groups), size))


def steps(batches, phase):
    return [one.step for one in batches if one.phase == phase]


def count(batches):
    return sum(one.size for one in batches)


def test_a_run_a_folder_and_a_file_are_found(tmp_path):
    run = make_run(tmp_path / "mine")
    source = find_source(run)
    assert (source.name, source.out, len(source.files), len(source.metrics())) == ("mine", run / "report.html", 5, 5)
    folder = find_source(run / "trajectories")
    assert (folder.run, folder.metrics(), folder.models(), len(folder.files)) == (None, [], [], 5)
    file = find_source(source.files[0])
    assert (file.files, file.out) == ([source.files[0]], run / "trajectories" / "report.html")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: name a run folder"):
        find_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither a run folder .* Name what `grpo-agents train`"):
        find_source(tmp_path)
    run = make_run(tmp_path / "mine")
    (run / "metrics.jsonl").write_text("{broken\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: a line is no JSON.*Mend or remove it"):
        find_source(run).metrics()
    (run / "config.toml").write_text("[model")
    with pytest.raises(ValueError, match=r"config\.toml: not readable as TOML"):
        find_source(run).models()


def test_the_models_are_those_on_this_disk(tmp_path):
    run = make_run(tmp_path / "mine")
    (run / "config.toml").write_text(f'model.path = "{tmp_path / "start"}"')
    assert find_source(run).models() == []
    (tmp_path / "start").mkdir()
    (run / "model").mkdir()
    assert find_source(run).models() == [run / "model", tmp_path / "start"]
    (run / "config.toml").write_text('model.path = "Qwen/Qwen3-0.6B"')  # a hub id, which no page fetches
    assert find_source(run).models() == [run / "model"]


def test_a_stamp_changes_with_metrics_and_trajectories(tmp_path):
    run = make_run(tmp_path / "mine")
    before = find_source(run).stamp()
    assert find_source(run).stamp() == before
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n')
    after = find_source(run).stamp()
    assert after != before
    find_source(run).files[0].unlink()
    assert find_source(run).stamp() != after


def test_batches_are_by_phase_and_step(tmp_path):
    found = find_batches(find_source(make_run(tmp_path, groups=2, size=3)).files)
    assert [(one.phase, one.step, one.groups) for one in found] == [
        *(("eval", step, dict.fromkeys(range(4), 1)) for step in (0, 2)),
        *(("train", step, {0: 3, 1: 3}) for step in (0, 1, 2)),
    ]


def test_everything_is_kept_where_it_has_room():
    batches = [batch("eval", 0), *(batch("train", step) for step in range(3))]
    assert choose(batches, count(batches)) == batches


def test_evaluations_come_first_and_steps_are_evenly_spread():
    """100 steps of 96 and five evaluations of 200, in 1,000."""
    batches = [batch("eval", 25 * n, groups=200, size=1) for n in range(5)]
    batches += [batch("train", step, groups=12) for step in range(100)]
    kept = choose(batches, 1000)
    assert steps(kept, "eval") == [0, 100]  # whole ones, in half of it
    assert steps(kept, "train") == [0, 19, 39, 59, 79, 99]
    assert count(kept) == 2 * 200 + 6 * 96
    assert steps(choose(batches, 2000), "eval") == [0, 25, 50, 75, 100]


def test_evaluations_take_what_training_leaves():
    batches = [batch("eval", 0, groups=90, size=1), batch("train", 0, groups=1, size=8)]
    kept = choose(batches, 98)
    assert count(kept) == 98
    assert count(choose(batches[:1], 50)) == 50  # cut: half of its tasks


def test_a_batch_that_is_too_large_gives_evenly_spread_whole_groups():
    (kept,) = choose([batch("rollout", -1, groups=100, size=8)], 40)
    assert kept.groups == {0: 8, 24: 8, 49: 8, 74: 8, 99: 8}
    assert choose([batch("rollout", -1, groups=2, size=8)], 7) == []


@pytest.mark.parametrize("limit", [1, 7, 50, 333, 2000])
def test_a_limit_is_kept(limit):
    rest = [batch("train", step, groups=1 + step % 5, size=1 + step % 7) for step in range(60)]
    batches = [batch("eval", step, groups=30, size=2) for step in (0, 30, 60)] + rest
    assert count(choose(batches, limit)) <= limit


def test_evenly():
    assert evenly(3, 3) == [0, 1, 2]
    assert evenly(100, 2) == [0, 99]
