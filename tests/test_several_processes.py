"""A run under torchrun: two processes hold the learner, and leave behind what one does."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from tiny import DEMO

from grpo_agents.trainer import resume, train
from runs import SMALL, grpo, rows_of


def two_processes(*arguments):
    """What the command line says in two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "grpo_agents", "train", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=140,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def lengthen(run):
    """One step more for a run."""
    config = run / "config.toml"
    text = config.read_text()
    assert "steps = 2\n" in text
    config.write_text(text.replace("steps = 2\n", "steps = 3\n"))


GRPO = {"method": "{name = 'grpo', kl_weight = 0.1}", "learner.updates": 2}
PPO = {"method": "{name = 'ppo', kl_weight = 0.1}", "model.lora": "{rank = 4}"}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "go_on"), [
    pytest.param(GRPO, lambda run: two_processes("--resume", run), id="grpo"),
    pytest.param(PPO, resume, id="ppo-lora"),
])  # fmt: skip
def test_a_run_of_two_processes_is_that_of_one(warm, tmp_path, settings, go_on):
    """Also where it goes on from a checkpoint, in two processes or in one."""
    settings = {"train.steps": 2, "model.threads": 1, **settings}
    one, two = tmp_path / "one", tmp_path / "two"
    train(grpo(one, warm, **settings))
    chosen = {**SMALL, "model.path": warm / "model", "run": two, **settings}
    given = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    assert two_processes(DEMO / "grpo.toml", *given).count("metrics.jsonl") == 1  # the first process alone speaks
    lengthen(one)
    lengthen(two)
    resume(one)
    go_on(two)
    assert [row["step"] for row in rows_of(one)] == [row["step"] for row in rows_of(two)]
    for mine, theirs in zip(rows_of(one), rows_of(two), strict=True):
        assert mine.keys() == theirs.keys()
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-4)
    file = "adapter_model.safetensors" if "model.lora" in settings else "model.safetensors"
    alone, together = (load_file(run / "model" / file) for run in (one, two))
    assert alone.keys() == together.keys()
    for name, value in alone.items():  # Adam moves by ±lr where a gradient is no more than rounding
        assert ((together[name] - value).abs() > 1e-4).float().mean() < 1e-2, name
