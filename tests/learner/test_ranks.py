"""Two processes that share a learner make the update of one; and what one does without another."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ranked
import torch
from safetensors.torch import load_file

from grpo_agents.learner.ranks import Ranks, alone, begin, collective, first, follow, put, shared_as, whole


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


@pytest.mark.parametrize(("which", "said"), [("one", "trajectory 1.1: π/π_old is not finite"),
                                             ("both", r"trajectory \d.\d: .*; 9 more in this batch")])  # fmt: skip
def test_all_processes_skip_an_update_that_one_of_them_cannot_make(which, said, of_two):
    """They say the same, and neither weights nor moments move."""
    for found in (of_two, ranked.spoiled()):
        reasons, unmoved = ast.literal_eval(bytes(found[f"spoiled|{which}"].tolist()).decode())
        assert unmoved
        assert re.fullmatch(said, reasons[0])
        assert reasons[1:] == (1.0, 2)


def test_moments_in_8_bits_are_refused_where_ranks_hold_shards(of_two):
    said = bytes(of_two["refused"].tolist()).decode()
    assert said.startswith("learner.optimizer.name is 'adamw8bit', which works in one process alone")


class Line:
    """Stands for ranks: keeps what is announced, and hears what it is given."""

    def __init__(self, *calls):
        self.calls = iter(calls)
        self.announced = []

    def announce(self, call):
        self.announced.append(call)

    def hear(self):
        return next(self.calls)


class Adder:
    """What has ranks, and a sum that it refuses to lower."""

    def __init__(self, *calls):
        self.ranks = Line(*calls)
        self.total = 0

    @collective
    def add(self, number, *, times=1):
        """Adds a number so many times."""
        if number < 0:
            raise ValueError("lower")
        if number == float("inf"):
            raise FloatingPointError("no end")
        self.total += number * times
        return self.total


def test_a_collective_call_is_announced_as_it_was_made():
    adder = Adder()
    assert (adder.add(2, times=3), adder.total) == (6, 6)
    assert adder.ranks.announced == [("add", (2,), {"times": 3})]


def test_a_follower_makes_the_calls_until_it_is_sent_home():
    """It announces none of them, and what the first rank is refused ends neither; anything else does."""
    calls = [("add", (2,), {"times": 3}), ("add", (-1,), {}), ("add", (float("inf"),), {}), ("add", (5,), {})]
    adder = Adder(*calls, None, ("add", (100,), {}))
    follow(adder)
    assert (adder.total, adder.ranks.announced) == (2 * 3 + 5, [])
    with pytest.raises(TypeError):
        follow(Adder(("add", ("1",), {}), None))


def test_one_process_is_a_rank_of_one():
    begin()  # torchrun did not start this one
    ranks = Ranks()
    assert (ranks.rank, ranks.size, ranks.gather("own"), alone(), first()) == (0, 1, ["own"], True, True)
    ranks.announce(("add", (1,), {}))
    ranks.close()


def test_a_tensor_of_one_process_is_whole():
    weight, value = torch.zeros(2, requires_grad=True), torch.tensor([1.0, -2.0])
    assert whole(weight) is weight
    assert shared_as(value, weight).tolist() == [1.0, -2.0]
    put(weight, value)
    assert (weight.tolist(), weight.requires_grad, weight.is_leaf) == ([1.0, -2.0], True, True)
