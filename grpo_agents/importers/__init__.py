"""Trajectories from files that others wrote, one JSON value a line, and from our own export of them.

A format is recognised by what a line holds. A line that cannot be read is named with its file and number and what is to
be done, and left out. Logs of messages have no token ids: such trajectories are evaluated, and refused for training.
"""

from grpo_agents.importers.importing import FORMATS, Imported, import_files

__all__ = ["FORMATS", "Imported", "import_files"]
