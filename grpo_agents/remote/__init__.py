"""Environments that live elsewhere: behind a WebSocket, or in actors of Ray, and played as if they were here.

What is asked of an environment, and what it answers, is plain data (``wire``). ``answering`` answers for one, and
``sessions`` holds many, each in a thread of its own. ``server`` hands that to a network and ``actors`` to Ray;
``websocket`` and ``actors`` are also the two ways there, of which ``client`` makes an environment again. ``openenv``
plays servers that were written with OpenEnv.
"""

from grpo_agents.remote.making import is_remote, make_remote
from grpo_agents.remote.place import Place
from grpo_agents.remote.wire import RemoteFailure

__all__ = ["Place", "RemoteFailure", "is_remote", "make_remote"]
