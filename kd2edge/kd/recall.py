"""The teacher's embeddings, kept on disk: whoever shows it the same images need not ask it again.

Which images a step shows depends on the seed, the stage's name, the batch and the augmentation, and on nothing a method
chooses; so KD, TH-KD and every trial of a search over their weights share one teacher's forward passes. What is kept is
the very tensor, in its own dtype: a run that recalls is bit for bit the run that asks.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from kd2edge import schema
from kd2edge.data import Ints, Split
from kd2edge.errors import UserError
from kd2edge.files import write_atomic
from kd2edge.kd import checkpoint, compiled, devices
from kd2edge.kd.augment import Preparation
from kd2edge.kd.net import Net
from kd2edge.kd.quick_teacher import Trunk
from kd2edge.kd.store import Store, digest
from kd2edge.kd.way import Way

KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # as safetensors names them


class Recall:
    """One teacher's embeddings over one stream of batches: a file `epoch-N.safetensors` for each whole epoch."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self._epoch = -1
        self._known: Tensor | None = None
        self._fresh: dict[int, Tensor] = {}

    def embedding(self, epoch: int, step: int, index: Ints) -> Tensor | None:
        """[N, d], or None where no earlier run kept it; `index` [N] are the images' positions in the split."""
        if epoch != self._epoch:
            path = self._file(epoch)
            self._known = checkpoint.read(path)["embeddings"] if path.exists() else None
            self._epoch, self._fresh = epoch, {}
        return None if self._known is None else self._known[step].clone()  # aligned, as fresh results are

    def keep(self, step: int, embedding: Tensor) -> None:
        """Take the embedding of a step of the epoch last asked for; the epoch is written when all its steps are in."""
        self._fresh[step] = embedding.detach().cpu()
        if len(self._fresh) == self.steps:
            whole = torch.stack([self._fresh[step] for step in range(self.steps)])
            with Store(self.folder).claim(f"epoch-{self._epoch}", lambda: None):
                checkpoint.write({"embeddings": whole}, self._file(self._epoch))
            self._fresh = {}

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"


class Whole(Recall):
    """One teacher's embeddings of a whole split that nothing augments: a file `<key>.safetensors`, read by index.

    The key is made of the teacher, the split, and how a step computes: of `part` images at a time, on its device, in
    its precision. Nothing but rows that are asked for is ever in memory.
    """

    def __init__(self, folder: Path, teacher: Net, data: Split, how: schema.Preprocessing, way: Way, part: int) -> None:
        super().__init__(folder, 0)
        self.teacher, self.data, self.how, self.way, self.part = teacher, data, how, way, part
        self.key = digest(teacher, data, how.model_dump(mode="json"), way.facts(), part)
        self.file = folder / f"{self.key}.safetensors"
        self._rows: Any = None
        self._kind = torch.float32

    def fill(self, say: Callable[[str], None]) -> None:
        """Ask the teacher, as it is now, once for all images, unless that was done; another run's asking is waited for.

        Raises `UserError` for a full disk, and for a file that is damaged.
        """
        with Store(self.folder).claim(self.key, lambda: say("another run is asking the teacher; waiting")):
            if not self.file.exists():
                say(f"the teacher is asked once for all {len(self.data):,} images, which nothing augments")
                write_atomic(self.file, lambda file: _write(file, self._asked(), len(self.data)))
        self._rows, self._kind = _mapped(self.file)

    def embedding(self, epoch: int, step: int, index: Ints) -> Tensor:
        """[N, d] of the images at these positions."""
        return torch.from_numpy(np.array(self._rows[index])).view(self._kind).clone()

    def keep(self, step: int, embedding: Tensor) -> None:
        raise AssertionError("the teacher was asked for what is known")

    @torch.no_grad()
    def _asked(self) -> Iterator[Tensor]:
        """[part, d] after [part, d], in the split's order; the last part is filled up with the first images."""
        device, prepare = self.way.device, Preparation(schema.Augment(), self.how, self.way.device)
        ask = Trunk(self.teacher.backbone, self.teacher.neck).eval()
        for start in range(0, len(self.data), self.part):
            index = np.arange(start, start + self.part) % len(self.data)
            compiled.begin_step(self.way.mode)
            with devices.autocast(device, self.way.precision):
                _, embedding = ask(prepare(torch.from_numpy(self.data.read(index)).to(device)))
            yield embedding.cpu()


def _write(file: BinaryIO, parts: Iterator[Tensor], count: int) -> None:
    """A safetensors file of the tensor `embeddings` [count, d], part by part; what the last has beyond is left out."""
    left = count
    for part in parts:
        if left == count:
            size = count * part.shape[1] * part.element_size()
            tensor = {"dtype": KINDS[part.dtype], "shape": [count, part.shape[1]], "data_offsets": [0, size]}
            header = json.dumps({"embeddings": tensor}).encode()
            header += b" " * (-len(header) % 8)
            file.write(len(header).to_bytes(8, "little") + header)
        file.write(part[:left].contiguous().view(torch.uint8).numpy().tobytes())
        left -= min(left, len(part))


def _mapped(path: Path) -> tuple[Any, torch.dtype]:
    """The rows of what `_write` wrote, as bytes on the disk, and their type."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            tensor = json.loads(file.read(length))["embeddings"]
        kind = {name: kind for kind, name in KINDS.items()}[tensor["dtype"]]
        count, width = tensor["shape"]
        return np.memmap(path, np.uint8, "r", 8 + length, (count, width * kind.itemsize)), kind
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"The teacher's embeddings in {path} are damaged.", "delete the file and resume") from error
