"""Quantize: how a recipe's student becomes INT8."""

from typing import Literal

from pydantic import Field

from kd2edge.schema.section import Section

Clipping = Literal["minmax", "percentile", "entropy", "mse"]
Calibrator = Literal["auto", "minmax", "percentile", "entropy", "mse"]


class Quantize(Section):
    """Static post-training quantization: how ranges are chosen and from how many training images.

    `auto` tries on a held-out part of these images. `equalize` rescales channels, which changes nothing in float.
    `keep` has patterns, as a shell's, of the names of layers (or of their weights) that stay in float.
    """

    calibrator: Calibrator = "auto"
    equalize: bool = True
    correct_bias: Literal["auto"] | bool = "auto"
    keep: tuple[str, ...] = ()
    images: int = Field(512, ge=1)
