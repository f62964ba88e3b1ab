import re
import threading
from contextlib import closing

import numpy as np
import pytest
from talk import Talk, make_rollout, one, say
from tiny import full_logprobs, make_tokenizer, plain
from transformers import AutoModelForCausalLM

from grpo_agents.chat import Chat
from grpo_agents.engines.transformers import TransformersEngine
from grpo_agents.env import Reply
from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.rewards.component import Component, RewardVector, component
from grpo_agents.rewards.cost import cost, latency
from grpo_agents.rewards.preference import Choices
from grpo_agents.rollout import Rollout, RolloutConfig

TRIPLE = RewardVector(["outcome", cost, latency])


@pytest.fixture(autouse=True)
def _fresh():
    Talk.made.clear()
    Talk.hang = threading.Event()
    yield
    Talk.hang.set()


@pytest.fixture(scope="module")
def chat():
    return Chat(make_tokenizer(), tool_format="hermes")


# A whole episode


def test_a_tool_episode_of_three_turns(chat):
    """Tool results reach the prompt, costs are on the steps, the vector on the trajectory."""
    turns = [
        say(chat, "", ("double", {"number": 21})),
        say(chat, "so", ("double", {"number": 4}), ("nothing", {})),
        say(chat, "bye"),
    ]
    rollout = make_rollout(chat, turns, vector=TRIPLE)
    prompts = []
    submit = rollout.engine.submit
    rollout.engine.submit = lambda requests, sampling, deliver: (
        prompts.extend(chat.tokenizer.decode(request.ids) for request in requests),
        submit(requests, sampling, deliver),
    )
    trajectory = one(rollout)
    assert (trajectory.stop_reason, trajectory.error, trajectory.truncated) == ("terminated", None, False)
    assert [len(step.tools) for step in trajectory.steps] == [1, 2, 0]
    assert [(run.dollars, run.latency, run.error is None) for step in trajectory.steps for run in step.tools] == [
        (2.0, 0.5, True), (2.0, 0.5, True), (0.0, 0.0, False)]  # fmt: skip
    assert trajectory.rewards == {"outcome": 1.0, "cost": 4.0, "latency": 1.0}
    assert trajectory.steps[0].observation[0]["content"] == "42"
    assert len(prompts) == 3
    assert prompts[0].endswith("go talk<|end|><|assistant|>")
    assert prompts[1].startswith(prompts[0])
    assert prompts[1].endswith("<|tool|>42<|end|><|assistant|>")
    assert "<|tool|>8<|end|><|tool|>Error: there is no tool 'nothing'" in prompts[2]
    assert [message["role"] for message in trajectory.messages()] == [
        "user", "assistant", "tool", "assistant", "tool", "tool", "assistant"]  # fmt: skip
    (sample,) = trajectory.samples
    assert sample.ids[sample.mask].tolist() == [token for turn in turns for token in turn]
    for step, ids in zip(trajectory.steps, turns, strict=True):
        assert sample.ids[slice(*step.span)].tolist() == ids
        assert sample.mask[slice(*step.span)].all()
    assert trajectory.sampled_tokens == sum(map(len, turns))


def test_step_rewards_add_up(chat):
    trajectory = one(make_rollout(chat, [say(chat, "a"), say(chat, "b"), say(chat, "bye")]))
    assert [step.rewards for step in trajectory.steps] == [{"outcome": 0.25}, {"outcome": 0.25}, {"outcome": 1.0}]
    assert trajectory.rewards == {"outcome": 1.5}


def test_groups_in_order_with_seeds_of_their_own(chat):
    rollout = make_rollout(chat, [say(chat, "bye")], group_size=3)
    ended = []
    tasks = [{"do": f"talk {n}"} for n in range(4)]
    groups = rollout.sample(tasks, seed=5, progress=ended.append)
    assert [group.task for group in groups] == tasks
    everyone = [trajectory for group in groups for trajectory in group.trajectories]
    assert [trajectory.id for trajectory in everyone] == [f"{n}.{i}" for n in range(4) for i in range(3)]
    assert len({trajectory.seed for trajectory in everyone}) == 12
    assert sum(ended) == 12
    assert {trajectory.env for trajectory in everyone} == {"Talk"}
    assert len(rollout.sample(tasks[:1], seed=5, group_size=7)[0].trajectories) == 7


# Trouble


