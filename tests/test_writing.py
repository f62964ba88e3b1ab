import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from grpo_agents.writing import NotWritten, naming, write_whole


def test_a_file_is_there_as_a_whole(tmp_path):
    write_whole(tmp_path / "new" / "a.txt", "größer")
    write_whole(tmp_path / "new" / "a.txt", b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"\x00\xff"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_was_there_before_stays_where_the_new_one_cannot_be_written(tmp_path, monkeypatch, call):
    file = tmp_path / "a.txt"
    file.write_text("before")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync" if call == "fsync" else "pathlib.Path.replace", full)
    with pytest.raises(NotWritten) as caught:
        write_whole(file, "after")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert caught.value.strerror == "not written (No space left on device)"
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["before"]


def test_what_says_already_what_it_is_about_passes():
    inner = NotWritten(errno.ENOSPC, "a checkpoint not written", "inner")
    with pytest.raises(NotWritten) as caught, naming("outer"):
        raise inner
    assert caught.value is inner


def test_errors_of_other_kinds_pass():
    with pytest.raises(KeyError), naming("outer"):
        raise KeyError("a bug")


def test_the_error_of_safetensors_has_its_number(tmp_path):
    """It is no OSError, and says the kernel's number in its text."""
    with pytest.raises(NotWritten, match=r"not written \(No such file or directory\)") as caught, naming("outer"):
        save_file({"a": torch.zeros(3)}, tmp_path / "nowhere" / "a.safetensors")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "outer")
