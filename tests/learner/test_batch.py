import numpy as np
import pytest
from tiny import sampled

from grpo_agents.learner.batch import assign_credit, make_batch
from grpo_agents.methods.grpo import Grpo
from grpo_agents.support import Support
from grpo_agents.trajectory import Sample, Step, Trajectory


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_row_holds_the_trained_tokens_of_a_sample(rng):
    trajectory = sampled(rng, 90, 3, [(2, 1), (3, 1)], advantage=0.5)
    batch = make_batch([trajectory])
    (row,) = batch.rows
    (sample,) = trajectory.samples
    assert row.trained.tolist() == [3, 4, 6, 7, 8]  # one token between two turns parts them
    assert row.ids.tolist() == sample.ids[:9].tolist()  # what comes after the last trained token is not computed
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


def test_turns_that_are_left_out_are_not_trained_and_do_not_count(rng):
    trajectory = sampled(rng, 90, 3, [(2, 1), (3, 1), (1, 0)], advantage=0.5)
    trajectory.steps = [Step({}, span=(3, 5)), Step({}, span=(6, 9), advantage=None), Step({}, span=(10, 11))]
    batch = make_batch([trajectory])
    (row,) = batch.rows
    assert row.trained.tolist() == [3, 4, 10]
    assert (row.length, batch.tokens) == (3, 3)
    assert row.turn.tolist() == [0, 0, 2]
    assert row.ids.tolist() == trajectory.samples[0].ids.tolist()  # they are still what the later ones come after
    for step in trajectory.steps:
        step.advantage = None
    assert make_batch([trajectory]).trajectories == 0


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


def test_a_method_is_told_of_whole_episodes_and_changes_their_tokens(rng, monkeypatch):
    """Two samples of a trajectory are one episode, which has no values where one of them has none."""
    samples = [*sampled(rng, 90, 3, [(2, 0)]).samples, *sampled(rng, 90, 4, [(3, 0)]).samples]
    forked = Trajectory(samples=samples, advantage=1.0, group=8)
    batch = make_batch([sampled(rng, 90, 2, [(1, 0)], advantage=-1.0, group=5), forked])
    alone, first, second = batch.rows
    alone.values = np.zeros(1)
    first.values, first.reference, second.reference = np.ones(2), np.array([5.0, 6.0]), np.array([7.0, 8.0, 9.0])
    seen = []

    def credit(self, episodes):
        seen.extend(episodes)
        episodes[1].advantages = 10.0 * np.arange(5)
        episodes[1].returns = 100.0 * np.arange(5)

    monkeypatch.setattr(Grpo, "credit", credit)
    assign_credit(batch, Grpo())
    assert [episode.group for episode in seen] == [0, 1]
    assert (seen[0].values.tolist(), seen[0].reference) == ([0.0], None)
    assert (seen[1].values, seen[1].reference.tolist()) == (None, [5.0, 6.0, 7.0, 8.0, 9.0])
    assert [row.advantages.tolist() for row in batch.rows] == [[-1.0], [0.0, 10.0], [20.0, 30.0, 40.0]]
    assert alone.returns is None
    assert [row.returns.tolist() for row in (first, second)] == [[0.0, 100.0], [200.0, 300.0, 400.0]]
