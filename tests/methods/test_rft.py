import numpy as np
import pytest
import torch
from tiny import advantages_of, group_of, part_of, ragged_tokens, sampled, vector_of

from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.learner.batch import make_batch
from grpo_agents.methods import coefficients
from grpo_agents.methods.rft import OnlineRft, Rft

NAMES = ("outcome", "format")


def weighed(method, rows, preference=None):
    group = group_of(rows, names=NAMES, preference=preference)
    figures = assign_advantages([group], vector_of(outcome="max", format="max"), AdvantageConfig(), {}, method)
    return group, figures


ROWS = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1.0)]


def test_what_is_right_counts_one_and_what_is_wrong_takes_no_part():
    group, figures = weighed(Rft(), ROWS)
    assert advantages_of(group) == [1.0, None, None, 1.0]
    assert (figures["left_out"], figures["groups_tied"]) == (2.0, 0.0)


def test_online_what_is_wrong_counts_in_the_mean():
    group, figures = weighed(OnlineRft(), ROWS)
    assert advantages_of(group) == [1.0, 0.0, 0.0, 1.0]
    assert figures["left_out"] == 0.0


@pytest.mark.parametrize("method", [Rft, OnlineRft])
def test_what_is_right_is_a_component_and_from_where_on(method):
    for settings, right in [({"at_least": 0.5}, [1, 0, 1, 1]), ({"correct": "format"}, [0, 1, 0, 1])]:
        found = advantages_of(weighed(method(**settings), ROWS)[0])
        assert [value or 0.0 for value in found] == right


@pytest.mark.parametrize("method", [Rft, OnlineRft])
def test_of_what_is_not_known_to_be_right_nothing_is_learned(method):
    """A component that weighs nothing may be missing."""
    group, _ = weighed(method(correct="format"), [(1.0, np.nan), (0.0, 1.0)], preference={"outcome": 1.0})
    group.trajectories[0].rewards["format"] = None
    assign_advantages([group], vector_of(outcome="max", format="max"), AdvantageConfig(), {}, method(correct="format"))
    assert advantages_of(group) == [None, 1.0]


def test_a_group_in_which_nothing_is_right_is_tied():
    assert weighed(OnlineRft(), [(0.0, 1.0), (0.0, 0.0)])[1]["groups_tied"] == 1.0
    assert weighed(OnlineRft(), [(1.0, 1.0), (1.0, 0.0)])[1]["groups_tied"] == 0.0  # all right: all imitated


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_coefficient_are_one_where_right(aggregation, dtype, tolerance):
    """1[correct], over |o| of each of the batch's trajectories or over all of its tokens."""
    lengths = (3, 1, 5, 2)
    right = np.repeat([1.0, 0.0, 1.0, 0.0], lengths)
    tokens = ragged_tokens(lengths, dtype=dtype)
    tokens.advantages = torch.tensor(right, dtype=dtype)
    method = OnlineRft(aggregation=aggregation)
    shares = np.repeat([1 / (4 * n) if aggregation == "sequence" else 1 / 11 for n in lengths], lengths)
    loss = -(right * shares * tokens.logprobs.detach().double().numpy()).sum()
    assert method.loss(tokens).item() == pytest.approx(loss, rel=tolerance)
    assert coefficients(method, tokens).numpy() == pytest.approx(right * shares, rel=tolerance)
    parts = [method.loss(part_of(tokens, tokens.trajectory == place)) for place in range(4)]
    torch.testing.assert_close(sum(parts), method.loss(tokens))


def test_the_mean_is_over_what_takes_part():
    """Offline over what is right, online over all that was sampled."""
    for method, count in ((Rft(), 2), (OnlineRft(), 4)):
        group, _ = weighed(method, ROWS)
        for trajectory in group.trajectories:
            trajectory.samples = sampled(np.random.default_rng(0), 9, 2, [(2, 0)]).samples
        assert make_batch(group.trajectories).trajectories == count


def test_what_it_asks_for():
    assert (Rft().sources, OnlineRft().sources) == (("frozen", "stored"), ("policy",))
    assert Rft(correct="format").needs_rewards == ("format",)
    assert not Rft().normalises_by_group
