"""What tests of the command line share."""

from grpo_agents.trajectory import Step, ToolRun, Trajectory

CONFIG = """
run = "runs/new"
model = { path = "start" }
env = { id = "grpo_agents/Orchestra-v0", options = { split = "train" } }
rewards = { vector = ["outcome", "cost", "latency"] }
advantage = { gate = "outcome" }
rollout = { group_size = 2, max_turn_tokens = 6, max_turns = 2 }
train = { steps = 2, batch = 2 }
eval = { every = 2, tasks = 3, env_options = { split = "test" } }
"""

BROKEN = '''
import itertools
from grpo_agents import AgentEnv, Reply, tool

count = itertools.count()


@tool(timeout=None)
def look(number: int) -> str:
    """Looks."""
    return str(next(count))


class Good(AgentEnv):
    """Keeps the contract."""

    tasks = [{"word": "tree"}]

    def start(self, task):
        return "A word?"

    def finish(self, task, message):
        return {"outcome": 1.0}


class Unmakeable(Good):
    def __init__(self):
        raise RuntimeError("no shop today")


class OddTasks(Good):
    tasks = [{"word": {1, 2}}]


class OtherTasks(Good):
    tasks = lambda rng: {"number": next(count)}


class TwoTools(Good):
    tools = (look, look)


class Forgetful(Good):
    tools = (look,)


class NoMessage(Good):
    def start(self, task):
        return ({"role": "robot", "content": "A word?"},)


class Silent(Good):
    def respond(self, message):
        return Reply()


class Cut(Good):
    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, True, info


class Undeclared(Good):
    def finish(self, task, message):
        return {"outcome": 1.0, "style": 0.5}


class Sparing(Good):
    components = ("outcome", "style")


class Costs(Good):
    maxima = {"costs": 4.0}


class Free(Good):
    maxima = {"cost": 0.0}


class Endless(Good):
    def finish(self, task, message):
        return {"outcome": float("inf")}


class Secretive(Good):
    def describe_preference(self, preference):
        return ""


class Raises(Good):
    def finish(self, task, message):
        return {"outcome": task["wrod"]}
'''


def refused(result, code=2):
    """The message of a command that failed, without a traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr.strip()


def episode(task, outcome, dollars, **fields):
    step = Step({"role": "assistant", "content": "one two"}, rewards={"outcome": outcome})
    step.tools = [ToolRun("expert", dollars, 0.3)]
    rewards = {"outcome": outcome, "cost": dollars}
    return Trajectory(env="grpo_agents/Orchestra-v0", task={"id": task}, steps=[step], rewards=rewards, **fields)
