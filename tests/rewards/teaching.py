"""Groups whose rollouts say something, scored with models that are asked."""

import numpy as np

from grpo_agents.engines.chat_model import ScriptedModel
from grpo_agents.rewards.component import RewardVector
from grpo_agents.trajectory import Group, Sample, Step, Trajectory


def group_saying(*texts, question="?", task=None, logprobs=None):
    """A group of rollouts of one turn; ``logprobs`` are those of each rollout's tokens."""
    trajectories = []
    for index, text in enumerate(texts):
        samples = []
        if logprobs is not None:
            values = np.array([0.0, *logprobs[index]], np.float32)
            mask = np.array([False] + [True] * len(logprobs[index]))
            samples = [Sample(np.zeros(len(values), np.int32), mask, values)]
        trajectories.append(
            Trajectory(
                task=task or {},
                prompt=({"role": "user", "content": question},),
                steps=[Step({"role": "assistant", "content": text})],
                samples=samples,
                index=index,
            )
        )
    return Group(task or {}, {}, trajectories)


def score(entry, groups, anchor=None, judge=None):
    """Scores groups by one component."""
    given = {"anchor": anchor, "judge": judge}
    RewardVector([entry]).score(
        groups if isinstance(groups, list) else [groups], {name: model for name, model in given.items() if model}
    )


def asked(group, entry, answer=r"\boxed{7}"):
    """The messages that the anchor is asked with."""
    seen = []

    def script(messages):
        seen.append(list(messages))
        return answer

    score(entry, group, ScriptedModel(script), ScriptedModel(script))
    return seen[0]
