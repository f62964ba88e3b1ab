"""Where batches come from."""

import numpy as np
import pytest
from tiny import advantages_of, make_tokenizer, sampled, vector_of

from grpo_agents import store
from grpo_agents.advantage import AdvantageConfig
from grpo_agents.chat import Chat
from grpo_agents.curriculum import Uniform
from grpo_agents.learner.batch import make_batch
from grpo_agents.methods import Method
from grpo_agents.methods.dapo import Dapo
from grpo_agents.methods.dpo import Dpo
from grpo_agents.methods.gigpo import GiGpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.reinforce_pp import ReinforcePlusPlus
from grpo_agents.rescoring import rescore
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.scoring import Scoring
from grpo_agents.sources import DemonstrationSource, FrozenSource, PairSource, PolicySource, StoredSource, Weighing
from grpo_agents.tasks import as_tasks
from grpo_agents.trajectory import Group, Step

VECTOR = vector_of(outcome="max")


def weighing(method: Method | None = None, vector=VECTOR):
    return Weighing(vector, AdvantageConfig(), {}, method or Grpo())


def groups_of(count, size=2, *, first=0, rewards=(1.0, 0.0)):
    """Groups that are told apart by their tasks."""
    rng = np.random.default_rng(first)
    groups = []
    for number in range(count):
        task = {"id": first + number}
        trajectories = []
        for index in range(size):
            trajectory = sampled(rng, 90, 3, [(2, 1)], task=task, group=number, index=index)
            trajectory.rewards = {"outcome": rewards[index]}
            trajectories.append(trajectory)
        groups.append(Group(task, {}, trajectories))
    return groups


def names(groups):
    return [group.task["id"] for group in groups]


def numbers(groups):
    """The number of each group, which all of its trajectories have."""
    found = [{trajectory.group for trajectory in group.trajectories} for group in groups]
    assert all(len(entry) == 1 for entry in found)
    return [entry.pop() for entry in found]


@pytest.fixture
def file(tmp_path):
    """Seven groups, in two files."""
    store.write(tmp_path / "stored" / "train-000000.parquet", groups_of(4), step=0, phase="train")
    store.write(tmp_path / "stored" / "train-000001.parquet", groups_of(3, first=4), step=1, phase="train")
    return tmp_path / "stored"


# Stored


def test_stored_groups_come_in_a_new_order_each_round(file):
    source = StoredSource(file, weighing(), 3, 5)
    seen = [name for step in range(14) for name in names(source.batch(step)[0])]
    rounds = [tuple(seen[start : start + 7]) for start in range(0, 42, 7)]
    assert all(sorted(round_) == list(range(7)) for round_ in rounds)
    assert len(set(rounds)) == 6
    assert seen != [name for step in range(14) for name in names(StoredSource(file, weighing(), 3, 6).batch(step)[0])]


def test_a_batch_follows_from_its_step_alone(file):
    one, other = StoredSource(file, weighing(), 3, 5), StoredSource(file, weighing(), 3, 5)
    for step in range(9):
        one.batch(step)
    for step in (4, 0, 8):
        (groups, figures), (again, its) = one.batch(step), other.batch(step)
        assert names(groups) == names(again)
        assert figures == its
        assert list(map(advantages_of, groups)) == list(map(advantages_of, again))


@pytest.mark.parametrize("size", [3, 7, 10])
def test_group_numbers_are_distinct_though_a_group_comes_up_twice(file, size):
    """At the end of a round and at the beginning of the next; or in a batch that is more than there is."""
    source = StoredSource(file, weighing(Dpo()), size, 5)
    twice = 0
    for step in range(12):
        groups, _ = source.batch(step)
        assert numbers(groups) == list(range(size))
        twice += len(set(names(groups))) < size
        batch = make_batch([trajectory for group in groups for trajectory in group.trajectories])
        assert sorted(row.group for row in batch.rows) == sorted([*range(size)] * 2)
        for number in range(size):
            assert sorted(row.advantages[0] for row in batch.rows if row.group == number) == [-1.0, 1.0]
    assert twice or size == 7


