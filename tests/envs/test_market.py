"""Markets: what is drawn, that a group shares it, what the policy reads, and what is refused."""

import json
import warnings
from collections import Counter

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tiny import make_tokenizer

from grpo_agents.chat import Chat
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.envs.orchestra import Market, OrchestraEnv, simulated_model
from grpo_agents.envs.orchestra.market import on_offer
from grpo_agents.evaluation import best_of, worths_of
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.cost import cost, latency, uses
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call
from grpo_agents.tools import Price, tool

POOL = tuple(simulated_model(name, f"Asks {name}.", price=1.0, latency=2.0) for name in ("ant", "bee", "cow"))
PRICES = {"ant": (1.0, 2.0, 4.0), "cow": (8.0,)}
ALIASES = ("north", "east", "south", "west")


def offers(market, count=400):
    return [market.draw(POOL, np.random.default_rng(seed)) for seed in range(count)]


def test_each_tool_draws_its_price_and_one_without_a_list_keeps_its_own():
    seen = Counter((entry["tool"], entry["price"]) for offer in offers(Market(prices=PRICES)) for entry in offer)
    assert set(seen) == {("ant", 1.0), ("ant", 2.0), ("ant", 4.0), ("bee", 1.0), ("cow", 8.0)}
    ants = [seen["ant", price] for price in PRICES["ant"]]
    assert min(ants) > 0.7 * max(ants)


def test_a_tool_that_is_paid_by_tokens_stays_so_unless_a_price_is_drawn_for_it():
    by_tokens = POOL[0].costing(price=Price(read=1e-6, written=4e-6))
    kept, drawn = Market(), Market(prices={"ant": [3.0]})
    for market, price in ((kept, Price(read=1e-6, written=4e-6)), (drawn, Price(3.0))):
        (offered,) = on_offer([by_tokens], market.draw([by_tokens], np.random.default_rng(0)))
        assert offered.prices == price


def test_every_subset_that_is_not_empty_comes_up_alike():
    seen = Counter(frozenset(entry["tool"] for entry in offer) for offer in offers(Market(), 1400))
    assert len(seen) == 7
    assert min(seen.values()) > 140


def test_subsets_are_those_that_are_named_in_any_order():
    orders = {tuple(entry["tool"] for entry in offer) for offer in offers(Market(subsets=[("ant", "bee"), ("cow",)]))}
    assert orders == {("ant", "bee"), ("bee", "ant"), ("cow",)}


def test_aliases_go_to_any_tool_and_to_one_only():
    drawn = offers(Market(aliases=ALIASES))
    assert {(entry["name"], entry["tool"]) for offer in drawn for entry in offer} == {
        (alias, name) for alias in ALIASES for name in ("ant", "bee", "cow")
    }
    assert all(len({entry["name"] for entry in offer}) == len(offer) for offer in drawn)


def test_an_offer_is_plain_data():
    for offer in offers(Market(prices=PRICES, aliases=ALIASES), 20):
        assert json.loads(json.dumps(offer)) == offer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prices": {"dog": [1.0]}}, "market.prices names 'dog'; the tools are ant, bee, cow"),
        ({"prices": {"ant": [1.0, -2.0]}}, r"market.prices of 'ant' is \[1.0, -2.0\]: a list of numbers of at least 0"),
        ({"latencies": {"ant": []}}, r"market.latencies of 'ant' is \[\]"),
        ({"latencies": {"ant": [float("nan")]}}, "market.latencies of 'ant'"),
        ({"prices": {"ant": 0.5}}, r"market.prices of 'ant' is 0.5: a list of numbers"),
        ({"prices": {"ant": ["1"]}}, r"market.prices of 'ant' is \['1'\]: a list of numbers"),
        ({"price": {}}, r"unknown key market.price. Did you mean 'prices'\?"),
        ({"subsets": []}, "market.subsets is empty"),
        ({"subsets": [["ant", "elk"]]}, "market.subsets names 'elk'; the tools are ant, bee, cow"),
        ({"aliases": ["a", "b"]}, "market.aliases has 2 names for up to 3 tools"),
        ({"aliases": ["a", "b", "c", "b"]}, "market.aliases has 'b' twice"),
        ({"aliases": ["a", "b", "my tool"]}, "market.aliases has 'my tool' .*or as what no tool can be called"),
    ],
)
def test_a_market_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OrchestraEnv(tools=POOL, market=settings)


