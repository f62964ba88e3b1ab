r"""A Python interpreter for policies: what they run in it can do little harm.

>>> sandbox = Sandbox()
>>> sandbox.run("print('hi'); 6 * 7")
Result(stdout='hi\n', stderr='', value='42', ended='', lost=False, stdout_bytes=3, stderr_bytes=0)
>>> python = sandbox.tool()  # for an environment's ``tools``; session=True keeps the variables of an episode
>>> python.schema["function"]["parameters"]["properties"]
{'code': {'type': 'string', 'description': 'The code to run.'}}
>>> sandbox.close()

What is kept from a snippet, in layers that each act where the kernel has them (:meth:`Sandbox.containment` says which
do, ``require`` refuses to go on without):

- files: namespaces show it the Python installation, libraries of the system, and an empty folder in memory; Landlock
  denies all the rest again. The folder alone can be written to, and vanishes with the interpreter.
- network: a namespace without any, not even a loopback; seccomp denies sockets, Landlock denies TCP.
- processes: a namespace shows it its own alone; Landlock denies signals to others.
- forks: a limit on processes in a user namespace, which holds for root as well; without one, seccomp denies them all.
- memory, computing, files: limits of each process (:class:`Limits`); a deadline for all, kept from outside.
- calls: seccomp denies system calls that look into processes or have often been of use to attackers. Nothing that is
  run gains rights by it, and root is nobody.
- the host: its environment variables, memory and open files are in no process that runs a snippet.

What is not: errors in the kernel, which the snippet talks to directly; side channels; the time of processors, which a
snippet may take for up to ``processes`` threads until the deadline (a session stands still between calls); the reading
of ``/usr``, ``/lib`` and the Python installation with all packages in it; ``processes`` times ``memory``; what a
snippet leaves in a session for later calls, and what it lies about its own result. In a session it can lift its limit
of computing, not the deadline. Where namespaces are missing, what it writes is on disk, of a size that ``file_bytes``
alone limits; and where all layers are missing, as on macOS, this is a deadline and no sandbox: a snippet can do what
the host can.
"""

from grpo_agents.sandbox.sandbox import Limits, Result, Sandbox, Session

__all__ = ["Limits", "Result", "Sandbox", "Session"]
