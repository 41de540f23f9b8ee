"""Two and more real processes over gloo, each of which runs a function as torchrun's would, and a split to train on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from kd2edge.data import InMemory
from kd2edge.kd import distill, weights
from kd2edge.kd.net import Net
from kd2edge.kd.ranks import Ranks, join
from kd2edge.schema import Preprocessing

Work = Callable[[Ranks, Path], Any]
HOW = Preprocessing(
    size=(8, 8), channels=3, color="RGB", mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), decoder="pillow/box"
)

WITHOUT_BATCH_NORM = '''"""A net that sees each image alone."""

from torch import Tensor, nn

from kd2edge.kd.net import Backbone, Shape


class Alone(Backbone):
    stride = 2

    def __init__(self, config: Backbone.Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.width = 6
        self.layers = nn.Sequential(nn.Conv2d(shape.channels, 6, 3, 2, 1), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
'''


def split(count: int = 48, classes: int = 11, seed: int = 0) -> InMemory:
    """Noise of 8 x 8 pixels, brighter by the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    noise = generator.integers(0, 128, (count, 8, 8, 3)) + 11 * labels[:, None, None, None]
    return InMemory(noise.astype(np.uint8), labels, {}, [f"class {number}" for number in range(classes)])


@contextmanager
def without_onnx() -> Iterator[None]:
    """Runs get weights alone, since to export takes longer than to train: where nothing else is compared."""

    def finish(work: distill.Work, role: str, trained: Net, **details: Any) -> None:
        if join().first:
            weights.write(trained, work.run.path / f"{role}.safetensors")

    with patch.object(distill.Work, "_finish", finish):
        yield


def on_ranks(count: int, work: Work, folder: Path) -> list[Any]:
    """What a function gives on each of so many ranks; what it raises there, it raises here."""
    folder.mkdir(exist_ok=True)
    spawn(_on_a_rank, (count, work, folder), nprocs=count)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(count)]


def _on_a_rank(number: int, count: int, work: Work, folder: Path) -> None:
    torch.set_num_threads(1)
    told = {"WORLD_SIZE": count, "RANK": number, "LOCAL_RANK": number, "MASTER_ADDR": "", "MASTER_PORT": ""}
    os.environ |= {name: str(value) for name, value in told.items()}
    dist.init_process_group("gloo", f"file://{folder}/meet", timedelta(minutes=2), rank=number, world_size=count)
    torch.save(work(Ranks(number, count), folder), folder / f"{number}.pt")
    dist.barrier()
    dist.destroy_process_group()
