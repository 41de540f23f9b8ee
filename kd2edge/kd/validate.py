"""What would ship, judged on the validation split after an epoch: the same figures whatever the number of ranks.

Images are cut into chunks at places that do not depend on the ranks, chunks are dealt to them in turn, and rank 0 puts
the outputs together in order and takes its metrics of them, as one process would. In evaluation mode, in float32.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from kd2edge.data import Split
from kd2edge.errors import UserError
from kd2edge.kd.augment import Preparation
from kd2edge.kd.feed import Feed
from kd2edge.kd.method import Method, Stage
from kd2edge.kd.net import Net
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.spans import NONE, Spans
from kd2edge.kd.tasks import Task
from kd2edge.metrics import topk, verify
from kd2edge.schema import Augment, Preprocessing

CHUNK = 128  # images
FAR = 1e-3
Floats = npt.NDArray[np.float32]


class Validator:
    """Judges what a method would ship on a split, after every so many epochs.

    Figures are in %, and named as in a bench: `val_top1` and, of ten classes and more, `val_top5`; of embeddings
    `val_tar@1e-3` and `val_eer`, over all pairs. A TAR for which there are too few impostors is left out. `spans` are
    the training's, in which it has one of its own.
    """

    def __init__(
        self,
        method: Method,
        data: Split,
        how: Preprocessing,
        every: int,
        ranks: Ranks,
        say: Callable[[str], None],
        spans: Spans = NONE,
    ) -> None:
        self.method, self.data, self.how, self.every, self.ranks, self.say = method, data, how, every, ranks, say
        self.spans = spans
        self._feed: tuple[torch.device, Feed] | None = None

    def __call__(self, stage: Stage, epoch: int) -> dict[str, float]:
        """Rank 0's figures after `epoch` epochs, the first being 1, though all ranks must ask; nothing for others.

        Nothing either in an epoch that is not judged, and of a stage that trains nothing of what ships.
        """
        net = self.method.deployable()
        if epoch % self.every or not trains(stage, net):
            return {}
        with self.spans.of("validation"):
            outputs = self._outputs(net)
            if outputs is None:
                return {}
            try:
                return {f"val_{name}": 100 * share for name, share in figures(self.method.task, outputs, self.data)}
            except UserError as error:  # as of a net that, early on, gives an image no embedding at all
                self.say(f"not judged on the validation split after epoch {epoch}: {error.message}")
                return {}

    def named(self, stage: Stage) -> Stage:
        """A stage that another run's takes the place of only if it was judged as this one, so that its log tells so."""
        if stage.minimises is None:
            return stage
        return replace(stage, minimises=f"{stage.minimises}; judged every {self.every} on {self.data.fingerprint()}")

    @torch.no_grad()
    def _outputs(self, net: Net) -> Floats | None:
        """What would ship gives float32 [N, D] of all images, on rank 0."""
        chunks = [np.arange(at, min(at + CHUNK, len(self.data))) for at in range(0, len(self.data), CHUNK)]
        device = next(net.parameters()).device
        if self._feed is None or self._feed[0] != device:
            self._feed = device, Feed(self.data, device)
        ready, only = Preparation(Augment(), self.how, device), self.method.task.output
        with judged(net, self.ranks), torch.compiler.set_stance("force_eager"):
            mine = self._feed[1].batches(chunks[self.ranks.number :: self.ranks.count])
            found = [_shipped(net, only, ready(images)).float().cpu() for images, _ in mine]
        return together(found, [len(chunk) for chunk in chunks], self.ranks)


def figures(task: Task, outputs: Floats, data: Split) -> Iterator[tuple[str, float]]:
    """The metrics of a task by name, as shares. Raises `UserError` for outputs that have none."""
    if task.output == "logits":
        shares = topk(outputs, data.labels, (1, 5) if len(data.classes) >= 10 else (1,))
        yield from ((f"top{k}", share) for k, share in shares.items())
        return
    found = verify(outputs, data.labels, (FAR,))
    if not math.isnan(found.tar[FAR]):
        yield "tar@1e-3", found.tar[FAR]
    yield "eer", found.eer


def trains(stage: Stage, net: Net) -> bool:
    """Whether a stage trains anything of a net."""
    inside = {id(parameter) for parameter in net.parameters()}
    return any(parameter.requires_grad and id(parameter) in inside for parameter in stage.learner.parameters())


@contextmanager
def judged(net: Net, ranks: Ranks) -> Iterator[None]:
    """A net as it would ship: in evaluation mode, with rank 0's running statistics; then as it was."""
    modes = [(module, module.training) for module in net.modules()]
    own = [(buffer, buffer.clone()) for buffer in net.buffers()] if ranks.count > 1 else []
    for buffer, _ in own:
        dist.broadcast(buffer, 0)
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, kept in own:
            buffer.copy_(kept)


def together(found: Sequence[Tensor], sizes: Sequence[int], ranks: Ranks) -> Floats | None:
    """The rows of all chunks [N, D] in order, on rank 0; `found` are those of every `ranks.count`-th, this rank's."""
    if ranks.count == 1:
        return np.asarray(torch.cat(list(found)).numpy(), np.float32)
    width = torch.tensor(found[0].shape[1] if found else 0)
    dist.broadcast(width, 0)  # which has the first chunk
    most = max(sum(sizes[number :: ranks.count]) for number in range(ranks.count))
    rows = torch.zeros(most, int(width))
    if found:
        rows[: sum(map(len, found))] = torch.cat(list(found))
    gathered = [torch.empty_like(rows) for _ in range(ranks.count)] if ranks.first else None
    dist.gather(rows, gathered, 0)
    if gathered is None:
        return None
    lengths = [list(sizes[number :: ranks.count]) for number in range(ranks.count)]
    parts = [iter(torch.split(rows[: sum(each)], each)) for rows, each in zip(gathered, lengths, strict=True)]
    return np.concatenate([next(parts[place % ranks.count]).numpy() for place in range(len(sizes))])


def _shipped(net: Net, output: str, images: Tensor) -> Tensor:
    """One tensor [N, D] of a net; for an embedding its classifier is not asked."""
    if output == "logits":
        logits: Tensor = net(images).logits
        return logits
    features = net.backbone(images)
    embedding: Tensor = net.neck(features[1] if isinstance(features, tuple) else features)
    return embedding


def required(data: Split, train: Split, task: Task) -> Split:
    """A split that can be judged. Raises `UserError` where it has no images, pairs or classes as in training."""
    if task.output == "logits" and list(data.classes) != list(train.classes):
        raise UserError(
            "The validation split has other classes than the training split.",
            "leave `validation` out, or give both splits the same classes",
        )
    counts = np.bincount(data.labels) if len(data) else np.zeros(0)
    if not len(data) or (task.output == "embedding" and (counts.max() < 2 or np.count_nonzero(counts) < 2)):
        raise UserError("The validation split has too few images to be judged.", "leave `validation` out")
    return data
