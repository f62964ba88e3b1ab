"""How often a tool was used, as a component that a user may weigh."""

import pytest

from grpo_agents.build import make_vector
from grpo_agents.config import RewardsConfig
from grpo_agents.env import AgentEnv, make_env
from grpo_agents.rewards import RewardVector, as_vector, named, uses
from grpo_agents.tools import tool
from grpo_agents.trajectory import Group, Step, ToolRun, Trajectory
from grpo_agents.utility import utility


def trajectory():
    first = [ToolRun("search", 1.0), ToolRun("search", 1.0, error="it raised"), ToolRun("ask", called="search")]
    return Trajectory(steps=[Step({}, tools=first), Step({}, tools=[ToolRun("search", called="assistant-2")])])


def test_calls_that_gave_a_result_are_counted_by_the_tools_own_name():
    vector = as_vector(["uses.search", "uses.ask", "uses.none"], {}, "it")
    made = trajectory()
    vector.score([Group({}, {}, [made])])
    assert made.rewards == {"uses.search": 2.0, "uses.ask": 1.0, "uses.none": 0.0}
    assert {(entry.direction, entry.unit) for entry in vector} == {("max", "calls")}


def test_a_user_who_weighs_it_gets_more_for_more():
    vector = RewardVector([uses("search"), uses("ask")])
    rewards: dict[str, float | None] = {"uses.search": 2.0, "uses.ask": 1.0}
    assert utility(rewards, {"uses.search": 0.5, "uses.ask": 0.25}, vector, {}, None) == 0.5 * 2 + 0.25 * 1
    with pytest.raises(ValueError, match=r"weighs 'uses\.serch'.*Did you mean 'uses\.search'"):
        vector.check_preference({"uses.serch": 1.0})


def test_a_name_without_a_tool_is_unknown():
    with pytest.raises(ValueError, match=r"unknown reward 'uses\.'"):
        named("uses.", {})


@tool(timeout=None)
def search(query: str) -> str:
    """Searches."""
    return query


class Offers(AgentEnv):
    tasks = [{}]  # noqa: RUF012
    tools = (search.called("assistant-2"),)


class OffersByTask(Offers):
    def offered(self, task):
        return self.tools[: task["count"]]


class OffersWhatTasksName(OffersByTask):
    tools = ()


def vector_of(env, *names):
    return make_vector(RewardsConfig(vector=list(names)), env)[0]


def test_a_tool_that_is_never_offered_is_refused_where_that_is_known():
    assert vector_of(Offers(), "outcome", "uses.search").names == ("outcome", "uses.search")
    with pytest.raises(ValueError, match=r"rewards name 'uses\.assistant-2'.*no tool .*It has: search"):
        vector_of(Offers(), "uses.assistant-2")
    for chooses in (OffersByTask(), make_env("grpo_agents/Orchestra-v0"), make_env("grpo_agents/Teacher-v0")):
        with pytest.raises(ValueError, match=r"rewards name 'uses\.other', and the environment has no tool 'other'"):
            vector_of(chooses, "uses.other")
    assert vector_of(OffersWhatTasksName(), "uses.other").names == ("uses.other",)
