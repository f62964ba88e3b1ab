"""A run on workers of Ray whose environments live in actors of Ray."""

import pytest
import ray

from grpo_agents.trainer import train
from runs import grpo, rows_of, tokens_of

RAY = {"cluster.kind": "ray", "cluster.workers": 2, "engine.max_rows": 6}
ELSEWHERE = {
    "env.id": "ray:grpo_agents/Orchestra-v0",
    "env.place.actors": 2,
    "model.threads": 1,
    "train.steps": 2,
}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_it_is_the_local_run_with_the_same_environment(warm, tmp_path):
    alone = train(grpo(tmp_path / "alone", warm, **ELSEWHERE))
    run = train(grpo(tmp_path / "run", warm, **ELSEWHERE, **RAY))
    assert tokens_of(run) == tokens_of(alone)
    assert sum(map(len, tokens_of(run).values())) == 2 * 9 + 2 * 5
    assert [row["step"] for row in rows_of(run)] == [row["step"] for row in rows_of(alone)]
