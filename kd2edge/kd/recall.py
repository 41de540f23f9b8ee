"""The teacher's embeddings, kept on disk by epoch and step: runs that show it the same images need not ask it again.

Which images a step shows depends on the seed, the stage's name, the batch and the augmentation, and on nothing a method
chooses; so KD, TH-KD and every trial of a search over their weights share one teacher's forward passes. What is kept is
the very tensor, in its own dtype: a run that recalls is bit for bit the run that asks.
"""

from pathlib import Path

import torch
from torch import Tensor

from kd2edge.kd import checkpoint


class Recall:
    """One teacher's embeddings over one stream of batches: a file `epoch-N.safetensors` for each whole epoch."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self._epoch = -1
        self._known: Tensor | None = None
        self._fresh: dict[int, Tensor] = {}

    def embedding(self, epoch: int, step: int) -> Tensor | None:
        """[N, d], or None where no earlier run kept it."""
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
            checkpoint.write({"embeddings": whole}, self._file(self._epoch))
            self._fresh = {}

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"
