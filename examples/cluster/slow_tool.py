"""An environment whose every answer takes half a second, as that of a service elsewhere would."""

from __future__ import annotations

import time
from typing import Any

from grpo_agents import AgentEnv
from grpo_agents.env import Reply

SECONDS = 0.5
TURNS = 3


class SlowTool(AgentEnv):
    """Three messages of the policy, each answered after half a second."""

    tasks = tuple({"id": str(number), "question": f"Question {number}?"} for number in range(1000))
    said = 0

    def start(self, task: dict[str, Any]) -> str:
        """Asks."""
        self.said = 0
        return task["question"]

    def respond(self, message: dict[str, Any]) -> Reply:
        """Takes its time."""
        time.sleep(SECONDS)
        self.said += 1
        if self.said < TURNS:
            return Reply(messages=["go on"])
        return Reply(rewards={"outcome": float(len(message["content"]) % 2)}, terminated=True)
