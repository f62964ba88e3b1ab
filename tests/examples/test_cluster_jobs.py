"""The jobs of examples/cluster begin a run, go on with one, and let it save before machines are taken away."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import REPOSITORY

from grpo_agents.config import load_config
from grpo_agents.run_folder import RunFolder

FOLDER = REPOSITORY / "examples" / "cluster"
CONFIG = REPOSITORY / "examples" / "gsm8k.toml"
STANDS_IN = f"""#!{sys.executable}
import os, signal, sys
name, log = os.path.basename(sys.argv[0]), os.environ["LOG"]


def note(*words):
    with open(log, "a") as file:
        print(*words, file=file, flush=True)


def ended(*_):
    note("saved")
    sys.exit(143)


note(name, *sys.argv[1:])
if name == "scontrol":
    print("first\\nsecond")
if name == "hostname":
    print("10.0.0.1")
if name == "python":  # counts machines: another one each time
    with open(log) as file:
        print(sum(line.startswith("python") for line in file))
if name == "srun" and "hostname" in sys.argv:
    print("10.0.0.1")
if name == "grpo-agents" and "TERMINATED" in os.environ:
    signal.signal(signal.SIGTERM, ended)
    print("ready", flush=True)
    if os.environ["TERMINATED"] == "shell":
        os.kill(os.getppid(), signal.SIGTERM)
    while True:
        signal.pause()
"""
"""Notes how it was called; as `grpo-agents`, waits for SIGTERM where there is to be one."""


@pytest.fixture
def place(tmp_path):
    """A folder with programs that stand in for those of a cluster, and the environment to find them first."""
    (tmp_path / "bin").mkdir()
    for name in ("grpo-agents", "ray", "srun", "scontrol", "sleep", "python"):
        (tmp_path / "bin" / name).write_text(STANDS_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_NODELIST": "nodes", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_ID": "7",
             "SLURM_CPUS_PER_TASK": "64"}  # fmt: skip
    return tmp_path, os.environ | slurm | {"PATH": path, "LOG": str(tmp_path / "log")}


def kuberay():
    return yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))


def commands(place: Path):
    """Each file's command, and where its run folder is then."""
    entrypoint = re.sub("/work|/tmp", str(place), kuberay()["spec"]["entrypoint"])
    return {
        "slurm": (["bash", str(FOLDER / "slurm.sh"), str(CONFIG), str(place / "runs/gsm8k")], place / "runs/gsm8k"),
        "kuberay": (["sh", "-c", entrypoint], place / "runs/gsm8k"),
    }


def noted(place):
    return (place / "log").read_text().splitlines()


@pytest.mark.parametrize("job", ["slurm", "kuberay"])
@pytest.mark.parametrize("state", ["nothing", "begun", "with a checkpoint"])
def test_a_job_begins_a_run_or_goes_on_with_it_whatever_there_is_of_it(place, job, state):
    where, env = place
    command, run = commands(where)[job]
    if state != "nothing":
        RunFolder(run).create(load_config(CONFIG))
    if state == "with a checkpoint":
        (run / "checkpoints" / "step-000010").mkdir(parents=True)
    subprocess.run(command, env=env, check=True, timeout=60)
    (called,) = [line.split() for line in noted(where) if line.startswith("grpo-agents ")]
    overrides = [called[at + 1] for at, word in enumerate(called) if word == "--set"]
    if state == "nothing":
        assert called[:3] == ["grpo-agents", "train", str(CONFIG if job == "slurm" else where / "gsm8k.toml")]
        config = load_config(CONFIG, overrides)  # every key is one of the config
        assert (config.run, config.cluster.kind) == (str(run), "ray")
    else:
        assert called[:4] == ["grpo-agents", "train", "--resume", str(run)]
        assert overrides == (["cluster.address=10.0.0.1:6379"] if job == "slurm" else [])


def test_the_job_for_slurm_asks_for_what_its_machines_have(place):
    where, env = place
    command, _ = commands(where)["slurm"]
    subprocess.run(command, env=env, check=True, timeout=60)
    asked = dict(re.findall(r"#SBATCH --(nodes|gpus-per-node)=(\d+)", (FOLDER / "slurm.sh").read_text()))
    called = " ".join(noted(where))
    ranks, workers = (int(re.search(rf"cluster\.{key}=(\d+)", called)[1]) for key in ("learner_ranks", "workers"))
    assert ranks + workers == int(asked["nodes"]) * int(asked["gpus-per-node"])
    assert int(asked["nodes"]) == int(env["SLURM_JOB_NUM_NODES"])


def test_the_job_for_slurm_waits_until_all_machines_are_there(place):
    where, env = place
    command, _ = commands(where)["slurm"]
    subprocess.run(command, env=env, check=True, timeout=60)
    called = [line.split()[0] for line in noted(where)]  # srun goes on in the background
    after = [name for name in called[called.index("python") :] if name in ("python", "sleep", "grpo-agents")]
    assert after == [*["python", "sleep"] * 3, "python", "grpo-agents"]


def test_the_time_limit_of_slurm_has_the_driver_save_before_the_job_is_queued_again(place):
    """SIGTERM comes to the shell of the script alone, as `--signal=B:` says."""
    where, env = place
    command, _ = commands(where)["slurm"]
    assert "#SBATCH --signal=B:TERM@120" in (FOLDER / "slurm.sh").read_text()
    subprocess.run(command, env=env | {"TERMINATED": "shell"}, check=False, timeout=60)
    after = noted(where)
    assert after[next(at for at, line in enumerate(after) if line.startswith("grpo-agents")) + 1 :] == [
        "saved",
        "scontrol requeue 7",
    ]


def test_a_head_pod_that_is_taken_away_has_its_driver_save_first(place):
    """Kubernetes runs the hook before it signals Ray, and waits as long as the grace period."""
    where, env = place
    command, _ = commands(where)["kuberay"]
    head = kuberay()["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    hook = [
        word.replace("/tmp", str(where)) for word in head["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    ]
    subprocess.run(hook, env=env, check=True, timeout=60)  # before there is a driver
    with subprocess.Popen(command, env=env | {"TERMINATED": "driver"}, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "ready\n"
        with subprocess.Popen(hook, env=env) as stopping:
            assert driver.wait(timeout=60) == 143
            assert stopping.wait(timeout=60) == 0
    assert "saved" in noted(where)


def test_pods_of_workers_stay_while_the_driver_saves():
    spec = kuberay()["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    pod, head = workers["template"]["spec"], spec["headGroupSpec"]["template"]["spec"]
    _, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert 120 <= int(seconds) < pod["terminationGracePeriodSeconds"] == head["terminationGracePeriodSeconds"]
