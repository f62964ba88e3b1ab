import struct
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from grpo_agents.report.figures import Histogram, Pareto, ParetoPoint
from grpo_agents.report.pictures import curves, distributions, pareto, tool_use


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


FORMULA = "$\\frac{"  # no mathematics, though matplotlib would take it for such


def histogram(name, bars, *, edges=False):
    shares = {"first": [1 / bars] * bars, FORMULA: [0.0] * bars}
    places = [float(place) for place in range(bars + edges)]
    return Histogram(name, "words", places if edges else [], [] if edges else places, shares, {}, {})


def front(costs, points=4):
    names = ["right", *costs]
    pairs = {"": True, **{f"right|{cost}": True for cost in costs}}
    made = []
    for place in range(points):
        values = dict.fromkeys(names, place / 7)
        ends = {name: None if place == 2 else value for name, value in values.items()}
        made.append(ParetoPoint(f"{place}", 3, values, ends, ends, {**pairs, f"right|{costs[0]}": place % 2 == 0}))
    return Pareto("right", costs, dict.fromkeys(names, FORMULA), made)


@pytest.mark.parametrize(
    "draw",
    [
        lambda *paths: distributions([histogram("words", 3), histogram(FORMULA, 24, edges=True)], *paths),
        lambda *paths: distributions([histogram(f"component {n}", 2) for n in range(7)], *paths),
        lambda *paths: pareto(front(["cost"]), *paths),
        lambda *paths: pareto(front(["cost", FORMULA], points=1), *paths),
        lambda *paths: tool_use({FORMULA: {FORMULA: 1.0}}, *paths),
        lambda *paths: curves([{"step": 1, f"reward/{FORMULA}": 1.0}], *paths),
    ],
)
def test_a_picture_is_png_or_svg_as_its_name_ends(draw, tmp_path):
    draw(tmp_path / "a.png", tmp_path / "deeper" / "a.svg")
    assert min(size_of_png(tmp_path / "a.png")) >= 350
    root = ET.parse(tmp_path / "deeper" / "a.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall(".//{http://www.w3.org/2000/svg}path")) > 10


def test_no_distribution_and_no_front_are_errors_with_a_reason(tmp_path):
    with pytest.raises(ValueError, match=r"a\.svg: there is nothing to count"):
        distributions([], tmp_path / "a.svg")
    with pytest.raises(ValueError, match=r"a\.svg: there is no front to draw: nothing was paid\."):
        pareto(Pareto("", [], {}, [], why_not="nothing was paid"), tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


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
