"""The soak itself, for minutes; and that what it concludes could be otherwise."""

import json
import subprocess
import sys
from multiprocessing import shared_memory

import numpy as np
import pytest
import soak_verdicts
from processes import eventually
from soak_faults import KINDS, rounds
from soak_watch import Life, Sample, Steps, Watch, processes, role_of, temporary
from tiny import REPOSITORY

MIB = 2**20


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_minutes_of_faults_leave_nothing_behind(tmp_path):
    """Each fault in them is followed by steps; of slopes, three minutes say nothing."""
    out = tmp_path / "soak.json"
    command = [sys.executable, REPOSITORY / "tests" / "soak.py", "--minutes", "3", "--seed", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["passed"]
    assert len(found["faults"]) > 2
    assert all(fault["recovered"] is not None for fault in found["faults"])
    assert not any(found["leftovers"].values())
    assert {one["verdict"] for one in found["slopes"]} == {"too short"}
    assert {"driver", "worker", "rank", "raylet", "gcs"} <= {life["role"] for life in found["lives"]}
    assert out.with_suffix(".png").stat().st_size > 10_000


def life_of(own, hours=1.0, threads=lambda hour: 30):
    """A process sampled every 5 seconds; ``own`` gives bytes by hour."""
    at = np.arange(0, hours * 3600, 5.0)
    return Life(7, "worker", [Sample(s, 0, int(own(s / 3600)), 40, int(threads(s / 3600))) for s in at])


def noisy(hourly, seed=0):
    """Memory that grows by so much an hour, beneath noise that is alike for a while, after a load of ten minutes."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(0, 2 * MIB, 500)
    return lambda hour: 300 * MIB * min(1, 0.5 + 3.2 * hour) + hourly * hour + waves[int(hour * 60)]


@pytest.mark.parametrize("seed", range(5))
def test_memory_that_grows_is_told_from_memory_that_does_not(seed):
    """What comes while a process loads does not count: twice the bound, half of it, and nothing."""
    verdicts = [
        soak_verdicts.judge(life_of(noisy(hourly * MIB, seed), hours=2), "own").verdict for hourly in (30, 0, -3)
    ]
    assert verdicts == ["grows", "flat", "flat"]


def test_a_slope_is_that_of_the_line_whatever_single_samples_do():
    seconds = np.arange(0, 3600, 5.0)
    values = 2.0 + 7.0 * seconds / 3600
    values[::50] += 1000
    hourly, low, high = soak_verdicts.slope(seconds, values)
    assert hourly == pytest.approx(7.0, rel=1e-3)
    assert low <= hourly <= high


def test_threads_that_pile_up_grow_and_a_short_life_tells_nothing():
    piling = life_of(lambda _: 300 * MIB, threads=lambda hour: 30 + 20 * hour)
    assert soak_verdicts.judge(piling, "threads").verdict == "grows"
    assert soak_verdicts.judge(piling, "own").verdict == "flat"
    assert soak_verdicts.judge(life_of(noisy(600 * MIB), hours=0.4), "own").verdict == "too short"
    assert soak_verdicts.judge(life_of(noisy(0), hours=0.002), "own") is None


def test_the_longest_life_of_each_role_is_judged():
    lives = [life_of(noisy(0), hours) for hours in (0.2, 1.5, 0.7)]
    assert [one.what for one in soak_verdicts.slopes(lives)] == ["own", "descriptors", "threads"]
    assert all(
        one.hours == pytest.approx(1.5 - soak_verdicts.WARM_UP / 3600, abs=0.01) for one in soak_verdicts.slopes(lives)
    )


def test_a_name_in_shared_memory_that_nobody_holds_is_left_over():
    before = soak_verdicts.left_in_shm(set())
    block = shared_memory.SharedMemory(create=True, size=100)
    name = f"/dev/shm/{block.name.lstrip('/')}"
    try:
        assert name not in soak_verdicts.left_in_shm(set())  # this process holds it
        block.close()
        assert name in soak_verdicts.left_in_shm(set())
        assert name not in soak_verdicts.left_in_shm({name.rpartition("/")[2]})
    finally:
        block.unlink()
    assert name not in before


def test_steps_that_are_missing_or_twice_are_found():
    rows = [{"step": step, "lr": 0.1} for step in (0, 1, 1, 3)] + [{"step": 2, "eval/reward": 1.0}]
    assert soak_verdicts.wrong_steps(rows) == {1: 2, 2: 0}
    assert soak_verdicts.wrong_steps(rows[:2]) == {}


def test_steps_are_counted_as_they_are_made_also_when_made_again(tmp_path):
    """A resume puts a shorter file in the place of the old one; a line that is half written waits."""
    file = tmp_path / "metrics.jsonl"
    steps = Steps(file)
    steps.poll()
    file.write_text('{"step": 0, "eval/reward": 1}\n{"step": 0, "lr": 1}\n{"step": 1, "lr": 1}\n{"step"')
    steps.poll()
    assert steps.made == 2
    with file.open("a") as more:
        more.write(': 2, "lr": 1}\n')
    steps.poll()
    steps.poll()
    assert steps.made == 3
    other = tmp_path / "other"
    other.write_text('{"step": 0, "lr": 1}\n')
    other.replace(file)
    steps.poll()
    assert steps.made == 3
    with file.open("a") as more:
        more.write('{"step": 1, "lr": 1}\n')
    steps.poll()
    assert steps.made == 4


def test_every_process_under_this_one_is_seen_with_what_it_holds(tmp_path):
    (tmp_path / ".metrics.jsonl.7.unfinished").touch()
    (tmp_path / ".partial-000003").mkdir()
    code = "import os; f = open('/dev/shm/soak-test', 'wb'); os.unlink(f.name); f.write(bytes(1 << 20)); f.flush()"
    code = f"own = b'x' * (64 << 20); {code}; input()"
    watch = Watch(tmp_path)
    watch.sample()
    with subprocess.Popen([sys.executable, "-c", code, "-m grpo_agents"], stdin=subprocess.PIPE) as child:
        assert eventually(lambda: watch.sample() or watch.moments[-1].shm - watch.moments[0].shm == 1 << 20)
        assert child.pid in [process.pid for process, _ in processes()]
        (life,) = [life for (pid, _), life in watch.lives.items() if pid == child.pid]
        assert life.role == "driver"
        assert 64 * MIB < life.samples[-1].own < 96 * MIB  # not the library's pages, nor those in /dev/shm
        assert life.samples[-1].descriptors >= 4
        child.communicate()
    assert child.pid not in [process.pid for process, _ in processes()]
    assert watch.moments[-1].temporary == len(temporary(tmp_path)) == 2


def test_roles_and_rounds():
    commands = {"ray::WorkerActor.play": "worker", "ray::RankActor": "rank", "ray::IDLE": "idle worker of Ray"}
    commands |= {"/usr/bin/python -m grpo_agents train x.toml": "driver", "/lib/ray/raylet/raylet --x": "raylet"}
    assert {command: role_of(command) for command in commands} == commands
    drawn = rounds(np.random.default_rng(3))
    first, *others = ([next(drawn) for _ in KINDS] for _ in range(5))
    assert first == list(KINDS)
    assert [sorted(one) for one in others] == [sorted(KINDS)] * 4
    assert len({tuple(one) for one in others}) == 4
