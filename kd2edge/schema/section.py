"""What every drawer's YAML is made of: closed sections, plug-ins by name, and the words that several of them use."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["fp32", "fp16", "int8"]
Flavour = Literal["tensorrt", "ort-x86"]
TaskName = Literal["classification", "verification"]


class Section(BaseModel):
    """A part of a YAML file: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Plugin(BaseModel):
    """A plug-in by name, with its own options beside the name; its `Config` validates them."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})
