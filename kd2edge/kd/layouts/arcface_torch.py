"""insightface's arcface_torch: its iResNets, named as ours, and its MobileFaceNet `mbf`, whose blocks are nested.

Written from the published definitions of the two nets; no weights of theirs have been loaded here.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from kd2edge.kd.layout import Layout
from kd2edge.kd.net import Net

IRESNET = {"prelu.weight", "layer1.0.prelu.weight", "bn2.weight", "fc.weight", "features.running_mean"}
MBF = {"layers.0.layers.0.weight", "conv_sep.layers.0.weight", "features.layers.2.weight"}
BLOCK = re.compile(
    r"(layers\.\d+(?:\.layers\.\d+)??)\.layers\.([012])\.layers\.(\d\.\w+)"
)  # where, which part, the rest
NECK = {"0.layers.0": "0", "0.layers.1": "1", "2": "3", "3": "4"}  # depthwise convolution, BN, linear layer, BN


class ArcFaceTorch(Layout):
    """Its nets take RGB, (x - 127.5) / 127.5. What it calls `fc` is no classifier: it trains that apart."""

    about = "insightface arcface_torch, iResNet or MobileFaceNet (form: insightface)"

    def fits(self, given: Mapping[str, Tensor]) -> bool:
        return set(given) >= IRESNET or set(given) >= MBF

    def translated(self, given: Mapping[str, Tensor], net: Net) -> dict[str, Tensor]:
        if set(given) >= IRESNET:
            return {f"backbone.{key}": value for key, value in given.items()}
        blocks = list(dict.fromkeys(match[1] for key in given if (match := BLOCK.fullmatch(key))))
        place = {block: number for number, block in enumerate(sorted(blocks, key=_position), 2)}
        return {_renamed(key, place): value for key, value in given.items()}


def _position(block: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", block)]


def _renamed(key: str, place: Mapping[str, int]) -> str:
    """`place` has the bottlenecks' numbers among ours; a name of none of the net's layers stays as it is."""
    if inner := BLOCK.fullmatch(key):
        block, part, rest = inner.groups()
        layer, _, last = rest.partition(".")
        ours = f"{2 + int(layer)}" if part == "2" else f"{part}.{layer}"  # the projection is not nested in ours
        return f"backbone.layers.{place[block]}.layers.{ours}.{last}"
    if outer := re.fullmatch(r"(?:layers\.([01])|conv_sep)\.layers\.(\d\.\w+)", key):
        return f"backbone.layers.{2 + len(place) if outer[1] is None else outer[1]}.{outer[2]}"
    if neck := re.fullmatch(r"features\.layers\.(0\.layers\.[01]|[23])\.(\w+)", key):
        return f"neck.layers.{NECK[neck[1]]}.{neck[2]}"
    return key
