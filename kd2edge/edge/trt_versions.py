"""What differs between TensorRT 10.3 to 11.x and TensorRT for RTX: this file alone knows it.

Sources: NVIDIA's bindings of 10.3 and 11.4 (every name used is looked up in them by a test), TensorRT for RTX 1.7.1 as
it behaves, and NVIDIA's pages on engine compatibility, DLA and migration to 11. No precision is ever set: the graph
states it. TF32 stays as NVIDIA sets it (on).
"""

from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from kd2edge.errors import UserError
from kd2edge.schema import Build, Precision, Target

ELSEWHERE = "build on the device itself (--on ssh://user@host), or make a kit for it (--kit FOLDER)"


def is_rtx(trt: Any) -> bool:
    """Whether the binding is that of TensorRT for RTX: it alone builds for named compute capabilities."""
    return hasattr(trt, "ComputeCapability")


def creation_flags(trt: Any) -> int:
    """The creation flag of TensorRT 10 and RTX; 11 ignores it, and where it is gone, networks are strongly typed."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def refuse(trt: Any, label: str, target: Target, precision: Precision) -> None:
    """Raise `UserError` for what this TensorRT or this target cannot do, before anything is built."""
    _refuse_version(trt, label, target)
    if is_rtx(trt):
        _refuse_for_rtx(label, target.build)
    _refuse_hardware_compatibility(trt, label, target)
    if target.build.dla_core is not None:
        _refuse_dla(target, target.build.dla_core, precision)


def _refuse_version(trt: Any, label: str, target: Target) -> None:
    said = str(trt.__version__)
    try:
        fits = target.tensorrt is None or SpecifierSet(target.tensorrt).contains(Version(said), prereleases=True)
    except InvalidVersion:
        fits = False
    if not fits:
        origin = f" (JetPack {', '.join(target.jetpack)})" if target.jetpack else ""
        raise UserError(
            f"This is {label} {said}; the target has {target.tensorrt}{origin}, and no other runs the engine.",
            ELSEWHERE if target.board else f"install {label} {target.tensorrt}, or name another target",
        )


def _refuse_for_rtx(label: str, build: Build) -> None:
    """What RTX 1.7.1 does with them: it warns and goes on, asks for a library it has not, sees no DLA."""
    asked = {
        "build.hardware_compatibility": build.hardware_compatibility != "none",
        "build.version_compatible": build.version_compatible,
        "build.dla_core": build.dla_core is not None,
    }
    lacking = [name for name, is_asked in asked.items() if is_asked]
    if lacking:
        verb = "has" if len(lacking) == 1 else "have"
        raise UserError(
            f"{label} does not know {' and '.join(lacking)}, which {verb} a meaning in TensorRT alone.",
            "leave it out; compute_capabilities say which GPUs an RTX engine is for",
        )


def _refuse_hardware_compatibility(trt: Any, label: str, target: Target) -> None:
    level = target.build.hardware_compatibility
    if level == "none":
        return
    if target.board is not None:
        raise UserError(
            f"Hardware compatibility ({level}) is not for a Jetson: JetPack's TensorRT does not support it.",
            "leave build.hardware_compatibility out: a board's engine runs on boards of its kind",
        )
    if not hasattr(trt.HardwareCompatibilityLevel, level.upper()):
        raise UserError(
            f"{label} {trt.__version__} has no hardware compatibility {level!r}.", "take ampere_plus, or leave it out"
        )


def _refuse_dla(target: Target, core: int, precision: Precision) -> None:
    if core >= target.dla_cores:
        have = f"only {target.dla_cores}" if target.dla_cores else "none"
        raise UserError(f"build.dla_core is {core}, but this target has {have}.", "leave build.dla_core out")
    if precision == "fp32":
        raise UserError("A DLA computes in FP16 and INT8, not in FP32.", "take fp32 out of the target's precisions")
    if target.batch.min != target.batch.max:
        raise UserError(
            f"A DLA takes one batch size, the target has {target.batch.min} to {target.batch.max}.",
            "state batch: {min: 1, opt: 1, max: 1}, or another size three times",
        )


def configure(trt: Any, label: str, builder: Any, config: Any, target: Target) -> dict[str, Any]:
    """Set the options of `target.build` and return what the config says when asked back.

    Raises `UserError` for an option that the config did not take.
    """
    build = target.build
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the layers' table is read from the engine
    if target.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
    if build.optimization_level is not None:
        config.builder_optimization_level = build.optimization_level
    if build.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if build.hardware_compatibility != "none":
        config.hardware_compatibility_level = _level(trt, build.hardware_compatibility)
    if build.dla_core is not None:
        _use_dla(trt, label, builder, config, build.dla_core, build.gpu_fallback)
    taken = _as_set(trt, config)
    _require_taken(label, target, taken)
    return taken


def _level(trt: Any, name: str) -> Any:
    return getattr(trt.HardwareCompatibilityLevel, name.upper())


def _use_dla(trt: Any, label: str, builder: Any, config: Any, core: int, gpu_fallback: bool) -> None:
    """11.0 to 11.4.0 have no DLA at all, 11.4.1 has it on AGX Orin, 10.x on Orin by JetPack: the builder knows."""
    if core >= builder.num_DLA_cores:
        raise UserError(
            f"build.dla_core is {core}, but {label} {trt.__version__} sees {builder.num_DLA_cores} DLA cores here.",
            ELSEWHERE,
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _as_set(trt: Any, config: Any) -> dict[str, Any]:
    dla = config.default_device_type == trt.DeviceType.DLA
    return {
        "workspace_mib": int(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)) >> 20,
        "optimization_level": int(config.builder_optimization_level),
        "version_compatible": bool(config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)),
        "hardware_compatibility": "none" if is_rtx(trt) else config.hardware_compatibility_level.name.lower(),
        "dla_core": int(config.DLA_core) if dla else None,
        "gpu_fallback": bool(config.get_flag(trt.BuilderFlag.GPU_FALLBACK)) if dla else None,
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
    }


def _require_taken(label: str, target: Target, taken: dict[str, Any]) -> None:
    asked = {
        "workspace_mib": target.workspace_mib,
        **target.build.model_dump(include={"optimization_level", "version_compatible", "hardware_compatibility"}),
        "dla_core": target.build.dla_core,
    }
    for name, value in asked.items():
        if value is not None and taken[name] != value:
            raise UserError(f"{label} did not take {name} {value}: it says {taken[name]}.", "leave it out")


def has_timing_cache(trt: Any) -> bool:
    """In RTX it is deprecated and does nothing: kernels are compiled on the GPU that runs them."""
    return not is_rtx(trt)


def runtime(trt: Any, logger: Any, target: Target) -> Any:
    """A runtime that may load the target's engines. A version-compatible engine carries code of its own, which is
    allowed to run, so its file must be verified first."""
    made = trt.Runtime(logger)
    if target.build.version_compatible:
        made.engine_host_code_allowed = True
    if target.build.dla_core is not None:
        made.DLA_core = target.build.dla_core
    return made
