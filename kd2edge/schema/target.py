"""Target: one YAML of `export/`."""

from typing import Literal

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


class Build(Section):
    """How TensorRT's builder works; None leaves its own default. Refused with a sentence where a version lacks it.

    `timing_cache` keeps the measured tactics beside the engine, so that a second build chooses the same ones.
    `dla_core` puts the layers it can run on that core, the others on the GPU if `gpu_fallback`.
    """

    optimization_level: int | None = Field(None, ge=0, le=5)
    timing_cache: bool = True
    version_compatible: bool = False
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    dla_core: int | None = Field(None, ge=0)
    gpu_fallback: bool = True


class Target(Section):
    """One YAML of `export/`: a device, its back end, what it can run, how its engines are built, how it is reached.

    `sm` is the compute capability of the device's GPU, `proved_as` the one that stands for it where no device is at
    hand; `board` is in /proc/device-tree/model; `jetpack` are releases it is known with; `tensorrt` and `python` are
    version specifiers (PEP 440). With `cuda_graph` the model ships, and is timed end to end, as a captured graph.
    `on` is the device's address, ssh://[user@]host[:port]. With `require_signature` nothing unsigned runs on it.
    """

    about: str
    backend: str
    flavour: Flavour
    precisions: tuple[Precision, ...]
    batch: BatchRange = BatchRange()
    threads: int = Field(1, ge=1)
    opset: int = Field(18, ge=13, le=20)
    sm: str | None = Field(None, pattern=r"^\d{1,2}\.\d$")
    proved_as: str | None = Field(None, pattern=r"^\d{1,2}\.\d$")
    board: str | None = None
    jetpack: tuple[str, ...] = ()
    tensorrt: str | None = None
    python: str | None = None
    dla_cores: int = Field(0, ge=0)
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = Field(None, ge=1)
    build: Build = Build()
    cuda_graph: bool = False
    require_signature: bool = False
    on: str | None = Field(None, pattern=r"^ssh://")
    notes: tuple[str, ...] = ()

    @property
    def gpu(self) -> bool:
        """Whether what it runs runs on a GPU, which is then watched while it is measured."""
        return self.sm is not None or self.backend.startswith("tensorrt")