@pytest.mark.parametrize(
    ("do", "reason", "error"),
    [
        ("raise in reset", "error", r"^Talk reset: ValueError: no such world$"),
        ("raise in step", "error", r"^Talk step 1: RuntimeError: it broke$"),
        ("hang in reset", "deadline", r"^Talk reset: still running after 0\.6 s \(rollout\.step_timeout\)$"),
        ("hang in step", "deadline", r"^Talk step 1: still running after 0\.6 s \(rollout\.step_timeout\)$"),
    ],
)
def test_an_environment_in_trouble_harms_nobody_else(chat, do, reason, error):
    rollout = make_rollout(chat, [say(chat, "hm"), say(chat, "bye")], group_size=2, step_timeout=0.6, threads=2)
    groups = rollout.sample([{"do": "talk"}, {"do": do}, {"do": "talk"}], seed=0)
    for trajectory in groups[1].trajectories:
        assert trajectory.stop_reason == reason
        assert re.search(error, trajectory.error)
        assert trajectory.truncated
        assert len(trajectory.steps) == ("step" in do)
        if "step" in do:  # what was said is kept
            assert trajectory.steps[0].message["content"] == "hm"
            assert trajectory.sampled_tokens == len(say(chat, "hm"))
        assert trajectory.rewards == {"outcome": None}
        assert trajectory.error in trajectory.missing["outcome"]
    for trajectory in groups[0].trajectories + groups[2].trajectories:
        assert (trajectory.stop_reason, trajectory.rewards) == ("terminated", {"outcome": 1.25})
    spoiled = [env for env in Talk.made if do in env.history]
    assert len(spoiled) == 2
    again = rollout.sample([{"do": "talk"}] * 4, seed=1)
    assert {trajectory.stop_reason for group in again for trajectory in group.trajectories} == {"terminated"}
    assert [env.history for env in spoiled] == [[do]] * 2  # never used again
    assert len(Talk.made) == 6 + 4  # the four good ones served again, and four new ones


@pytest.mark.parametrize("said", [{"content": "x"}, {"role": "user"}, {"role": "wizard", "content": "x"}, 5])
@pytest.mark.parametrize("where", ["reset", "step 1"])
def test_an_environment_that_says_nonsense_is_an_error_of_its_episode(chat, said, where):
    class Nonsense(Talk):
        def start(self, task):
            return [said] if where == "reset" else "go"

        def respond(self, message):
            return Reply([said])

    trajectory = one(make_rollout(chat, [say(chat, "on")], env=Nonsense))
    assert trajectory.stop_reason == "error"
    assert trajectory.error.startswith(f"Talk {where}: TypeError: ")
    assert trajectory.rewards == {"outcome": None}


def test_an_environment_without_a_first_message(chat):
    class Silent(Talk):
        def start(self, task):
            return []

    assert one(make_rollout(chat, [[1]], env=Silent)).error == "Talk reset: ValueError: Silent.start gave no message"


# Budgets


def test_turns_run_out(chat):
    trajectory = one(make_rollout(chat, [say(chat, "on")], max_turns=3))
    assert (trajectory.stop_reason, trajectory.truncated, len(trajectory.steps)) == ("turns", True, 3)
    assert trajectory.rewards == {"outcome": 0.75}


def test_an_episode_that_ends_in_its_last_turn_is_not_cut(chat):
    trajectory = one(make_rollout(chat, [say(chat, "on"), say(chat, "bye")], max_turns=2))
    assert (trajectory.stop_reason, trajectory.truncated) == ("terminated", False)


def test_a_turn_that_is_cut_calls_nothing(chat):
    turn = say(chat, "", ("double", {"number": 21}))
    trajectory = one(make_rollout(chat, [turn], max_turn_tokens=len(turn) - 1))
    (step,) = trajectory.steps
    assert (trajectory.stop_reason, step.finish_reason) == ("tokens", "length")
    assert "tool_calls" not in step.message
    assert step.tools == []
    assert step.observation == ()
    assert trajectory.sampled_tokens == len(turn) - 1  # and is kept
    assert trajectory.rewards == {"outcome": 0.0}  # the worst: the policy did not come to an answer
    assert one(make_rollout(chat, [turn, say(chat, "bye")], max_turn_tokens=len(turn))).stop_reason == "terminated"


