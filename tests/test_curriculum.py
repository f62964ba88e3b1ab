"""Which tasks a step takes, by pass rate and by difficulty."""

import re

import numpy as np
import pytest
from scipy import stats
from tiny import group_of, vector_of

from grpo_agents.advantage import AdvantageConfig
from grpo_agents.config import list_keys, make_config
from grpo_agents.curriculum import CurriculumConfig, Draw, PassRate, Schedule, Uniform, make_curriculum
from grpo_agents.methods.grpo import Grpo
from grpo_agents.sources import PolicySource, Weighing, pick
from grpo_agents.tasks import as_tasks

VECTOR = vector_of(outcome="max", half="max", cost="min")


def numbered(count):
    return as_tasks([{"n": n, "level": 1 + n % 5} for n in range(count)])


def endless(rng):
    return {"x": int(rng.integers(1_000_000)), "level": int(rng.integers(1, 6))}


def curriculum(tasks, *, size=4, resample=0, steps=10, gate=None, seed=0, **settings):
    """That of a config section."""
    section = CurriculumConfig(**settings)
    return make_curriculum(section, tasks, VECTOR, gate=gate, seed=seed, size=size, resample=resample, steps=steps)


def by_pass_rate(count, **settings):
    made = curriculum(numbered(count), sampler="pass_rate", **settings)
    assert isinstance(made, PassRate)
    return made


def ns(tasks):
    return [task["n"] for task in tasks]


# What a task is worth


def test_the_expected_variance_by_hand():
    made = by_pass_rate(4, explore=0.0)
    made.passed[:], made.failed[:] = [0, 2, 8, 4], [0, 0, 0, 4]
    assert made.weights == pytest.approx([1 / 6, 3 / 20, 9 / 110, 25 / 110])
    assert made.rates == pytest.approx([1 / 2, 3 / 4, 9 / 10, 1 / 2])


@pytest.mark.parametrize(("passed", "failed"), [(0, 0), (3, 1), (0, 7), (2.5, 40)])
def test_it_is_the_integral_over_the_posterior(passed, failed):
    made = by_pass_rate(1, prior=(0.5, 2.0), explore=0.03)
    made.passed[0], made.failed[0] = passed, failed
    posterior = stats.beta(0.5 + passed, 2.0 + failed)
    assert made.weights[0] - 0.03 == pytest.approx(posterior.expect(lambda p: p * (1 - p)), rel=1e-6)
    assert made.rates[0] == pytest.approx(posterior.mean())


# Draws


def test_tasks_are_drawn_one_after_the_other_in_proportion_to_their_weights():
    """Ordered pairs have probability w_i/W · w_j/(W − w_i)."""
    made, draws = by_pass_rate(4, size=2, explore=0.05), 20_000
    made.passed[:], made.failed[:] = [0, 2, 40, 5], [0, 0, 0, 5]
    weights, counts = made.weights, np.zeros((4, 4))
    for step in range(draws):
        first, second = ns(made.take(Draw(step), 2))
        counts[first, second] += 1
    expected = draws * np.outer(weights, weights) / weights.sum() / (weights.sum() - weights)[:, None]
    others = ~np.eye(4, dtype=bool)
    assert not counts[~others].any()
    assert stats.chisquare(counts[others], expected[others]).pvalue > 0.001


def test_no_task_comes_twice_in_a_batch_before_all_have_come():
    made = by_pass_rate(5)
    for step in range(20):
        draw = Draw(step)
        drawn = ns(made.take(draw, 3)) + ns(made.take(draw, 9))
        assert sorted(drawn[:5]) == sorted(drawn[5:10]) == list(range(5))
        assert drawn == draw.indices
        assert len(set(drawn[10:])) == 2
        assert draw.takes == 2
    assert drawn[:5] != drawn[5:10]


def test_a_draw_follows_from_the_seed_the_step_and_the_counts():
    made, other, again = by_pass_rate(30), by_pass_rate(30, seed=1), by_pass_rate(30)
    assert ns(made.take(Draw(3), 4)) == ns(again.take(Draw(3), 4))
    assert ns(made.take(Draw(3), 4)) != ns(other.take(Draw(3), 4))
    assert ns(made.take(Draw(3), 4)) != ns(made.take(Draw(4), 4))
    made.observe(Draw(2, [5]), [group_of([1.0, 0.0])])
    again.restore(made.state)
    assert ns(made.take(Draw(3), 30)) == ns(again.take(Draw(3), 30))


