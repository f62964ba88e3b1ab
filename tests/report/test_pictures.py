import struct
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from grpo_agents.report.pictures import curves, tool_use


def size_of_png(path):
    """Width and height from the IHDR chunk, after checking the signature and the closing IEND chunk."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


def rows(count):
    rng = np.random.default_rng(0)
    for step in range(count):
        row = {
            "step": step,
            "reward": rng.random(),
            "reward/outcome": rng.random(),
            "kl": np.float32(1e-4),
            "note": "x",
        }
        row |= {"entropy": None if step % 3 else 0.5, "grad_norm": float("nan") if step % 2 else 1.0}
        if step % 5 == 0:
            row |= {"eval/reward": 0.5, "eval/reward_low": 0.4, "eval/reward_high": 0.6}
        yield row


@pytest.mark.parametrize("count", [1, 12, 200])
def test_curves(count, tmp_path):
    curves(rows(count), tmp_path / "pictures" / "curves.png")
    width, height = size_of_png(tmp_path / "pictures" / "curves.png")
    assert 1200 <= width <= 2400
    assert 600 <= height <= 2400  # six pictures in two lines


def test_more_curves_take_more_room(tmp_path):
    curves([{"step": 0, "reward": 1.0}], tmp_path / "one.png")
    curves([{"step": 0, **{f"reward/{number}": 1.0 for number in range(7)}}], tmp_path / "seven.png")
    one, seven = size_of_png(tmp_path / "one.png"), size_of_png(tmp_path / "seven.png")
    assert seven[0] > one[0]
    assert seven[1] > 2 * one[1]


@pytest.mark.parametrize(
    "table",
    [
        {"no preference": {"calc": 0.0}},
        {"cost": {"search": 0.2, "ask": 1.0}, "outcome": {"ask": 3.0}},
        {f"component {group}": {f"tool_{tool}": tool for tool in range(12)} for group in range(4)},
    ],
)
def test_tool_use(table, tmp_path):
    tool_use(table, tmp_path / "tools.png")
    width, height = size_of_png(tmp_path / "tools.png")
    assert 700 <= width <= 2400
    assert 400 <= height <= 1000


@pytest.mark.parametrize(
    "empty", [[], [{"step": 1}], [{"reward": 1.0}], [{"step": 1, "reward": float("nan"), "loss": 2.0}]]
)
def test_nothing_to_draw_is_an_error_with_a_remedy(empty, tmp_path):
    with pytest.raises(ValueError, match=r"curves\.png: there are no curves.*Train for at least one step"):
        curves(empty, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("empty", [{}, {"cost": {}}])
def test_no_tools_is_an_error_with_a_remedy(empty, tmp_path):
    with pytest.raises(ValueError, match=r"tools\.png: there is no tool use.*environment with tools"):
        tool_use(empty, tmp_path / "tools.png")


def test_no_state_is_left_behind(tmp_path):
    before = dict(mpl.rcParams)
    curves(rows(3), tmp_path / "curves.png")
    assert dict(mpl.rcParams) == before
    code = (
        "import sys; import grpo_agents.report.pictures as p; assert 'matplotlib' not in sys.modules;"
        f"p.curves([{{'step': 0, 'reward': 1.0}}], {str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
