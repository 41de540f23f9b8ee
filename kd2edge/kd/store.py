"""Finished stages and kept embeddings, found by what went into them, for all runs of one folder.

A stage's key hashes everything its result depends on: the learner before it starts, the frozen nets, the loss in words,
the schedule, the seed, the data, the versions, and the code. So a name may change and a stage is still found, and a
setting may not.
"""

import fcntl
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd2edge import __version__
from kd2edge.data import Split
from kd2edge.files import disk_fault, write_atomic
from kd2edge.kd import checkpoint


def digest(*parts: Any) -> str:
    """sha256 of modules, splits, and anything JSON can hold, in order."""
    total = hashlib.sha256(json.dumps([__version__, torch.__version__]).encode())
    for part in parts:
        if isinstance(part, nn.Module):
            total.update(repr(part).encode())  # what is no tensor: a head's margin, an activation
            total.update(_plugged_in(part))
            for name, tensor in part.state_dict().items():
                total.update(name.encode() + _bytes(tensor))
        elif isinstance(part, Split):
            total.update(part.fingerprint().encode())
        else:
            total.update(json.dumps(part, sort_keys=True).encode())
    return total.hexdigest()


@functools.cache
def code() -> str:
    """sha256 of the Python files that read data and train: what they compute may change within one version."""
    package, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for folder in ("data", "kd") for path in (package / folder).rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(package).as_posix()} {len(content)} ".encode() + content)
    return total.hexdigest()


def _plugged_in(module: nn.Module) -> bytes:
    """sha256s of the files that a module's classes are written in, without torch's and this package's own."""
    names = {kind.__module__ for inner in module.modules() for kind in type(inner).__mro__}
    others = {name for name in names if name.partition(".")[0] not in ("torch", "kd2edge", "builtins")}
    files = {getattr(sys.modules.get(name), "__file__", None) or "" for name in others}
    return b"".join(sorted(hashlib.sha256(Path(f).read_bytes()).digest() for f in files if Path(f).is_file()))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class Store:
    """A folder of finished stages by key: `<key>.safetensors`, and beside it the log of its training."""

    def __init__(self, folder: Path) -> None:
        """Raises `UserError` where the folder cannot be made."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_fault(error, folder) from error

    def weights(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def put(self, key: str, learner: nn.Module, log: list[dict[str, Any]]) -> None:
        """Keep a finished stage; the weights are written last, so that what is found is whole."""
        write_atomic(self._log(key), json.dumps(log).encode())
        checkpoint.write({"learner": learner.state_dict()}, self.weights(key))

    def load(self, key: str, learner: nn.Module) -> None:
        """Take over a finished stage that is kept."""
        learner.load_state_dict(checkpoint.read(self.weights(key))["learner"])

    def lines(self, key: str) -> list[dict[str, Any]]:
        """The log of a stage that is kept, a mapping an epoch."""
        lines: list[dict[str, Any]] = json.loads(self._log(key).read_bytes())
        return lines

    def _log(self, key: str) -> Path:
        return self.folder / f"{key}.log.json"

    @contextmanager
    def claim(self, key: str, wait: Callable[[], None]) -> Iterator[None]:
        """Hold a key while training for it; whoever else wants it waits, and finds it done. `wait` is told."""
        with (self.folder / f".{key}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            for left in self.folder.glob(f".{key}.*.part"):
                left.unlink()  # by a write that a kill cut short
            yield
