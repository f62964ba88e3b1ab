"""A Ray cluster that wants its token."""

import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

JOIN = """
import sys
import ray
from grpo_agents.cluster.connection import connect
from grpo_agents.cluster.settings import ClusterConfig

try:
    leave = connect(ClusterConfig(kind="ray", address=sys.argv[1]))
except ValueError as error:
    sys.exit(str(error))
print(ray.get(ray.remote(lambda: 42).remote()))
leave()
"""


@contextmanager
def started(home, folder):
    """The address of a cluster of one machine, as `ray start` starts it for who has a token, while it runs."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 2)
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--port=0", "--num-cpus=1"]
    with subprocess.Popen(
        [*command, "--include-dashboard=false"],
        env=own({"HOME": str(home), "RAY_TMPDIR": folder}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as head:
        try:
            for line in head.stdout:
                if there := re.search(r"--address='([\d.:]+)'", line):
                    yield there[1]
                    return
        finally:
            head.terminate()


def own(settings):
    """This process's variables, with these and none other of Ray's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | settings


def join(address, **settings):
    command = [sys.executable, "-c", JOIN, address]
    return subprocess.run(command, env=own(settings), capture_output=True, text=True)


@pytest.mark.slow
def test_who_has_the_token_joins_and_others_are_told_what_is_missing(tmp_path):
    with_token, without = tmp_path / "with", tmp_path / "without"
    with_token.mkdir()
    without.mkdir()
    with tempfile.TemporaryDirectory() as folder, started(with_token, folder) as address:  # sockets want short paths
        known = {"HOME": str(with_token), "RAY_TMPDIR": folder}
        found = join("auto", **known)
        assert (found.returncode, found.stdout) == (0, "42\n"), found.stderr
        named = join(address, **known, RAY_AUTH_MODE="token")
        assert (named.returncode, named.stdout) == (0, "42\n"), named.stderr
        for settings in (
            {"HOME": str(without)},
            {"HOME": str(without), "RAY_AUTH_MODE": "token"},
        ):
            refused = join(address, **settings)
            assert refused.returncode == 1
            assert f"cluster.address is '{address}', and that cluster wants a token" in refused.stderr
            assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in refused.stderr
