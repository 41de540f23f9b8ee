"""FaceX-Zoo's MobileFaceNet: blocks named by stage (`conv_23`, `conv_3.model.0`, …), for images in BGR."""

import re
from collections.abc import Mapping

from torch import Tensor

from kd2edge.kd.layout import Layout
from kd2edge.kd.net import Net

STAGES = ("conv_23", "conv_3", "conv_34", "conv_4", "conv_45", "conv_5")
PARTS = {"conv": "layers.0", "conv_dw": "layers.1", "project": "layers"}  # of a bottleneck
INNER = {"conv": "0", "bn": "1", "prelu": "2"}  # of a convolution with what follows it
PROJECTED = {"conv": "2", "bn": "3"}
NECK = {"conv_6_dw.conv": "0", "conv_6_dw.bn": "1", "linear": "3", "bn": "4"}
STEM = "conv1.conv.weight"
BLOCK = re.compile(rf"({'|'.join(STAGES)})(?:\.model\.(\d+))?\.(conv|conv_dw|project)\.(\w+)\.(\w+)")


class FaceXZoo(Layout):
    """Its nets were trained on (BGR - 127.5) / 128; the first convolution is turned round, which is exact.

    Its training saves them as `backbone` beside a head, [d, classes] in its own order of people, which is left out.
    """

    about = "FaceX-Zoo MobileFaceNet (BGR, its first convolution turned round for RGB)"

    def fits(self, given: Mapping[str, Tensor]) -> bool:
        return {STEM, "conv_23.conv_dw.conv.weight", "conv_6_dw.conv.weight"} <= set(_bare(given))

    def translated(self, given: Mapping[str, Tensor], net: Net) -> dict[str, Tensor]:
        bare = _bare(given)
        place = {block: number for number, block in enumerate(_blocks(bare), 2)}
        state = {_renamed(key, place): value for key, value in bare.items()}
        first = state["backbone.layers.0.0.weight"]
        return {**state, "backbone.layers.0.0.weight": first.flip(1)}


def _bare(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): value for key, value in given.items() if not key.startswith("head.")}


def _blocks(given: Mapping[str, Tensor]) -> list[tuple[str, str | None]]:
    """The bottlenecks in their order: `conv_23` is one, `conv_3.model.0` one of several."""
    found = {(match[1], match[2]) for key in given if (match := BLOCK.fullmatch(key))}
    return sorted(found, key=lambda block: (STAGES.index(block[0]), int(block[1] or 0)))


def _renamed(key: str, place: Mapping[tuple[str, str | None], int]) -> str:
    """`place` has the bottlenecks' numbers among ours; a name of none of the net's layers stays as it is."""
    if inner := BLOCK.fullmatch(key):
        stage, number, part, layer, last = inner.groups()
        ours = (PROJECTED if part == "project" else INNER).get(layer, layer)
        return f"backbone.layers.{place[stage, number]}.{PARTS[part]}.{ours}.{last}"
    name, _, last = key.rpartition(".")
    if name in NECK:
        return f"neck.layers.{NECK[name]}.{last}"
    outer = {"conv1": 0, "conv2_dw": 1, "conv_6_sep": 2 + len(place)}
    block, _, layer = name.partition(".")
    return f"backbone.layers.{outer[block]}.{INNER[layer]}.{last}" if block in outer and layer in INNER else key
