"""A run folder that a rank of the learner does not see is refused before anything is loaded, not at a checkpoint."""

import os
from contextlib import nullcontext
from tempfile import NamedTemporaryFile

import pytest
import ray

from grpo_agents.cluster import learner
from grpo_agents.cluster.actors import RankActor
from grpo_agents.cluster.versions import versions
from grpo_agents.config import make_config


@pytest.fixture
def rank():
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray.remote(RankActor).options(num_cpus=1).remote()
    ray.shutdown()


def test_a_run_folder_that_ranks_do_not_see_is_refused(tmp_path, monkeypatch, rank):
    """As where it is on the driver's own disk; here the file that they look for is gone when they do."""
    looked_for = []

    def unseen(**settings):
        with NamedTemporaryFile(**settings) as mark:
            assert os.listdir(tmp_path) == [os.path.basename(mark.name)]  # there is no run folder yet
            looked_for.append(mark.name)
        return nullcontext(mark)

    monkeypatch.setattr(learner, "NamedTemporaryFile", unseen)
    run = tmp_path / "deep" / "run"
    config = make_config({"model": {"path": "x"}, "env": {"id": "x"}, "run": str(run), "cluster": {"kind": "ray"}})
    begin = (config.model_dump(mode="json"), os.getcwd(), versions())
    with pytest.raises(
        ValueError, match=rf"does not see what the driver writes in {tmp_path}, .*checkpoints of {run} "
    ):
        learner.RemoteLearner([rank], begin)
    assert len(looked_for) == 1
    assert os.listdir(tmp_path) == []
