"""Stored trajectories with other rewards or under another preference, in a new file: what is stored stays."""

from grpo_agents.rescoring.components import given_by, read_vector, score_anew
from grpo_agents.rescoring.in_memory import with_rewards
from grpo_agents.rescoring.new_file import Missing, Rescored, files_of_other_preference, rescore

__all__ = [
    "Missing",
    "Rescored",
    "files_of_other_preference",
    "given_by",
    "read_vector",
    "rescore",
    "score_anew",
    "with_rewards",
]
