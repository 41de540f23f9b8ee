"""Qat: how quantization-aware training goes on with a recipe's training."""

from pydantic import Field

from kd2edge.schema.section import Section


class Qat(Section):
    """Training goes on in INT8, with the losses it had and the teacher attached.

    `epochs` defaults to a tenth of the recipe's own, at least one; `lr`, from which it goes down half a cosine, to a
    hundredth of the recipe's. What is not here is as in `train`.
    """

    epochs: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
