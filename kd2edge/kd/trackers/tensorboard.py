"""TensorBoard's event files under `tensorboard/<stage>`, written at once and by the caller, not by a thread.

torch's `SummaryWriter` writes the same records from a thread of its own, which tells of a full disk by a traceback of
that thread; hence its two parts are used here directly: the protocol buffers and the framing of records.
"""

import importlib.util
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from kd2edge.errors import MissingExtra

FORMAT = "brain.Event:2"  # from which on a session's start takes back what was told of its step and later ones


class Told:
    """One event file for each stage and process; readers take them in the order of their names."""

    def __init__(self, folder: Path, run_name: str, parameters: Mapping[str, object]) -> None:
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._records: Any = import_module("tensorboard.summary.writer.record_writer")
        self._folder = folder / "tensorboard"
        self._files: dict[str, IO[bytes]] = {}

    def rewind(self, stage: str, step: int) -> None:
        event = self._event(step + 1)
        event.session_log.status = self._events.SessionLog.START
        self._write(stage, event)

    def tell(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """In float32, as TensorBoard has it."""
        event = self._event(step)
        for name, value in figures.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._write(stage, event)

    def close(self, finished: bool = True) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            file.close()

    def _event(self, step: int = 0, **content: Any) -> Any:
        return self._events.Event(wall_time=time.time(), step=step, **content)

    def _write(self, stage: str, event: Any) -> None:
        opening = [] if stage in self._files else [self._event(file_version=FORMAT)]
        if opening:
            self._files[stage] = _next_file(self._folder / stage)
        writer = self._records.RecordWriter(self._files[stage])  # a write for each record, which nothing holds back
        for each in (*opening, event):
            writer.write(each.SerializeToString())


def require() -> None:
    """Raise `MissingExtra` where TensorBoard's package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "train", "track: [tensorboard]")


def _next_file(folder: Path) -> IO[bytes]:
    """A file whose name sorts behind those that are there, whatever the clock says."""
    folder.mkdir(parents=True, exist_ok=True)
    stamps = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*.kd2edge")]
    stamp = max([int(time.time()), *(stamp + 1 for stamp in stamps)])
    return (folder / f"events.out.tfevents.{stamp:010d}.kd2edge").open("xb", buffering=0)
