"""Figures for TensorBoard.

PyTorch's own writer leaves the disk to a thread, in which a full one ends as a traceback that names no file. This one
writes where it is called, and a figure is on its way to the disk when the call returns.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]  # made at run time
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from grpo_agents.writing import naming


class SummaryWriter:
    """Writes one file of events.

    Args:
        folder: Where it goes.
        purge_step: Figures of this step and of later ones that other files of the folder hold are not to be shown.

    Raises:
        NotWritten: The disk is full, the folder is read-only …
    """

    def __init__(self, folder: str | Path, purge_step: int):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path = Path(folder) / name
        with naming(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Writes one figure.

        Raises:
            NotWritten: The disk is full …
        """
        self._write(step=step, summary=scalar(name, value))

    def _write(self, **event: Any) -> None:
        with naming(self._path):
            self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
