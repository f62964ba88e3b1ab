import numpy as np
import pytest
from tiny import sampled

from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.packing import micro_batches
from grpo_agents.support import Support
from grpo_agents.trajectory import Sample, Step, Trajectory


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_row_holds_the_trained_tokens_of_a_sample(rng):
    trajectory = sampled(rng, 90, 3, [(2, 2), (3, 1)], advantage=0.5)
    batch = make_batch([trajectory])
    (row,) = batch.rows
    (sample,) = trajectory.samples
    assert row.trained.tolist() == [3, 4, 7, 8, 9]
    assert row.ids.tolist() == sample.ids[:10].tolist()  # what comes after the last trained token is not computed
    assert row.sampler.tolist() == sample.logprobs[row.trained].tolist() == row.old.tolist()
    assert row.turn_position.tolist() == [0, 1, 0, 1, 2]
    assert (row.advantages.tolist(), row.length, row.reference) == ([0.5] * 5, 5, None)
    assert (batch.tokens, batch.trajectories) == (5, 1)


def test_the_length_is_that_of_the_whole_trajectory_over_its_samples(rng):
    """A fork: both samples are rows, the trajectory counts once, |o| is the sum."""
    first, second = sampled(rng, 90, 3, [(2, 0)]), sampled(rng, 90, 5, [(4, 1)])
    trajectory = Trajectory(samples=[*first.samples, *second.samples], advantage=1.0)
    batch = make_batch([trajectory, sampled(rng, 90, 2, [(1, 0)], advantage=-1.0)])
    assert [row.length for row in batch.rows] == [6, 6, 1]
    assert (batch.tokens, batch.trajectories) == (7, 2)


def test_each_token_knows_its_turn_and_the_weights_that_sampled_it(rng):
    """Over turns and over samples that forked; an episode may span an update."""
    first, second = sampled(rng, 90, 3, [(2, 2), (3, 1)]), sampled(rng, 90, 5, [(4, 0)])
    steps = [Step({}, span=(3, 5), version=7), Step({}, span=(7, 10), version=8, advantage=0.5),
             Step({}, sample=1, span=(5, 9), version=9, advantage=-2.0)]  # fmt: skip
    batch = make_batch([Trajectory(samples=[*first.samples, *second.samples], steps=steps, advantage=1.0)])
    assert [row.version.tolist() for row in batch.rows] == [[7, 7, 8, 8, 8], [9, 9, 9, 9]]
    assert [row.turn.tolist() for row in batch.rows] == [[0, 0, 1, 1, 1], [2, 2, 2, 2]]
    assert [row.advantages.tolist() for row in batch.rows] == [[1, 1, 1.5, 1.5, 1.5], [-1, -1, -1, -1]]


def test_who_takes_part(rng):
    nothing_said = Trajectory(samples=[Sample(np.arange(3, dtype=np.int32), np.zeros(3, bool),
                                              np.zeros(3, np.float32))], advantage=1.0)  # fmt: skip
    batch = make_batch(
        [
            sampled(rng, 90, 3, [(2, 0)], advantage=None),
            nothing_said,
            Trajectory(advantage=1.0),
            sampled(rng, 90, 3, [(4, 0)], advantage=0.0),  # no gradient of its own, but it counts in the normalisers
        ]
    )
    assert (len(batch.rows), batch.tokens, batch.trajectories) == (1, 4, 1)
    empty = make_batch([])
    assert (empty.rows, empty.tokens, empty.trajectories) == ([], 0, 0)


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_log_probability_that_is_not_finite_is_named(rng, value):
    trajectory = sampled(rng, 90, 3, [(2, 0)], advantage=1.0, group=4, index=2)
    trajectory.samples[0].logprobs[4] = value
    with pytest.raises(ValueError, match=r"trajectory 4\.2: .*not finite"):
        make_batch([trajectory])


def test_a_row_holds_the_support_of_its_trained_tokens(rng):
    trajectory = sampled(rng, 90, 2, [(2, 1), (1, 1)], advantage=1.0, group=4, index=2)
    (sample,) = trajectory.samples
    first, second, third = (int(token) for token in sample.ids[[2, 3, 5]])
    ids = np.array([first, 91, 92, 93, second, 94, third], np.int32)
    sample.support = Support(ids, np.array([0, 0, 3, 2, 0, 2, 0], np.int32))
    (row,) = make_batch([trajectory]).rows
    assert row.trained.tolist() == [2, 3, 5]
    assert row.support.ids.tolist() == ids.tolist()
    assert row.support.counts.tolist() == [3, 2, 2]
    sample.mask[3] = False
    (row,) = make_batch([trajectory]).rows
    assert row.support.ids.tolist() == [first, 91, 92, 94, third]
    assert make_batch([sampled(rng, 90, 3, [(2, 0)], advantage=1.0)]).rows[0].support is None
    ids[-1] = 95
    with pytest.raises(ValueError, match=r"trajectory 4\.2: a sampled token is not in the support"):
        make_batch([trajectory])


def test_turns_without_token_ids_cannot_be_trained(rng):
    hosted = Trajectory(steps=[Step({"role": "assistant", "content": "3"}, tokens=4)], group=2, index=1)
    assert (hosted.trainable, hosted.sampled_tokens) == (False, 4)
    assert make_batch([hosted]).rows == []
    hosted.advantage = 0.5
    with pytest.raises(ValueError, match=r"^trajectory 2\.1: it has no token ids.*engine\.backend"):
        make_batch([sampled(rng, 90, 3, [(2, 0)], advantage=1.0), hosted])
    assert Trajectory().trainable  # nothing was said: nothing is missing


def test_micro_batches_keep_to_the_budget_and_lose_nothing(rng):
    rows = make_batch(
        [sampled(rng, 90, int(rng.integers(1, 9)), [(int(rng.integers(1, 9)), 0)], advantage=1.0) for _ in range(40)]
    ).rows
    for budget in (16, 17, 50, 10_000):
        parts = list(micro_batches(rows, budget))
        assert sorted(id(row) for part in parts for row in part) == sorted(id(row) for row in rows)
        for part in parts:
            assert len(part) * max(len(row.ids) for row in part) <= budget
    assert len(list(micro_batches(rows, 10_000))) == 1
    assert list(micro_batches([], 10)) == []


def test_a_row_longer_than_the_budget_is_named(rng):
    rows = make_batch([sampled(rng, 90, 7, [(5, 0)], advantage=1.0)]).rows
    assert len(list(micro_batches(rows, 12))) == 1
    with pytest.raises(ValueError, match=r"12 tokens does not fit learner\.max_tokens = 11.*rollout\.max_tokens"):
        list(micro_batches(rows, 11))
