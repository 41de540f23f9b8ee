"""The CIFAR checkpoints of RepDistiller, and of mdistiller, HeadSharingKD and the SimKD suite, which share its nets.

Their ResNets, VGGs and ShuffleNets are named as ours, so only three kinds need a translation. The names of the Wide
ResNets are those of many other repositories, and `shortcut` is what most ResNets for CIFAR call it.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from kd2edge.kd.layout import Layout
from kd2edge.kd.net import Net

WRN = "block1.layer.0.conv1.weight"
MOBILENET = "blocks.0.0.conv.0.weight"
RESNET = re.compile(r"layer\d\.\d+\.shortcut\.0\.weight")
BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.conv\.([0-7])\.(\w+)")  # row, place in it, layer, what


class RepDistiller(Layout):
    """Its Wide ResNets, its MobileNetV2 (`form: distillation`), and its ResNet-18, 34 and 50 (`stem: small`)."""

    about = "RepDistiller, mdistiller, HeadSharingKD, SimKD: nets for CIFAR"

    def fits(self, given: Mapping[str, Tensor]) -> bool:
        return WRN in given or MOBILENET in given or any(RESNET.fullmatch(key) for key in given)

    def translated(self, given: Mapping[str, Tensor], net: Net) -> dict[str, Tensor]:
        """As `Layout.translated`; a net that has these names itself, as one of somebody's own may, keeps them."""
        own = {key.removeprefix("backbone.").removeprefix("body.") for key in net.state_dict()}
        if {WRN, MOBILENET} & own or any(RESNET.fullmatch(key) for key in own):
            return dict(given)
        if MOBILENET in given:
            blocks = sorted({(int(match[1]), int(match[2])) for key in given if (match := BLOCK.fullmatch(key))})
            place = {block: number for number, block in enumerate(blocks, 1)}
            return {_mobilenet(key, place): value for key, value in given.items()}
        return {_residual(key): value for key, value in given.items()}


def _residual(key: str) -> str:
    """Of a Wide ResNet or a ResNet."""
    key = re.sub(r"^(block\d)\.layer\.", r"\1.", key).replace(".convShortcut.", ".shortcut.")
    return re.sub(r"^(layer\d\.\d+)\.shortcut\.", r"\1.downsample.", key)


def _mobilenet(key: str, place: Mapping[tuple[int, int], int]) -> str:
    """`place` has the bottlenecks' numbers among ours; a name of none of the net's layers stays as it is."""
    if inner := BLOCK.fullmatch(key):
        row, position, layer, last = int(inner[1]), int(inner[2]), int(inner[3]), inner[4]
        ours = f"{layer // 3}.{layer % 3}" if layer < 6 else f"{layer - 4}"  # the projection is not nested in ours
        return f"backbone.layers.{place[row, position]}.layers.{ours}.{last}"
    for theirs, ours in (("conv1.", "backbone.layers.0."), ("conv2.", f"backbone.layers.{len(place) + 1}.")):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key.replace("classifier.0.", "head.")
