"""The two tasks: what the supervised loss is, and which tensor ships."""

from typing import Literal

from torch import Tensor

from kd2edge.kd.net import Net, Out
from kd2edge.kd.partial import sampled
from kd2edge.schema import TaskName


class Task:
    """Classification ships logits, verification ships the (unnormalised) embedding; both learn by cross-entropy."""

    def __init__(self, name: TaskName) -> None:
        self.name = name
        self.output: Literal["logits", "embedding"] = "logits" if name == "classification" else "embedding"

    def supervised(self, net: Net, out: Out, labels: Tensor) -> Tensor:
        """Cross-entropy with labels [N], the head's margin applied; a scalar, mean over the batch.

        Labels are columns of the logits: classes, or positions among those that `kd/partial.py` has drawn.
        """
        return net.head.cross_entropy(out.logits, labels)

    def lesson(self, net: Net, images: Tensor, labels: Tensor) -> Tensor:
        """The same from images [N, C, H, W], over the classes that the net's head samples in this step."""
        with sampled(labels, net.head) as columns:
            return self.supervised(net, net(images), columns)
