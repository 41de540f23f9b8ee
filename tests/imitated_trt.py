"""A stand-in for NVIDIA's binding where the real one cannot be imported: it keeps what it is given and answers.

It proves nothing about TensorRT. Its parser takes any file, its engine is made of the file's sha256; a "version" before
11 has no SAME_COMPUTE_CAPABILITY. The names in our code are looked up in NVIDIA's binaries by test_trt_bindings.
"""

import hashlib
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

Cache = bytes
FOREIGN, DAMAGED = b"cache of another GPU", b"no cache"


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class BuilderFlag(Enum):
    VERSION_COMPATIBLE, GPU_FALLBACK, TF32 = range(3)


class DeviceType(Enum):
    GPU, DLA = range(2)


class Level10(Enum):
    NONE, AMPERE_PLUS = range(2)


class Level11(Enum):
    NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = range(3)


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content or b"measured"


class Config:
    def __init__(self, trt: Any, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        self.flags = {BuilderFlag.TF32}
        self.pools: dict[str, int] = {}
        self.profiling_verbosity: Any = None
        self.builder_optimization_level = 3
        self.hardware_compatibility_level: Any = trt.HardwareCompatibilityLevel.NONE
        self.default_device_type, self.DLA_core = DeviceType.GPU, -1
        self.cache: TimingCache | None = None
        self.profiles: list[dict[str, tuple[Any, ...]]] = []

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self.flags

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def get_memory_pool_limit(self, pool: str) -> int:
        return self.pools.get(pool, 8 << 30)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        if content == DAMAGED:
            return None
        if content == FOREIGN:
            self.logger.log(Severity.WARNING, "The timing cache will not be used!")
            content = b""
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


class Builder:
    def __init__(self, trt: Any, logger: Any, dla_cores: int, made: list[Config]) -> None:
        self.trt, self.logger, self.num_DLA_cores, self.made = trt, logger, dla_cores, made

    def create_network(self, flags: int) -> Any:
        self.flags = flags
        return SimpleNamespace(num_inputs=1, file=None)

    def create_builder_config(self) -> Config:
        self.made.append(Config(self.trt, self.logger))
        return self.made[-1]

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, tuple[Any, ...]] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: sizes}))

    def build_serialized_network(self, network: Any, config: Config) -> bytes:
        return b"engine " + hashlib.sha256(network.file.read_bytes()).digest()


class Parser:
    def __init__(self, network: Any, logger: Any) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        tensor = onnx.load(path).graph.input[0]
        shape = tuple(dim.dim_value or -1 for dim in tensor.type.tensor_type.shape.dim)
        self.network.file = Path(path)
        self.network.get_input = lambda index: SimpleNamespace(name=tensor.name, shape=shape)
        return True


def imitation(version: str, dla_cores: int = 0) -> Any:
    """A module of that version. `configs` are the builder configurations that were asked of it."""
    new = int(version.split(".")[0]) >= 11
    configs: list[Config] = []
    trt = SimpleNamespace(
        __version__=version,
        ILogger=ILogger,
        BuilderFlag=BuilderFlag,
        DeviceType=DeviceType,
        HardwareCompatibilityLevel=Level11 if new else Level10,
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        OnnxParser=Parser,
        configs=configs,
    )
    trt.Builder = lambda logger: Builder(trt, logger, dla_cores, configs)
    return trt
