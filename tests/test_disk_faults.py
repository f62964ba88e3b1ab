"""Disks that are full, read-only, slow or wrong, and clocks that jump: nothing is lost, and one line says what is."""

import os
import re
import shutil

import pytest
from forked import forking_server

from grpo_agents.config import save_config
from runs import grpo, left_behind


@pytest.fixture(scope="module")
def forks():
    with forking_server() as server:
        yield server


@pytest.fixture
def run(unbroken, tmp_path):
    """A run that has ended after two of its four steps."""
    folder = shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    shutil.rmtree(folder / "model")
    return folder


def resume(forks, run, before=""):
    return forks.run(run.parent, "train", "--resume", "run", before=before)


def message(said):
    """The last line, which is the only one about what went wrong."""
    assert "Traceback" not in said, said
    assert said.count("not written") == 1, said
    return said.splitlines()[-1]


PLACES = {
    "checkpoint": (".partial-000004", r"run/checkpoints: checkpoint of step 4 not written"),
    "trajectories": (".train-000003", r"run/trajectories/train-000003\.parquet: trajectories not written"),
    "evaluation": (".eval-000004", r"run/trajectories/eval-000004\.parquet: trajectories not written"),
    "figures": ("run/metrics.jsonl", r"run/metrics\.jsonl: not written"),
    "TensorBoard": ("tfevents", r"run/tensorboard/events\S*: not written"),
    "the policy": ("run/model", r"run/model: not written"),
}


