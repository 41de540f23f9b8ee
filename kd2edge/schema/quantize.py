"""Quantize: how a recipe's student becomes INT8."""

from typing import Literal

from pydantic import Field

from kd2edge.schema.section import Section


class Quantize(Section):
    """Static post-training quantization: how ranges are chosen and from how many training images."""

    calibrator: Literal["minmax", "mse"] = "mse"
    images: int = Field(512, ge=1)
