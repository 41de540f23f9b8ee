"""Target: one YAML of `export/`."""

from pydantic import Field, model_validator

from kd2edge.schema.section import Flavour, Precision, Section


class BatchRange(Section):
    """Optimization profile of the batch dimension."""

    min: int = Field(1, ge=1)
    opt: int = Field(1, ge=1)
    max: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "BatchRange":
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch needs min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class Target(Section):
    """One YAML of `export/`: a device, its back end, what it can run and how its engines are built."""

    about: str
    backend: str
    flavour: Flavour
    precisions: tuple[Precision, ...]
    batch: BatchRange = BatchRange()
    threads: int = Field(1, ge=1)
    opset: int = Field(18, ge=13, le=20)
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = Field(None, ge=1)
    notes: tuple[str, ...] = ()
