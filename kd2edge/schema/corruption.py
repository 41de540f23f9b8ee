"""Corruptions: which damaged images a suite judges by, beside the clean ones."""

from typing import Literal, get_args

from pydantic import Field, field_validator

from kd2edge.schema.section import Section

CorruptionKind = Literal["gaussian_noise", "shot_noise", "gaussian_blur", "jpeg", "brightness", "contrast"]
SEVERITIES = (1, 2, 3, 4, 5)


class Corruptions(Section):
    """Every kind at every severity, 1 (slight) to 5 (severe), on the same at most `images` images of the split."""

    kinds: tuple[CorruptionKind, ...] = get_args(CorruptionKind)
    severities: tuple[int, ...] = SEVERITIES
    images: int = Field(2000, ge=1)

    @field_validator("kinds", "severities")
    @classmethod
    def _each_once(cls, given: tuple[str, ...] | tuple[int, ...]) -> tuple[str, ...] | tuple[int, ...]:
        if not given or len(set(given)) < len(given):
            raise ValueError("names at least one, and each once")
        return given

    @field_validator("severities")
    @classmethod
    def _known(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if not set(given) <= set(SEVERITIES):
            raise ValueError("a severity is 1, 2, 3, 4 or 5")
        return given
