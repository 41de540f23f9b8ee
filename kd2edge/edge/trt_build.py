"""Building engines: one route for TensorRT 10, TensorRT 11 and TensorRT for RTX, since the graph states its precision.

The network is strongly typed and no precision flag is ever set: 11 and RTX have none, and 10 then reads the Q/DQ and
the casts of the file as they stand. What differs between the products is the module object `trt`.
"""

import importlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from kd2edge.edge.session import Backend, readable
from kd2edge.edge.trt_errors import refusal
from kd2edge.edge.trt_session import TrtSession, driver_fault
from kd2edge.errors import MissingExtra, UserError
from kd2edge.files import write_atomic
from kd2edge.schema import Target


class TrtBackend(Backend):
    """What the TensorRT products share. A subclass names its module, its extra and its label for people."""

    module: ClassVar[str]
    extra: ClassVar[str]
    label: ClassVar[str]

    def trt(self) -> Any:
        """The Python binding. Raises `MissingExtra` where it is not installed."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise MissingExtra(self.module, self.extra, f"The back end {self.name}") from error

    def available(self) -> str | None:
        """Whether engines *run* here; that they can be built is another matter (RTX builds without a GPU)."""
        try:
            self.trt()
        except MissingExtra as error:
            return f"{error.message[:-1]}: {error.hint}"
        return driver_fault(self.label)

    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        trt = self.trt()
        logger = collecting_logger(trt)
        builder = self._builder(trt, logger)
        network = builder.create_network(creation_flags(trt))
        self._parse(trt, logger, network, readable(onnx))
        config = self._config(trt, builder, network, target)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise refusal(self.label, onnx, logger.errors)
        return write_atomic(out, bytes(memoryview(engine)))

    def open(self, path: Path, target: Target) -> TrtSession:
        fault = self.available()
        if fault:
            raise UserError(fault)
        trt = self.trt()
        return TrtSession(trt, collecting_logger(trt), readable(path), self.label)

    @abstractmethod
    def for_devices(self, trt: Any, config: Any, target: Target) -> None:
        """Tell the builder which GPUs the engine is for."""

    def _builder(self, trt: Any, logger: Any) -> Any:
        try:
            return trt.Builder(logger)
        except TypeError as error:  # a null builder is how the binding reports a missing driver
            reason = logger.errors[0] if logger.errors else "no NVIDIA driver answers"
            raise UserError(
                f"{self.label} cannot build here: {reason}.", "build on the device itself; nvidia-smi shows its driver"
            ) from error

    def _parse(self, trt: Any, logger: Any, network: Any, onnx: Path) -> None:
        parser = trt.OnnxParser(network, logger)
        if parser.parse_from_file(str(onnx)):
            return
        faults = [parser.get_error(i) for i in range(parser.num_errors)]
        if not faults:
            raise refusal(self.label, onnx, logger.errors)
        first = faults[0]
        complaints = [line for line in (first.desc(), first.code().name) if line]
        raise refusal(self.label, onnx, complaints, first.node() if first.node_operator() else None)

    def _config(self, trt: Any, builder: Any, network: Any, target: Target) -> Any:
        config = builder.create_builder_config()
        if target.workspace_mib:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
        config.add_optimization_profile(_profile(builder, network, target))
        self.for_devices(trt, config, target)
        return config


def collecting_logger(trt: Any) -> Any:
    """A logger that prints nothing: its `errors` are the messages to quote if something is refused."""

    class Collecting(trt.ILogger):  # type: ignore[misc]  # the binding is not typed
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Collecting()


def creation_flags(trt: Any) -> int:
    """The creation flag of TensorRT 10 and RTX; where it is gone, every network is strongly typed."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _profile(builder: Any, network: Any, target: Target) -> Any:
    profile = builder.create_optimization_profile()
    batch = target.batch
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        first, *rest = tuple(tensor.shape)
        if min(rest, default=1) < 0:
            raise UserError(
                f"Input {tensor.name!r} has shape {(first, *rest)}: only its batch may be dynamic.",
                "export with fixed channels, height and width",
            )
        sizes = (batch.min, batch.opt, batch.max) if first < 0 else (first, first, first)
        profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
    return profile