@pytest.mark.parametrize("spare", [0, 1])
def test_tokens_run_out_over_turns(chat, spare):
    """The budget may end with a turn, or within the next."""
    turn = say(chat, "on")
    trajectory = one(make_rollout(chat, [turn], max_tokens=2 * len(turn) + spare))
    assert trajectory.stop_reason == "tokens"
    assert trajectory.sampled_tokens == 2 * len(turn) + spare
    assert [step.finish_reason for step in trajectory.steps] == ["stop", "stop", "length"][: 2 + spare]


def test_the_context_fills_up(chat):
    free = one(make_rollout(chat, [say(chat, "on"), say(chat, "bye")]))
    (sample,) = free.samples
    first, second = (step.span for step in free.steps)
    for context in range(first[0] - 1, len(sample.ids) + 1):
        trajectory = one(make_rollout(chat, [say(chat, "on"), say(chat, "bye")], context=context))
        assert sum(len(entry.ids) for entry in trajectory.samples[:1]) <= max(context, first[0]) + (
            second[0] - first[1]
        )
        if context >= second[1]:
            assert trajectory.stop_reason == "terminated"
            continue
        assert (trajectory.stop_reason, trajectory.truncated) == ("context", True)
        turns = (context > first[0]) + (context > second[0])
        assert len(trajectory.steps) == turns
        said = max(0, min(context, first[1]) - first[0]) + max(0, context - second[0])
        assert trajectory.sampled_tokens == said


def test_the_episode_runs_out_of_time(chat):
    rollout = make_rollout(chat, [say(chat, "on")], episode_timeout=0.5, max_turns=50)
    trajectory = one(rollout, "slow")
    assert trajectory.stop_reason == "deadline"
    assert "longer than 0.5 s" in trajectory.error
    assert trajectory.rewards == {"outcome": None}  # whoever was slow, it was no budget of the policy's
    assert trajectory.steps[0].seconds > 0.14
    assert sum(step.seconds for step in trajectory.steps[:-1]) < 0.5 < trajectory.seconds


def test_an_environment_that_is_never_made_ends_the_run_with_a_message(chat):
    class Stuck(Talk):
        def __init__(self, **settings):
            self.hang.wait(60)
            super().__init__(**settings)

    rollout = make_rollout(chat, [say(chat, "bye")], env=Stuck, episode_timeout=0.3)
    with pytest.raises(TimeoutError, match=r"^Talk: an environment was not made within 0\.3 s \(rollout\.episode_time"):
        one(rollout)
    rollout.close()


@pytest.mark.parametrize("asked", ["vary", "draw"])
def test_an_environment_that_never_says_what_a_group_is_about_ends_the_run_with_a_message(chat, asked):
    class Stuck(Talk):
        def vary(self, task, rng):
            self.hang.wait(60 if asked == "vary" else 0)
            return task

        def draw(self, rng):
            self.hang.wait(60)
            return {}

    stuck = Stuck()
    rollout = make_rollout(
        chat, [say(chat, "bye")], env=Stuck, preferences=stuck if asked == "draw" else None, step_timeout=0.3
    )
    with pytest.raises(TimeoutError, match=r"^Talk: vary, or the drawing of a preference, took longer than 0\.3 s \("):
        one(rollout)
    rollout.close()


def test_what_making_an_environment_raises_is_raised(chat):
    def make():
        raise TimeoutError("the browser did not answer")

    with pytest.raises(TimeoutError, match="the browser did not answer"):
        one(make_rollout(chat, [say(chat, "bye")], env=make))


def test_the_environment_may_cut_an_episode_itself(chat):
    class Short(Talk):
        def step(self, action):
            observation, reward, terminated, _, info = super().step(action)
            return observation, reward, terminated, True, info

    trajectory = one(make_rollout(chat, [say(chat, "on")], env=Short))
    assert (trajectory.stop_reason, trajectory.truncated, len(trajectory.steps)) == ("truncated", True, 1)


@pytest.mark.parametrize("choice", ["keep", "mask", "worst"])
def test_what_becomes_of_what_is_cut_short(chat, choice):
    vector = RewardVector([Component("outcome", None, worst=-1.0), cost])
    rollout = make_rollout(chat, [say(chat, "", ("double", {"number": 1})), say(chat, "on")], vector=vector,
                           max_turns=2, truncated=choice)  # fmt: skip
    trajectory = one(rollout)
    assert trajectory.masked == (choice == "mask")
    assert trajectory.rewards == {"outcome": -1.0 if choice == "worst" else 0.25, "cost": 2.0}
    whole = one(make_rollout(chat, [say(chat, "bye")], vector=vector, truncated=choice))
    assert (whole.masked, whole.rewards) == (False, {"outcome": 1.0, "cost": 0.0})


