import pytest

from grpo_agents.rewards.overlong import overlong
from grpo_agents.trajectory import Step, Trajectory


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0), (16384, 0), (16385, -1 / 4096), (18432, -0.5), (20480, -1), (20481, -1), (40000, -1)],
)
def test_dapos_penalty_at_points_computed_by_hand(tokens, expected):
    """((L − c) − n)/c between L − c and L, for L = 20480 and c = 4096."""
    trajectory = Trajectory(steps=[Step({"role": "assistant", "content": ""}, tokens=tokens)])
    assert overlong()(trajectory) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("buffer", [0, 101])
def test_a_buffer_beyond_the_limit_is_refused(buffer):
    with pytest.raises(ValueError, match="between 1 and the limit, 100"):
        overlong(limit=100, buffer=buffer)