def test_an_accuracy_that_lacks_a_choice_is_refused():
    with pytest.raises(ValueError, match="accuracy lacks bee, direct"):
        OrchestraEnv(tools=POOL, accuracy={"ant": {}, "cow": {}})


def test_a_simulated_model_of_unknown_accuracy_says_so():
    env = OrchestraEnv([TASK], tools=POOL)
    env.reset(seed=0)
    observation, *_ = env.step(call("ant"))
    assert "accuracy does not say how often 'ant' is right on kind 'x'" in observation[0]["content"]


def test_what_a_budget_or_a_meter_forbids_is_no_choice():
    task = {**TASK, "budget": 5.0}
    env = OrchestraEnv(
        [task], tools=[tool.costing(price=9.0) if tool.name == "cow" else tool for tool in POOL], accuracy=ACCURACY
    )
    assert set(env.expected_rewards(task)) == {"direct", "ant", "bee"}
    by_tokens = [each.costing(price=Price(read=1e-6)) for each in POOL]
    assert OrchestraEnv([task], tools=by_tokens, accuracy=ACCURACY).expected_rewards(task) == {}


def test_an_offer_of_a_tool_that_there_is_not_is_refused():
    task = {"question": "1+1", "answer": "2", "offer": [{"name": "a", "tool": "elk", "price": 1.0, "latency": None}]}
    with pytest.raises(ValueError, match="the task's offer names the tool 'elk'; there are ant, bee, cow"):
        OrchestraEnv([task], tools=POOL).reset(seed=0)


ACCURACY = {
    "direct": {"x": 0.0},
    **{name: {"x": right} for name, right in {"ant": 0.5, "bee": 1.0, "cow": 1.0}.items()},
}
TASK = {"id": "q", "question": "1+1", "answer": "2", "kind": "x"}


def call(name):
    return {"role": "assistant", "content": "", "tool_calls": [tool_call(name, {})]}


def market_env(**settings):
    market = {"prices": PRICES, "aliases": ALIASES, "subsets": [["ant", "cow"]]}
    return OrchestraEnv([TASK], tools=POOL, market=market, accuracy=ACCURACY, **settings)


def test_the_policy_reads_alias_price_and_time_and_the_call_counts_under_the_tools_own_name():
    env = market_env()
    _, info = env.reset(seed=3)
    offer = {entry["tool"]: entry for entry in info["task"]["offer"]}
    schemas = {schema["function"]["name"]: schema["function"]["description"] for schema in info["tools"]}
    assert schemas[offer["cow"]["name"]] == "Asks cow.\nPrice: $8 a call. Time: about 2 s."
    assert schemas[offer["ant"]["name"]] == f"Asks ant.\nPrice: ${offer['ant']['price']:g} a call. Time: about 2 s."
    observation, *_ = env.step(
        {"role": "assistant", "content": "", "tool_calls": [tool_call(offer["cow"]["name"], {})]}
    )
    assert observation[0]["content"] == "2"
    assert [(run.name, run.dollars, run.latency) for run in env.runs] == [("cow", 8.0, 2.0)]
    observation, *_ = env.step(call("cow"))
    assert observation[0]["content"].startswith("Error: there is no tool 'cow'. Available: ")


def test_a_task_that_has_its_offer_keeps_it():
    env = market_env()
    varied = env.vary(TASK, np.random.default_rng(0))
    assert env.vary(varied, np.random.default_rng(1)) == varied
    assert env.reset(seed=5, options={"task": varied})[1]["task"] == varied
    assert TASK == {"id": "q", "question": "1+1", "answer": "2", "kind": "x"}