def test_what_an_evaluation_left_beside_them_is_not_learned_from(file):
    store.write(file / "eval-000000.parquet", groups_of(5, first=50), step=0, phase="eval")
    source = StoredSource(file, weighing(), 7, 5)
    assert sorted(names(source.batch(0)[0])) == list(range(7))
    with pytest.raises(ValueError, match=r"source\.path: .*eval-000000\.parquet holds no .* but those of evaluations"):
        StoredSource(file / "eval-000000.parquet", weighing(), 7, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stored_reward_that_is_not_finite_is_named(tmp_path, value):
    groups = groups_of(3)
    groups[1].trajectories[1].rewards["outcome"] = value
    store.write(tmp_path / "train-000000.parquet", groups, step=0, phase="train")
    with pytest.raises(ValueError, match=rf"source\.path: trajectory \d\.1 has {value} as reward 'outcome'\. Set"):
        StoredSource(tmp_path, weighing(), 2, 5)


def test_missing_rewards_are_named_and_so_is_the_way_out(file):
    both = vector_of(outcome="max", cost="min")
    with pytest.raises(
        ValueError, match=r"source\.path: trajectory 0\.0 has no reward 'cost', only outcome\. Set source\.rescore = tr"
    ):
        StoredSource(file, weighing(vector=both), 3, 5)
    with pytest.raises(FileNotFoundError, match=r"no trajectory file .*nowhere\.parquet"):
        StoredSource(file / "nowhere.parquet", weighing(), 3, 5)


def test_rescoring_computes_the_vector_again(file):
    vector = RewardVector(
        [
            Component("outcome", lambda trajectory: float(trajectory.task["id"] + trajectory.index), "max"),
            Component("said", lambda trajectory: float(trajectory.sampled_tokens), "max"),
        ]
    )
    source = StoredSource(file, weighing(Grpo(scale="none"), vector), 7, 5, rescore=vector.score)
    for group in source.batch(0)[0]:
        for trajectory in group.trajectories:
            assert trajectory.rewards == {"outcome": group.task["id"] + trajectory.index, "said": 2.0}
            assert trajectory.advantage == trajectory.index - 0.5  # where the stored one would be 1 for the first


def test_preferences_that_the_policy_was_not_shown_are_refused_unless_they_are_asked_for(file, tmp_path):
    rescore(file, tmp_path / "other.parquet", preference={"outcome": 0.5})
    with pytest.raises(
        ValueError, match=r"source\.path: .*other\.parquet are not those .* set source\.other_preference"
    ):
        StoredSource(tmp_path / "other.parquet", weighing(), 7, 5)
    source = StoredSource(tmp_path / "other.parquet", weighing(), 7, 5, other_preference=True)
    assert {group.preference["outcome"] for group in source.batch(0)[0]} == {0.5}


# Frozen


class Sampler:
    """Stands for a rollout: groups with the returns that are asked for, and what it was asked."""

    def __init__(self, returns=None):
        self.asked = []
        self.returns = returns

    def sample(self, tasks, *, seed, progress=None):
        self.asked.append(([task["id"] for task in tasks], seed))
        found = []
        for place, task in enumerate(tasks):
            rewards = (1.0, 0.0) if self.returns is None else self.returns(task)
            (group,) = groups_of(1, first=task["id"], rewards=rewards)
            for trajectory in group.trajectories:
                trajectory.group = place
            found.append(group)
        return found

    def begin(self, tasks, *, step, **settings):
        return lambda: self.sample(tasks, **settings)


TASKS = as_tasks([{"id": number} for number in range(40)])


def uniform(size, resample=0):
    return Uniform(TASKS, seed=5, size=size, resample=resample, steps=9, schedule=None)


def frozen(folder, sampler, batches=3):
    policy = PolicySource(sampler, uniform(2), weighing(), 2, 5)
    return FrozenSource(policy, batches, folder, Scoring(VECTOR, {}))


def test_frozen_groups_are_sampled_once_and_gone_through_again_and_again(tmp_path):
    sampler = Sampler()
    source = frozen(tmp_path, sampler)
    assert source.lacking == [0, 1, 2]
    assert list(source.fill()) == [0, 1, 2]
    asked = [name for tasks, _ in sampler.asked for name in tasks]
    assert len(set(asked)) == 6
    assert len({seed for _, seed in sampler.asked}) == 3
    for first in (0, 3, 6):
        assert sorted(name for step in range(first, first + 3) for name in names(source.batch(step)[0])) == sorted(
            asked
        )
    assert len(sampler.asked) == 3
    assert store.read_scoring(tmp_path).vector.names == ("outcome",)


def test_what_was_sampled_already_is_not_sampled_again(tmp_path):
    """A run that was stopped while it sampled goes on with what is lacking, and ends with the same."""
    whole, stopped, resumed = Sampler(), Sampler(), Sampler()
    list(frozen(tmp_path / "whole", whole).fill())
    next(frozen(tmp_path / "run", stopped).fill())
    again = frozen(tmp_path / "run", resumed)
    assert again.lacking == [1, 2]
    list(again.fill())
    assert stopped.asked + resumed.asked == whole.asked
    for step in range(4):
        assert names(again.batch(step)[0]) == names(frozen(tmp_path / "whole", whole).batch(step)[0])


# Policy


def test_groups_without_spread_give_way_to_others():
    """As often as it is allowed; what is then still tied stays, so that a batch is full."""
    sampler = Sampler(lambda task: (1.0, 0.0) if task["id"] % 3 == 1 else (1.0, 1.0))
    found = {}
    for resample in (0, 1, 8):
        source = PolicySource(sampler, uniform(4, resample), weighing(Dapo()), 4, 5, resample=resample)
        sampler.asked.clear()
        groups, figures = source.batch(0)
        assert numbers(groups) == [0, 1, 2, 3]
        asked = [name for tasks, _ in sampler.asked for name in tasks]
        assert len(set(asked)) == len(asked)  # new tasks, not the same again
        assert len({seed for _, seed in sampler.asked}) == len(sampler.asked) <= 1 + resample
        assert figures.get("groups_replaced", 0.0) == len(asked) - 4
        found[resample] = figures["groups_tied"]
        again = names(source.batch(0)[0])
        assert again == names(groups)
    assert found[0] >= found[1] >= found[8] == 0.0
    assert found[0] > 0


def test_batches_of_steps_that_resample_never_meet():
    sampler = Sampler(lambda task: (1.0, 1.0))
    source = PolicySource(sampler, uniform(4, 1), weighing(Dapo()), 4, 5, resample=1)
    for step in range(5):
        source.batch(step)
    asked = [name for tasks, _ in sampler.asked for name in tasks]
    assert sorted(asked) == list(range(40))  # 5 steps of twice 4: one round


def test_a_masked_rollout_makes_no_spread():
    weigh = weighing()
    (group,) = groups_of(1)
    assert weigh.has_spread(group)
    group.trajectories[1].masked = True
    assert not weigh.has_spread(group)


@pytest.mark.parametrize(
    ("method", "settings", "returns", "turns", "spread"),
    [
        (Dapo(), {}, [0.5, 0.55], [[], []], True),
        (Dapo(), {"min_std": 0.1}, [0.5, 0.55], [[], []], False),  # it would be left out
        (Dapo(supervision="process"), {}, [1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], True),
        (Dapo(supervision="process"), {}, [1.0, 0.0], [[0.0], [0.0]], False),
        (GiGpo(), {}, [1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], True),
        (ReinforcePlusPlus(), {}, [1.0, 1.0], [[], []], False),
    ],
)
def test_what_gives_way_is_what_nothing_would_be_learned_from(method, settings, returns, turns, spread):
    """By the return, or by turns where the method looks at those."""
    (group,) = groups_of(1)
    for trajectory, back, rewards in zip(group.trajectories, returns, turns, strict=True):
        trajectory.rewards["outcome"] = back
        trajectory.steps = [Step(message={}, rewards={"outcome": reward}) for reward in rewards]
    vector = RewardVector([Component("outcome", None)])
    assert Weighing(vector, AdvantageConfig(**settings), {}, method).has_spread(group) == spread


# Written by people


@pytest.fixture(scope="module")
def chat():
    return Chat(make_tokenizer())


def said(chat, sample):
    """The runs of trained tokens as text."""
    at = np.flatnonzero(sample.mask)
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    return [chat.tokenizer.decode(sample.ids[run].tolist(), skip_special_tokens=True).strip() for run in runs]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


DIALOGUES = [{"messages": [user(f"{n}+1"), assistant(f"{n + 1}")]} for n in range(5)]
PAIRS = [{"prompt": [user(f"{n}+1")], "chosen": f"{n + 1}", "rejected": f"{n}"} for n in range(5)]


@pytest.mark.parametrize(("kind", "entries"), [(DemonstrationSource, DIALOGUES), (PairSource, PAIRS)])
def test_what_is_written_comes_in_a_new_order_each_round(chat, kind, entries):
    source = kind(as_tasks(entries), chat, 3, 5)

    def first_of(groups):
        assert numbers(groups) == [0, 1, 2]
        return [said(chat, group.trajectories[0].samples[0])[0] for group in groups]

    seen = [text for step in range(10) for text in first_of(source.batch(step)[0])]
    rounds = [tuple(seen[start : start + 5]) for start in range(0, 30, 5)]
    assert all(sorted(round_) == ["1", "2", "3", "4", "5"] for round_ in rounds)
    assert len(set(rounds)) > 3
    again = kind(as_tasks(entries), chat, 3, 5)
    assert first_of(again.batch(7)[0]) == seen[21:24]


def test_a_demonstration_trains_every_turn_of_the_assistant(chat):
    messages = [user("1+1"), assistant("2"), user("2+2"), assistant("4")]
    ((group,), figures) = DemonstrationSource(as_tasks([{"messages": messages}]), chat, 1, 0).batch(0)
    (trajectory,) = group.trajectories
    assert said(chat, trajectory.samples[0]) == ["2", "4"]
    assert (trajectory.advantage, figures) == (1.0, {})


def test_a_pair_trains_what_follows_the_prompt(chat):
    """The turns of the assistant in the prompt were said by nobody who is to learn from it."""
    prompt = [user("1+1"), assistant("2"), user("2+2")]
    chosen = [assistant("4"), user("3+3"), assistant("6")]
    pair = {"prompt": prompt, "chosen": chosen, "rejected": [assistant("5")]}
    ((group,), _) = PairSource(as_tasks([pair]), chat, 1, 0).batch(0)
    better, worse = group.trajectories
    assert [said(chat, sample) for sample in better.samples + worse.samples] == [["4", "6"], ["5"]]
    assert [(t.advantage, t.group, t.index) for t in (better, worse)] == [(1.0, 0, 0), (-1.0, 0, 1)]
    shared = len(chat.start(prompt).ids)
    assert better.samples[0].ids[:shared].tolist() == worse.samples[0].ids[:shared].tolist()
    assert not better.samples[0].mask[:shared].any()


def test_parts_of_a_pair_may_be_texts(chat):
    texts = {"prompt": "1+1", "chosen": "2", "rejected": "3"}
    messages = {"prompt": [user("1+1")], "chosen": [assistant("2")], "rejected": [assistant("3")]}
    found = [PairSource(as_tasks([pair]), chat, 1, 0).batch(0)[0][0].trajectories for pair in (texts, messages)]
    for one, other in zip(*found, strict=True):
        assert one.samples[0].ids.tolist() == other.samples[0].ids.tolist()
        assert one.samples[0].mask.tolist() == other.samples[0].mask.tolist()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"prompt": [user("a")], "chosen": "b"}, r"pair 3, rejected: it has no 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, r"pair 3, chosen: it has no 'prompt'"),
        ({"prompt": [user("a")], "chosen": [], "rejected": "b"}, r"pair 3, chosen: .*an assistant message after"),
        ({"prompt": [user("1"), assistant("2"), user("3")], "chosen": [], "rejected": "b"},
         r"pair 3, chosen: .*no token of it is trained: it needs an assistant message after the prompt"),
        ({"prompt": [user("a")], "chosen": None, "rejected": "b"}, r"pair 3, chosen: TypeError"),
        ({"prompt": [user("a")], "chosen": "b", "rejected": [{"content": "c"}]}, r"pair 3, rejected: it has no 'role'"),
    ],
)  # fmt: skip
def test_a_broken_pair_is_named_by_its_place(chat, broken, message):
    source = PairSource(as_tasks([*PAIRS[:3], broken, PAIRS[4]]), chat, 5, 0)
    with pytest.raises(ValueError, match=message):
        source.batch(0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, r"demonstration 3: it has no 'messages'"),
        ({"messages": [user("a")]}, r"demonstration 3: .*an assistant message after it"),
        ({"messages": "a text"}, r"demonstration 3: TypeError"),
    ],
)
def test_a_broken_demonstration_is_named_by_its_place(chat, broken, message):
    source = DemonstrationSource(as_tasks([*DIALOGUES[:3], broken, DIALOGUES[4]]), chat, 5, 0)
    with pytest.raises(ValueError, match=message):
        source.batch(0)