@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=[pytest.mark.slow] * (place != "checkpoint")) for place in PLACES],
)
def test_a_full_disk_stops_the_run_with_one_line_and_it_goes_on_when_there_is_room(forks, run, unbroken, place):
    """As the kernel says it; what was there before is there still."""
    part, named = PLACES[place]
    code, said = resume(forks, run, f"import faults; faults.full_disk({part!r})")
    line = message(said)
    assert code == 2
    assert re.match(
        rf"{named} \(File too large\).*The checkpoints before it stand: make room.*`grpo-agents train --resume run`$",
        line,
    )
    assert (run / "checkpoints" / "step-000002" / "manifest.json").exists()
    code, said = resume(forks, run)
    assert code == 0, said
    assert left_behind(run) == left_behind(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curves.png", "report.html"])
def test_a_full_disk_after_the_run_costs_no_more_than_the_picture(forks, run, unbroken, name):
    for file in ("curves.png", "report.html"):
        (run / file).unlink(missing_ok=True)
    fault = f"import faults; faults.full_disk({name!r})"
    command = ("train", "--resume", "run") if name == "curves.png" else ("report", "run")
    code, said = forks.run(run.parent, *command, before=fault)
    assert code == 2
    assert re.match(rf"run/{name}: not written \(File too large\)", message(said))
    assert resume(forks, run)[0] == 0
    assert forks.run(run.parent, "report", "run")[0] == 0
    assert left_behind(run) == left_behind(unbroken)


@pytest.mark.slow
def test_a_run_that_cannot_begin_leaves_nothing_that_is_taken_for_one(forks, warm, unbroken, tmp_path):
    save_config(grpo(tmp_path / "run", warm), tmp_path / "wanted.toml")
    begin = (tmp_path, "train", "wanted.toml")
    code, said = forks.run(*begin, before="import faults; faults.full_disk('.config.toml')")
    assert code == 2
    assert re.match(r"\S*run/config\.toml: not written \(File too large\)", message(said))
    (tmp_path / "run" / "trajectories").rmdir()
    (tmp_path / "run").rmdir()  # there is nothing else in it
    code, said = forks.run(*begin, before=f"import faults; faults.read_only('run', {str(tmp_path)!r})")
    assert code == 2
    assert re.match(r"\S*run: not written \(Permission denied\)", message(said))
    os.chmod(tmp_path, 0o755)
    assert forks.run(*begin)[0] == 0
    assert left_behind(tmp_path / "run") == left_behind(unbroken)


@pytest.mark.parametrize(
    ("part", "named"),
    [pytest.param(".train-000003", "train-000003", marks=pytest.mark.slow), (".partial-000004", "checkpoints")],
)
def test_folders_that_become_read_only_in_the_middle(forks, run, unbroken, part, named):
    folders = [str(run / name) for name in ("trajectories", "checkpoints")]
    code, said = resume(forks, run, f"import faults; faults.read_only({part!r}, *{folders!r})")
    for folder in folders:
        os.chmod(folder, 0o755)
    assert code == 2
    assert re.search(rf"{named}.*not written \(Permission denied\).*train --resume run`$", message(said))
    assert resume(forks, run)[0] == 0
    assert left_behind(run) == left_behind(unbroken)


SMALL_DISK = """
import pathlib, shutil
from faults import in_a_child, resize, small_disk
from grpo_agents.cli import main
try:
    small_disk("disk", SIZE)
except PermissionError as error:
    raise SystemExit(f"no disk: {error}")
shutil.copytree("run", "disk/run")
print(in_a_child(main))
resize("disk", 1 << 28)
print(in_a_child(main))
shutil.copytree("disk/run", "ended")
"""


def test_a_small_disk_of_its_own_becomes_full(forks, run, unbroken, tmp_path):
    """With what a kernel says of a disk that is full, ENOSPC, at whatever comes to be written then."""
    (tmp_path / "disk").mkdir()
    # a tmpfs counts pages; the next checkpoint finds room for about half of it
    pages = sum(-(-file.stat().st_size // 4096) + 1 for file in run.rglob("*"))
    half = sum(file.stat().st_size for file in (run / "checkpoints" / "step-000002").rglob("*")) // 2
    code = SMALL_DISK.replace("SIZE", str(4096 * pages + half))
    ended, said = forks.run(tmp_path, "train", "--resume", "disk/run", then=code)
    if ended != 0 and "no disk:" in said:
        pytest.skip(said.strip())
    assert ended == 0, said
    _, line, last = re.search(r"^(.*?)^(\S+: [^\n]*not written[^\n]*)\n2$(.*)", said, re.S | re.M).groups()
    assert "Traceback" not in said
    assert re.search(r"\(No space left on device\).*go on with `grpo-agents train --resume disk/run`", line)
    assert last.rstrip().endswith("\n0")
    assert left_behind(tmp_path / "ended") == left_behind(unbroken)


def test_every_file_of_a_checkpoint_is_watched_over(forks, unbroken, tmp_path):
    """One flipped byte, wherever it is: the file is named, and the checkpoint before is taken."""
    from grpo_agents import checkpoint

    whole = unbroken / "checkpoints"
    root = shutil.copytree(whole, tmp_path / "checkpoints")
    files = sorted(file for file in (root / "step-000004").rglob("*") if file.is_file())
    assert len(files) > 5
    for file in files:
        before = file.read_bytes()
        place = len(before) // 2
        file.write_bytes(before[:place] + bytes([before[place] ^ 0x10]) + before[place + 1 :])
        said = []
        assert checkpoint.latest(root, said.append).step == 2
        assert f"step-000004 is damaged ({file.relative_to(root / 'step-000004')}" in " ".join(said)
        file.write_bytes(before)
    assert checkpoint.latest(root, said.append).step == 4


@pytest.mark.parametrize(
    "fault", ["jumping_clock", *(pytest.param(name, marks=pytest.mark.slow) for name in ("slow_disk", "slow_tools"))]
)
def test_a_clock_that_jumps_a_slow_disk_and_slow_tools_change_nothing(forks, warm, unbroken, tmp_path, fault):
    save_config(grpo(tmp_path / "run", warm), tmp_path / "wanted.toml")
    code, said = forks.run(tmp_path, "train", "wanted.toml", before=f"import faults; faults.{fault}()")
    assert code == 0, said
    assert left_behind(tmp_path / "run") == left_behind(unbroken)
