"""docs/cluster.md holds what was measured and simulated, and the files for clusters ask for what there is."""

import json
import tomllib
from dataclasses import replace

import pytest
import yaml
from scripts import script
from tiny import REPOSITORY

from grpo_agents.config import make_config

FOLDER = REPOSITORY / "examples" / "cluster"
PAGE = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("throughput", "throughput"),
        ("simulation", "simulation"),
        ("weights", "simulation"),
        ("faults", "soak"),
        ("slopes", "soak"),
    ],
)
def test_the_tables_of_the_page_are_those_of_the_figures(name, file):
    table = getattr(script("cluster/tables.py"), name)(json.loads((FOLDER / f"{file}.json").read_text()))
    assert table in PAGE


def test_the_config_of_the_page_is_one():
    (text,) = [block.split("```")[0] for block in PAGE.split("```toml\n")[1:]]
    made = make_config({"model": {"path": "x"}, "env": {"id": "x"}, **tomllib.loads(text)})
    assert (made.cluster.workers, made.max_staleness) == (6, 1)


def test_the_job_for_kubernetes_parses_and_asks_for_what_its_machines_have():
    job = yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    gpus = group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    asked = dict(part.split("=") for part in job["spec"]["entrypoint"].split() if part.startswith("cluster."))
    assert int(asked["cluster.learner_ranks"]) + int(asked["cluster.workers"].rstrip(";")) == gpus


SMALL = {"batch": 16, "steps": 6, "group_size": 4, "at_once": 16}


@pytest.fixture(scope="module")
def simulating():
    return script("cluster/simulate.py")


def test_a_simulated_run_does_what_its_job_says(simulating):
    """Tokens are those that were drawn, the learner learns as long as it says, and nothing is stale."""
    job = simulating.Job(gpus=8, **SMALL)
    found = simulating.simulate(job)
    learning = 16 * 4 * (4 * 400 + 1000) / (2 * 9000)
    assert found["step_seconds"] > learning + job.weights_seconds
    assert found["learner_use"] == pytest.approx(learning / found["step_seconds"], rel=0.2)
    sampled = found["tokens_a_second"] * found["step_seconds"]
    assert sampled == pytest.approx(16 * 4 * 4 * 400, rel=0.2)
    assert found["staleness"] == 0
    assert simulating.simulate(job) == found


def test_new_weights_take_the_longer_the_more_workers_there_are(simulating):
    """By hand: 15.2 GB are gathered (25 GB/s) and copied to main memory (10 GB/s), and go the same way out again."""
    one, many = simulating.Job(gpus=8), simulating.Job(gpus=1000)
    assert (one.workers, many.workers) == (6, 750)
    both = 2 * (15.2 / 25 + 15.2 / 10)
    assert one.weights_seconds == pytest.approx(both + 6 * (0.002 + 339 * 10e-6))
    assert many.weights_seconds == pytest.approx(both + 750 * (0.002 + 339 * 10e-6))
    stored = [replace(job, collective=False).weights_seconds for job in (one, many)]
    assert stored[1] - stored[0] == pytest.approx((94 - 1) * 30.4 / 5)  # a copy a machine, one after the other
    assert stored[0] == pytest.approx(both / 2 + 2 * 30.4 / 10 + 30.4 / 5)


def test_the_figures_of_the_page_are_of_the_job_that_the_script_simulates(simulating):
    held = json.loads((FOLDER / "simulation.json").read_text())
    base = simulating.Job(**held["job"])
    assert base == simulating.Job(gpus=8)
    smallest = {name: round(value, 4) for name, value in simulating.simulate(base).items()}
    assert smallest.items() <= held["rows"][0].items()
    asked = [(name, replace(base, gpus=gpus, **turned)) for name, turned in simulating.TURNED.items()
             for gpus in simulating.GPUS]  # fmt: skip
    for row, (name, job) in zip(held["rows"], asked, strict=True):
        assert (row["turned"], row["gpus"], row["batch"]) == (name, job.gpus, job.batch)
        assert (row["collective"], row["weights_seconds"]) == (job.collective, round(job.weights_seconds, 4))


def test_running_ahead_is_faster_and_no_older_than_allowed(simulating):
    """And of a learner that is never waited for, the engines are what bounds a run."""
    each = [simulating.simulate(simulating.Job(gpus=8, staleness=age, **SMALL)) for age in (0, 1, 2)]
    assert each[0]["step_seconds"] > each[1]["step_seconds"] >= 0.95 * each[2]["step_seconds"]
    assert [found["staleness"] <= age for age, found in enumerate(each)] == [True] * 3
    assert each[1]["staleness"] > 0
