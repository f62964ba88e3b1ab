"""What is asked of a cluster and cannot be had: said before anything is loaded, with what would fit."""

import pytest

from grpo_agents.cluster.room import check_room, has_own_gpu, make_bundle
from grpo_agents.config import make_config

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
    ([GPU] * 3, 0, [{"CPU": 8.0}],
     r"asks for 3 rollout workers .* No machine has 2 CPUs and 1 GPU for one process: lower cluster.worker_cpus, work"),
    ([{"CPU": 8.0}, CPU], 1, [{"CPU": 4.0}] * 3, r"No machine has 8 CPUs for one process: lower cluster.learner_cpus"),
    ([GPU] * 12, 8, [{"CPU": 64.0, "GPU": 4.0}], r"With one worker at most cluster.learner_ranks = 3 fit, or add"),
    ([GPU] * 2, 1, [{"CPU": 8.0, "GPU": 1.0}],
     r"Not even one rank and one worker fit: ask for less with cluster.worker_cpus, worker_gpus, learner_cpus, or"),
    ([CPU], 0, [], r"has no processors on 0 machines. No machine has 2 CPUs"),
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
    ({"cluster": {"workers": 6, "max_staleness": 2}},
     "kind is not set, and without it max_staleness, workers would mean nothing: set cluster.kind = 'ray'"),
    ({"cluster": {"kind": "ray", "learner_ranks": 2}, "learner": {"optimizer": {"name": "adamw8bit"}}},
     "'adamw8bit', which works in one process alone, and cluster.learner_ranks is 2"),
])  # fmt: skip
def test_what_a_cluster_cannot_do_is_refused_before_it_is_asked(settings, said):
    with pytest.raises(ValueError, match=said):
        make_config(SETTINGS | settings)