@pytest.mark.parametrize(("explore", "least"), [(0.05, 20), (0.0, 0)])
def test_the_floor_reaches_what_was_never_passed(explore, least):
    """Its share of single draws is explore/Σw, and next to nothing without a floor."""
    made = by_pass_rate(10, explore=explore)
    made.passed[:], made.failed[:] = 50, 50
    made.passed[7], made.failed[7] = 0, 1e6
    drawn = [ns(made.take(Draw(step), 1))[0] for step in range(3000)]
    share = explore / (10 * explore + 9 * 0.2475)
    assert drawn.count(7) == pytest.approx(3000 * share, abs=4 * np.sqrt(3000 * share) + 0.5)
    assert drawn.count(7) >= least


# Counts


def test_who_passed_is_counted_and_who_could_not_be_judged_is_not():
    made = by_pass_rate(4, decay=1.0, component="half", at_least=0.4)
    groups = [group_of([[0.0, value] for value in values], names=("outcome", "half"))
              for values in ([0.4, 0.39, 1.0], [0.0, 0.0, 0.5])]  # fmt: skip
    groups[0].trajectories[2].rewards["half"] = None
    groups[1].trajectories[0].rewards.pop("half")
    figures = made.observe(Draw(0, [2, 0]), groups)
    assert made.state.tolist() == [[1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]]
    assert figures == {"curriculum/pass_rate": 0.5, "curriculum/drawn": 0.5}  # what was thought before
    figures = made.observe(Draw(1, [2, 2]), [group_of([[0, 1.0]] * 3, names=("outcome", "half"))] * 2)
    assert made.state[:, 2].tolist() == [7, 1, 3]
    assert figures["curriculum/drawn"] == 0.5


def test_what_cannot_be_judged_at_all_was_drawn_nevertheless():
    made = by_pass_rate(2)
    figures = made.observe(Draw(0, [1]), [group_of([None, None])])
    assert figures["curriculum/drawn"] == 0.5
    assert made.rates.tolist() == [0.5, 0.5]


def test_old_evidence_fades():
    """Of all tasks, as the policy changes for all of them: unseen ones go back to the prior."""
    made = by_pass_rate(2, decay=0.5)
    made.observe(Draw(0, [0]), [group_of([1.0] * 4)])
    made.observe(Draw(1, [1]), [group_of([0.0] * 4)])
    made.observe(Draw(2, [1]), [group_of([1.0] * 4)])
    assert made.passed.tolist() == [1.0, 4.0]
    assert made.failed.tolist() == [0.0, 2.0]


def test_what_passes_is_what_the_gate_says_and_else_the_outcome():
    assert by_pass_rate(2).component == "outcome"
    assert by_pass_rate(2, gate="half").component == "half"
    assert by_pass_rate(2, gate="half", component="outcome").component == "outcome"


# Difficulty


