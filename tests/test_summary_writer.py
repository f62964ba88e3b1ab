"""What is written for TensorBoard is what TensorBoard reads."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from grpo_agents.summary_writer import SummaryWriter
from grpo_agents.writing import NotWritten


def shown(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def write(folder, purge_step, steps, shift):
    with SummaryWriter(folder, purge_step) as board:
        for step in steps:
            board.add_scalar("loss", step / 4 + shift, step)
            board.add_scalar("eval/reward", -step, step)


def test_figures_that_a_resume_makes_again_are_shown_once(tmp_path):
    write(tmp_path / "board", 0, range(4), 0)
    write(tmp_path / "board", 2, range(2, 5), 0.5)
    assert shown(tmp_path / "board")["loss"] == [(0, 0.0), (1, 0.25), (2, 1.0), (3, 1.25), (4, 1.5)]
    assert [step for step, _ in shown(tmp_path / "board")["eval/reward"]] == [0, 1, 2, 3, 4]


def test_a_figure_is_there_when_the_call_returns(tmp_path):
    with SummaryWriter(tmp_path, 0) as board:
        board.add_scalar("loss", 0.5, 7)
        assert shown(tmp_path) == {"loss": [(7, 0.5)]}


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "board").write_text("a file")
    with pytest.raises(NotWritten, match=r"not written \(File exists\).*board/events") as caught:
        SummaryWriter(tmp_path / "board", 0)
    assert str(tmp_path / "board") in caught.value.filename