def test_all_rollouts_of_a_group_have_one_offer_and_groups_of_a_task_have_others():
    chat = Chat(make_tokenizer(), tool_format="hermes")
    said = [*chat.tokenizer("2")["input_ids"], chat.stop_ids[0]]
    rollout = Rollout(
        market_env,
        chat,
        ScriptedEngine(lambda session, turn: said),
        RewardVector(["outcome", cost, latency]),
        RolloutConfig(group_size=4),
    )
    groups = rollout.sample([TASK] * 12, seed=0)
    rollout.close()
    for group in groups:
        assert all(entry.task == group.task for entry in group.trajectories)
        assert [schema["function"]["name"] for schema in group.trajectories[0].tools] == [
            entry["name"] for entry in group.task["offer"]
        ]
    assert len({json.dumps(group.task["offer"]) for group in groups}) > 6


def test_the_best_follows_the_offer():
    """By hand: share saved of 10 dollars and of 10 seconds, gated by being right."""
    env = market_env(maxima={"cost": 10.0, "latency": 10.0})
    best = best_of(env.expected_rewards, RewardVector(["outcome", cost, latency]), env.maxima, "outcome")
    offer = [
        {"name": "a", "tool": "ant", "price": 2.0, "latency": 5.0},
        {"name": "c", "tool": "cow", "price": 8.0, "latency": 1.0},
    ]
    task = {**TASK, "offer": offer}
    assert best(task, {"outcome": 0.2, "cost": 0.8, "latency": 0.0}) == pytest.approx(0.5 * (0.2 + 0.8 * 0.8))
    assert best(task, {"outcome": 0.2, "cost": 0.0, "latency": 0.8}) == pytest.approx(0.2 + 0.8 * 0.9)
    assert best({**task, "offer": offer[:1]}, {"outcome": 1.0, "cost": 0.0, "latency": 0.0}) == pytest.approx(0.5)


def test_tools_of_any_kind_and_the_verifier():
    @tool(price=1.0)
    def half() -> str:
        """A half."""
        return "0.5"

    env = OrchestraEnv([{"question": "1/2?", "answer": r"\frac{1}{2}"}], tools=[half], market={}, answers="math")
    env.reset(seed=0)
    assert env.step("0.5")[4]["rewards"] == {"outcome": 1.0}
    assert env.expected_rewards(env.task) == {}


def test_gymnasiums_checker_has_nothing_to_say_of_a_market():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(
            OrchestraEnv(market={"prices": {"expert": [1.0, 9.0]}, "aliases": list("abc")}), skip_render_check=True
        )


def test_weights_of_tools_are_shown_by_alias_and_only_of_those_on_offer():
    env = market_env()
    weights = {"outcome": 0.5, "uses.cow": 0.3, "uses.bee": 0.2}
    opening, info = env.reset(seed=3, options={"preference": weights})
    alias = next(entry["name"] for entry in info["task"]["offer"] if entry["tool"] == "cow")
    assert opening[-1]["content"].endswith(f"\nweights: outcome 5, {alias} 3")


def test_who_wants_a_tool_used_gets_more_where_it_is():
    """By hand: half for being right, half for a call of the cow, which is always right; the ant is so half the time."""
    env = market_env()
    vector = RewardVector(["outcome", uses("ant"), uses("cow")])
    worths = worths_of(env.expected_rewards, vector, env.maxima, "outcome")
    task = env.vary(TASK, np.random.default_rng(0))
    found = worths(task, {"outcome": 0.5, "uses.cow": 0.5, "uses.ant": 0.0})
    assert found == pytest.approx({"direct": 0.0, "ant": 0.25, "cow": 1.0})


def test_a_budget_is_the_tasks_or_the_environments():
    task = {**TASK, "offer": [{"name": "a", "tool": "cow", "price": 8.0, "latency": 1.0}]}
    for env, posed in ((market_env(budget=5.0), task), (market_env(budget=90.0), {**task, "budget": 5.0})):
        env.reset(seed=0, options={"task": posed})
        observation, *_ = env.step(call("a"))
        assert observation[0]["content"] == "Error: 'a' can cost $8, and $5 of the budget is left"
        assert env.runs[0].dollars == 0
