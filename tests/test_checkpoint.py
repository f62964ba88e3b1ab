import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo_agents import checkpoint
from grpo_agents.checkpoint import MANIFEST


def fill_with(value):
    def fill(folder):
        (folder / "model").mkdir()
        save_file({"weight": torch.full((40,), float(value))}, folder / "model" / "weights.safetensors")
        (folder / "note.txt").write_text(f"step {value}", encoding="utf-8")

    return fill


def write(root, *steps, keep=9):
    for step in steps:
        checkpoint.write(root, step, {"updates": 2 * step, "skips": 0}, fill_with(step), keep)


def found(root):
    said = []
    latest = checkpoint.latest(root, said.append)
    return latest and latest.step, said


@pytest.fixture
def root(tmp_path):
    return tmp_path / "checkpoints"


def test_what_is_written_is_found(root):
    write(root, 1, 2, 10)
    latest = checkpoint.latest(root, pytest.fail)
    assert (latest.step, latest.state, latest.folder) == (10, {"updates": 20, "skips": 0}, root / "step-000010")
    assert load_file(latest.folder / "model" / "weights.safetensors")["weight"].unique().tolist() == [10.0]
    names = json.loads((latest.folder / MANIFEST).read_text())["sha256"]
    assert set(names) == {"model/weights.safetensors", "note.txt"}


def test_none_there(root):
    assert found(root) == (None, [])


def test_only_the_newest_are_kept(root):
    write(root, 1, 2, 3, 4, keep=2)
    assert sorted(entry.name for entry in root.iterdir()) == ["step-000003", "step-000004"]


def test_the_same_step_again_replaces_it(root):
    write(root, 1, 2)
    checkpoint.write(root, 2, {"updates": 7}, fill_with(5), 9)
    assert checkpoint.latest(root, pytest.fail).state == {"updates": 7}


def test_a_half_written_checkpoint_is_ignored_and_cleared_away(root):
    write(root, 1)
    (root / ".partial-000002").mkdir()
    (root / ".partial-000002" / "half.safetensors").write_bytes(b"x" * 100)
    assert found(root) == (1, [])
    write(root, 3)
    assert sorted(entry.name for entry in root.iterdir()) == ["step-000001", "step-000003"]


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["model/weights.safetensors", "note.txt", MANIFEST])
def test_a_flipped_bit_is_seen_wherever_it_is(root, name):
    write(root, 1, 2, 3)
    file = root / "step-000003" / name
    for place in range(0, file.stat().st_size, max(1, file.stat().st_size // 40)):
        flip(file, place)
        step, said = found(root)
        assert step == 2, place
        (line,) = said
        assert "step-000003 is damaged" in line
        assert name in line
        flip(file, place)
    assert found(root) == (3, [])


def test_every_bit_of_the_step_number_counts(root):
    """A damaged manifest that still reads: the step says another number."""
    write(root, 1, 3)
    file = root / "step-000003" / MANIFEST
    file.write_text(file.read_text().replace('"updates": 6', '"updates": 2'))
    step, (line,) = found(root)
    assert step == 1
    assert MANIFEST in line


@pytest.mark.parametrize("name", ["model/weights.safetensors", "note.txt", MANIFEST])
def test_a_file_that_is_cut_off_or_gone(root, name):
    write(root, 1, 2, 3)
    for folder, harm in (("step-000003", lambda file: file.write_bytes(file.read_bytes()[:-5])),
                         ("step-000002", lambda file: file.unlink())):  # fmt: skip
        harm(root / folder / name)
    step, said = found(root)
    assert step == 1
    assert [name in line for line in said] == [True, True]
    shutil.rmtree(root / "step-000001")
    assert found(root)[0] is None


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fill", "fsync", "manifest"])
def test_a_full_disk_leaves_the_earlier_ones(root, monkeypatch, where):
    write(root, 1, 2, keep=2)

    def fill(folder):
        fill_with(3)(folder)
        if where == "fill":
            full()

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    if where == "manifest":
        monkeypatch.setattr("pathlib.Path.write_text", full)
        fill = lambda folder: (folder / "a").write_bytes(b"a")  # noqa: E731
    with pytest.raises(OSError, match=r"checkpoint of step 3 not written .*No space left") as caught:
        checkpoint.write(root, 3, {}, fill, 2)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert str(root) in str(caught.value)
    assert sorted(entry.name for entry in root.iterdir()) == ["step-000001", "step-000002"]
    assert found(root) == (2, [])


def test_a_full_disk_as_safetensors_says_it(root):
    """Its error is no OSError; a limit on the size of files stands in for the disk."""
    resource = pytest.importorskip("resource")
    import signal

    write(root, 1)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=r"checkpoint of step 2 not written .*File too large"):
            checkpoint.write(
                root, 2, {}, lambda folder: save_file({"a": torch.zeros(9999)}, folder / "a.safetensors"), 2
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [entry.name for entry in root.iterdir()] == ["step-000001"]


def test_other_errors_pass_as_they_are(root):
    def fill(folder):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        checkpoint.write(root, 1, {}, fill, 2)
    assert list(root.iterdir()) == []