def test_the_limit_rises_linearly_and_stays():
    schedule = Schedule("level", (1.0, 5.0), 0.5, 9)
    assert [schedule.limit(step) for step in range(9)] == [1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert Schedule("level", (0.1, 0.7), 1.0, 4).limit(3) == 0.7
    assert Schedule("level", (1.0, 5.0), 0.0, 4).limit(0) == 5
    assert Schedule("level", (1.0, 5.0), 0.5, 1).limit(0) == 1
    assert [Schedule("level", (1.0, 5.0), 1.0, 2).limit(step) for step in range(2)] == [1, 5]


LEVELS = {"difficulty": "level", "limits": (1, 4), "until": 1.0}


@pytest.mark.parametrize("settings", [{}, {"sampler": "pass_rate"}])
def test_only_tasks_up_to_the_limit_are_drawn(settings):
    made = curriculum(numbered(50), steps=7, size=20, **LEVELS, **settings)
    for step, limit in enumerate([1, 1.5, 2, 2.5, 3, 3.5, 4]):
        draw = Draw(step)
        drawn = made.take(draw, 20)
        assert {task["level"] for task in drawn} == set(range(1, int(limit) + 1))
        assert made.observe(draw, [group_of([1.0])] * 20)["curriculum/limit"] == limit


def test_generated_tasks_are_drawn_until_one_fits():
    tasks = as_tasks(endless, seed=3)
    made = curriculum(tasks, steps=7, size=5, resample=1, **LEVELS)
    seen = []
    for step, limit in enumerate([1, 1.5, 2, 2.5, 3, 3.5, 4]):
        draw = Draw(step)
        drawn = made.take(draw, 5) + made.take(draw, 2)
        assert max(task["level"] for task in drawn) <= limit
        assert drawn == [tasks[index] for index in draw.indices]
        seen += draw.indices
    assert len(set(seen)) == 7 * 7
    assert curriculum(tasks, steps=7, size=5, resample=1, **LEVELS).take(Draw(2), 5) == made.take(Draw(2), 5)


def test_while_the_limit_stays_every_task_below_it_comes_once_a_round():
    made = curriculum(numbered(20), size=4, steps=100, **{**LEVELS, "limits": (2, 2)})
    rounds = [ns(made.take(Draw(2 * n), 4)) + ns(made.take(Draw(2 * n + 1), 4)) for n in range(5)]
    assert all(sorted(order) == [0, 1, 5, 6, 10, 11, 15, 16] for order in rounds)
    assert len({tuple(order) for order in rounds}) == 5


@pytest.mark.parametrize("tasks", [numbered(7), as_tasks(endless)], ids=["finite", "generated"])
@pytest.mark.parametrize("settings", [{}, {**LEVELS, "limits": (5, 5)}], ids=["plain", "limit"])
def test_uniform_tasks_come_in_the_order_of_the_run(tasks, settings):
    """The order before there was a curriculum, replacements included; a limit that lets all in changes nothing."""
    made = curriculum(tasks, size=4, resample=2, seed=3, **settings)
    assert isinstance(made, Uniform)
    assert made.state is None
    for step in range(6):
        draw, first = Draw(step), step * 12
        for attempt, count in enumerate([4, 3, 1]):
            start = first + 4 * attempt
            assert made.take(draw, count) == [pick(tasks, number, 3) for number in range(start, start + count)]


# What a batch teaches of its tasks


class Chance:
    """Stands for a rollout: tasks are passed with a probability of their own."""

    def __init__(self, rates, rollouts=8):
        self.rates = rates
        self.rollouts = rollouts
        self.played = []

    def sample(self, tasks, *, seed, progress=None):
        rng = np.random.default_rng(seed)
        self.played += ns(tasks)
        groups = [group_of((rng.random(self.rollouts) < self.rates[task["n"]]).astype(float)) for task in tasks]
        for group, task in zip(groups, tasks, strict=True):
            group.task = task
        return groups

    def begin(self, tasks, *, step, **settings):
        return lambda: self.sample(tasks, **settings)


def source(rollout, made, *, size=4, resample=0):
    weigh = Weighing(vector_of(outcome="max"), AdvantageConfig(), {}, Grpo())
    return PolicySource(rollout, made, weigh, size, 5, resample=resample)


def test_groups_that_were_replaced_count_too():
    """Else of what is never passed nothing would ever be known."""
    rollout = Chance([0.0] * 9 + [0.5] * 3)
    made = by_pass_rate(12, decay=1.0, resample=2)
    groups, figures = source(rollout, made, resample=2).batch(0)
    assert len(groups) == 4
    replaced = int(figures["groups_replaced"])
    assert replaced > 0
    assert len(rollout.played) == len(set(rollout.played)) == 4 + replaced
    assert made.drawn.sum() == 4 + replaced
    assert made.failed[:9].tolist() == [8.0 * (n in rollout.played) for n in range(9)]


def test_what_is_passed_now_and_then_is_drawn_more_often():
    rates = [0.0] * 10 + [0.5] * 10 + [1.0] * 10
    drawn = {}
    for sampler in ("uniform", "pass_rate"):
        rollout = Chance(rates)
        batches = source(rollout, curriculum(numbered(30), sampler=sampler))
        figures = [batches.batch(step)[1] for step in range(150)]
        drawn[sampler] = np.bincount(rollout.played[200:], minlength=30)
    shares = {sampler: counts[10:20].sum() / counts.sum() for sampler, counts in drawn.items()}
    assert shares["uniform"] == pytest.approx(1 / 3, abs=0.01)
    assert shares["pass_rate"] > 0.6
    assert (drawn["pass_rate"] > 0).all()
    assert figures[-1]["curriculum/drawn"] == 1.0
    assert figures[-1]["groups_tied"] < 1


# What is not set, and what is refused


def test_what_is_not_set_is_as_usual():
    section = CurriculumConfig()
    assert (section.sampler, section.component, section.difficulty, section.limits) == ("uniform", None, None, None)
    assert (section.at_least, section.prior, section.explore) == (0.5, (1.0, 1.0), 0.02)
    assert (section.decay, section.until) == (0.99, 0.5)


CONFIG = {"model": {"path": "x"}, "env": {"id": "grpo_agents/Orchestra-v0"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "passrate"}, "curriculum.sampler: Input should be 'uniform' or 'pass_rate'"),
        ({"prior": [0.0, 1.0]}, "curriculum.prior is [0.0, 1.0], and a and b of a Beta distribution are above 0"),
        ({"prior": [1.0, float("inf")]}, "curriculum.prior is [1.0, inf], and a and b of a Beta distribution"),
        ({"difficulty": "level"}, "curriculum.difficulty and curriculum.limits go together"),
        ({"limits": [1, 2]}, "curriculum.difficulty and curriculum.limits go together"),
        ({"difficulty": "level", "limits": [3, 1]}, "curriculum.limits is [3.0, 1.0], and has to be two numbers"),
        ({"difficulty": "level", "limits": [1, float("nan")]}, "curriculum.limits is [1.0, nan], and has to be two"),
        ({"difficulty": "level", "limits": [float("-inf"), 1]}, "curriculum.limits is [-inf, 1.0], and has to be two"),
        ({"difficulty": "level", "limits": [1, float("inf")]}, "curriculum.limits is [1.0, inf], and has to be two"),
        ({"decay": 0.0}, "curriculum.decay: Input should be greater than 0"),
        ({"decay": 1.01}, "curriculum.decay: Input should be less than or equal to 1"),
        ({"until": 1.01}, "curriculum.until: Input should be less than or equal to 1"),
        ({"until": -0.01}, "curriculum.until: Input should be greater than or equal to 0"),
        ({"explore": -0.01}, "curriculum.explore: Input should be greater than or equal to 0"),
        ({"samplr": "uniform"}, "unknown key curriculum.samplr. Did you mean 'sampler'?"),
    ],
)
def test_what_is_wrong_with_the_section_is_said(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_config({**CONFIG, "curriculum": settings})


@pytest.mark.parametrize("settings", [{"sampler": "pass_rate"}, {"difficulty": "level", "limits": [1, 2]}])
def test_a_run_that_samples_nothing_while_it_learns_has_no_curriculum(settings):
    for kind, path in {"frozen": None, "stored": "x"}.items():
        with pytest.raises(ValueError, match=rf"a run on {kind} samples nothing then\. Leave curriculum\.sampler and"):
            make_config({**CONFIG, "curriculum": settings, "source": {"kind": kind, "path": path}})
    assert make_config({**CONFIG, "curriculum": settings}).curriculum.chooses


RARE = as_tasks(lambda rng: {"level": 2})


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        (as_tasks(endless), {"sampler": "pass_rate"}, r"generated without end.*tasks\.source, or use 'uniform'"),
        (numbered(3), {"sampler": "pass_rate", "component": "cost"}, r"component is 'cost', which is better the lower "
         r"it is.*: outcome, half$"),
        (numbered(3), {"sampler": "pass_rate", "component": "outcom"}, r"'outcom', which is not among the rewards"),
        (numbered(3), {**LEVELS, "difficulty": "lvl"}, r"is 'lvl', and task 0 has no such key, only n, level"),
        (as_tasks(endless), {**LEVELS, "difficulty": "lvl"}, r"difficulty is 'lvl', and task 0 has no such key"),
        (as_tasks([{"level": "hard", "id": "a"}]), LEVELS, r"task 'a' holds 'hard' there, which is no number"),
        (as_tasks([{"level": True}]), LEVELS, r"task 0 holds True there, which is no number"),
        (as_tasks([{"level": np.nan}]), LEVELS, r"task 0 holds nan there, which is no number"),
        (numbered(3), {**LEVELS, "limits": (0, 4)}, r"limits begins at 0, and the easiest task has 'level' 1\. Begin"),
        (RARE, LEVELS, r"curriculum\.limits: of 1000 tasks .* for step 1, none has 'level' at most 1\. Begin with a"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_tasks_is_refused(tasks, settings, message):
    with pytest.raises(ValueError, match=message):
        curriculum(tasks, **settings)


def test_counts_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match=r"counts the passes of 4 tasks, and there are 5 now.*tasks\.source"):
        by_pass_rate(5).restore(by_pass_rate(4).state)


def test_every_key_is_listed():
    keys = {key.name: key for key in list_keys("curriculum")}
    assert keys["curriculum.sampler"].type == '"uniform" or "pass_rate"'
    assert keys["curriculum.sampler"].default == '"uniform"'
    assert keys["curriculum.limits"].default == "not set"