@pytest.mark.parametrize("choice", ["mask", "worst"])
@pytest.mark.parametrize("do", ["raise in step", "hang in step"])
def test_an_error_of_ours_is_never_scored_as_the_policys(chat, choice, do):
    trajectory = one(make_rollout(chat, [say(chat, "on")], truncated=choice, step_timeout=0.6), do)
    assert (trajectory.rewards, trajectory.masked) == ({"outcome": None}, False)


# Rewards


def test_a_reward_that_fails_is_missing_with_its_reason(chat):
    @component
    def broken(trajectory):
        raise ZeroDivisionError("by nothing")

    @component
    def endless(trajectory):
        return float("nan")

    @component
    def asks(trajectory, judge):
        return len(judge)

    trajectory = one(
        make_rollout(chat, [say(chat, "bye")], vector=RewardVector(["outcome", broken, endless, asks]),
                     resources={"judge": "abc"})
    )  # fmt: skip
    assert trajectory.rewards == {"outcome": 1.0, "broken": None, "endless": None, "asks": 3.0}
    assert "ZeroDivisionError: by nothing" in trajectory.missing["broken"]
    assert "nan" in trajectory.missing["endless"]


def test_a_text_is_judged_by_an_episode_of_one_message(chat):
    with closing(make_rollout(chat, [])) as rollout:
        assert rollout.judge({"do": "talk"}, "bye") == {"outcome": 1.0}
        assert rollout.judge({"do": "talk"}, "hello") == {}  # the episode goes on
        assert len(Talk.made) == 1


@pytest.mark.parametrize("do", ["raise in reset", "raise in step", "hang in step"])
def test_what_cannot_be_judged_is_said_and_harms_nobody(chat, do):
    with closing(make_rollout(chat, [], step_timeout=0.6)) as rollout:
        with pytest.warns(UserWarning, match="'bye' could not be judged"):
            assert rollout.judge({"do": do}, "bye") == {}
        assert rollout.judge({"do": "talk"}, "bye") == {"outcome": 1.0}
        assert len(Talk.made) == 2  # what failed is in a state that nobody knows


def test_a_text_for_which_no_environment_can_be_made_is_not_judged(chat):
    def make():
        raise OSError("no browser here")

    with (
        closing(make_rollout(chat, [], env=make)) as rollout,
        pytest.warns(UserWarning, match="'bye' could not be judged: OSError"),
    ):
        assert rollout.judge({"do": "talk"}, "bye") == {}


def test_a_preference_is_shared_by_a_group_and_shown(chat):
    options = [{"outcome": 0.25, "cost": 0.75}, {"outcome": 0.75, "cost": 0.25}]
    rollout = make_rollout(chat, [say(chat, "bye")], preferences=Choices(options), group_size=3,
                           vector=RewardVector(["outcome", cost]))  # fmt: skip
    groups = rollout.sample([{"do": "talk"}] * 12, seed=3)
    for group in groups:
        for trajectory in group.trajectories:
            assert trajectory.preference == group.preference
            shown = f"outcome {group.preference['outcome']}, cost {group.preference['cost']}"
            assert shown in trajectory.prompt[-1]["content"]
    drawn = [group.preference["cost"] for group in groups]
    assert set(drawn) == {0.25, 0.75}
    assert drawn == [group.preference["cost"] for group in rollout.sample([{"do": "talk"}] * 12, seed=3)]
    assert drawn != [group.preference["cost"] for group in rollout.sample([{"do": "talk"}] * 12, seed=4)]


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({"outcome": 0.5, "csot": 0.5}, r"weighs 'csot', which is no reward component. Did you mean 'cost'"),
        ({"outcome": -1.0}, r"preference for 'outcome' is -1.0: a weight is a finite number of at least 0"),
    ],
)
def test_what_an_environment_draws_is_a_preference(chat, drawn, message):
    class Odd(Talk):
        preferences = type("Drawn", (), {"draw": lambda self, rng: drawn})()

    with (
        closing(make_rollout(chat, [say(chat, "bye")], env=Odd, vector=TRIPLE)) as rollout,
        pytest.raises(ValueError, match=message),
    ):
        one(rollout)


