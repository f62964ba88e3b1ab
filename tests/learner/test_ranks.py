"""Two processes that share a learner make the update of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranked
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What two ranks found."""
    out = tmp_path_factory.mktemp("ranks") / "found.safetensors"
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, here / "ranked.py", out],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


@pytest.mark.parametrize("case", ranked.CASES)
def test_two_processes_make_the_update_of_one(case, of_two):
    alone = ranked.run(case)
    assert {key for key in of_two if key.startswith(f"{case}|")} == alone.keys()
    loose = 1e-2 if case == "float16" else 1e-4
    for key, value in alone.items():
        kind, found = key.split("|")[1], of_two[key]
        assert found.shape == value.shape, key
        if kind == "gradient":
            torch.testing.assert_close(found, value, rtol=loose, atol=loose * float(value.abs().max()) + 1e-9, msg=key)
        elif kind == "figure":
            torch.testing.assert_close(found, value, rtol=10 * loose, atol=10 * loose, msg=key)
        elif kind == "weight" and case != "float16":
            # Adam's first step is ±lr wherever the gradient is more than rounding: compare those
            assert ((found - value).abs() > 1e-4).float().mean() < 5e-3, key


def test_the_others_follow_the_first(of_two):
    alone = ranked.led()
    assert {key for key in of_two if key.startswith("led|")} == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(of_two[key], value, rtol=1e-3, atol=1e-3, msg=key)