def test_the_environments_own_preferences_are_drawn_where_none_are_given(chat):
    rollout = make_rollout(chat, [say(chat, "7")], env=OrchestraEnv, vector=TRIPLE, group_size=2)
    tasks = [OrchestraEnv().task_source[n] for n in range(10)]
    groups = rollout.sample(tasks, seed=0)
    assert len({tuple(group.preference.values()) for group in groups}) > 2
    assert all(dict(group.preference) in OrchestraEnv.preferences.options for group in groups)
    assert make_rollout(chat, [say(chat, "bye")]).sample([{"do": "talk"}], seed=0)[0].preference == {}


# A real model


@pytest.fixture(scope="module")
def policy(warm):
    return AutoModelForCausalLM.from_pretrained(warm / "model")


def orchestra(policy, *, seed=0, count=6, **settings):
    chat = Chat(make_tokenizer())
    max_rows = settings.pop("max_rows", 512)
    temperature = settings.pop("hotter", None)
    engine = TransformersEngine(policy, chat.pad_id, decode=chat.tokenizer.decode, max_rows=max_rows)
    said = {}
    submit = engine.submit

    def recording(requests, sampling, deliver):
        def record(completion):
            said.setdefault(completion.session, []).append(completion)
            deliver(completion)

        submit(requests, sampling, record)

    engine.submit = recording
    config = RolloutConfig(**{"group_size": 4, "max_turns": 4, "max_turn_tokens": 20, **settings})
    rollout = Rollout(OrchestraEnv, chat, engine, TRIPLE, config, env_name="Orchestra")
    tasks = [OrchestraEnv().task_source[number] for number in range(count)]
    groups = rollout.sample(tasks, seed=seed, temperature=temperature)
    rollout.close()
    return [trajectory for group in groups for trajectory in group.trajectories], said, engine


def test_the_same_seed_gives_the_same_trajectories_whatever_the_threads(policy):
    first, _, _ = orchestra(policy, threads=1)
    second, _, _ = orchestra(policy, threads=7)
    assert [plain(trajectory) for trajectory in first] == [plain(trajectory) for trajectory in second]
    other, _, _ = orchestra(policy, seed=1)
    assert [plain(trajectory) for trajectory in first] != [plain(trajectory) for trajectory in other]
    assert max(len(trajectory.steps) for trajectory in first) > 1


def test_the_same_episode_whatever_is_computed_beside_it(policy):
    """Fewer rows at once, and fewer tasks in the batch: the same ids."""
    whole, _, _ = orchestra(policy)
    for settings in ({"max_rows": 5}, {"count": 2}):
        for one_, other in zip(orchestra(policy, **settings)[0], whole, strict=False):
            assert [sample.ids.tolist() for sample in one_.samples] == [sample.ids.tolist() for sample in other.samples]
            assert one_.rewards == other.rewards


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_every_sampled_token_is_trained_once_with_the_engines_log_probability(policy, temperature):
    trajectories, said, engine = orchestra(policy, temperature=temperature, count=10, group_size=3)
    assert engine._blocks == []  # every session was released
    for trajectory, completions in zip(trajectories, (said[session] for session in sorted(said)), strict=True):
        ids = [token for completion in completions for token in completion.ids]
        values = [value for completion in completions for value in completion.logprobs]
        assert np.concatenate([sample.ids[sample.mask] for sample in trajectory.samples]).tolist() == ids
        assert np.concatenate([sample.logprobs[sample.mask] for sample in trajectory.samples]) == pytest.approx(values)
        for sample in trajectory.samples:
            own = full_logprobs(policy, sample.ids, temperature)
            assert sample.logprobs[sample.mask] == pytest.approx(own[sample.mask[1:]], abs=1e-4)
            assert not sample.logprobs[~sample.mask].any()
        for step, completion in zip(trajectory.steps, completions, strict=True):
            assert trajectory.samples[step.sample].ids[slice(*step.span)].tolist() == completion.ids
            assert (step.finish_reason, step.version) == (completion.finish_reason, completion.version)


def test_another_temperature_for_an_evaluation(policy):
    """Greedy rollouts of one task are all the same."""
    trajectories, _, _ = orchestra(policy, hotter=0.0, count=3)
    for start in range(0, 12, 4):
        first = trajectories[start].samples[0]
        turn = slice(*trajectories[start].steps[0].span)
        for trajectory in trajectories[start : start + 4]:
            assert trajectory.samples[0].ids[turn].tolist() == first.ids[turn].tolist()
