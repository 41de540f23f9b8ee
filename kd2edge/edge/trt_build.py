"""Building engines: one route for TensorRT 10, TensorRT 11 and TensorRT for RTX, since the graph states its precision.

The network is strongly typed and no precision flag is ever set: 11 and RTX have none, and 10 then reads the Q/DQ and
the casts of the file as they stand. What differs between the products is the module object `trt` (see `trt_versions`).
"""

import importlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx as onnx_format
from onnx import TensorProto

from kd2edge.artifact import Artifact, ancestors, describe, has_manifest, open_artifact, read_verified
from kd2edge.edge import trt_cache, trt_layers, trt_versions
from kd2edge.edge.built_on import AGAIN, Fact, Misfit, built_on, misfit
from kd2edge.edge.session import Backend, readable
from kd2edge.edge.trt_errors import refusal
from kd2edge.edge.trt_session import TrtSession, driver_fault
from kd2edge.errors import MissingExtra, UserError
from kd2edge.files import sha256, write_atomic
from kd2edge.onnx_file import require_valid
from kd2edge.schema import Precision, Target

INHERITED = ("role", "precision", "flavour", "task", "output", "classes", "preprocessing", "data")
WARM_UP, PROFILED = 5, 20  # runs before, and of, the layers' times


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
        """The engine at `out`, with its manifest, its timing cache and, where it runs, its table of layers beside it.

        The profile of a free batch is the target's; min = opt = max makes a static one. Raises `UserError` where
        graph, target and this TensorRT do not go together.
        """
        trt = self.trt()
        require_valid(onnx)
        graph = onnx_format.load(str(onnx), load_external_data=False).graph
        trt_versions.refuse(trt, self.label, target, precision_of(graph))
        here = self._here(trt, target)
        self.refuse_device(target, here)
        logger = collecting_logger(trt)
        options = self._built(trt, logger, onnx, target, out)
        made = self._described(trt, onnx, graph, target, out, {"built_on": here, "build": options})
        self._tell_layers(trt, made, graph, target)
        return out

    def open(self, path: Path, target: Target) -> TrtSession:
        """The one place where an engine is loaded: its manifest verifies and it was built for this machine, or it is
        refused."""
        fault = self.available()
        if fault:
            raise UserError(fault)
        trt = self.trt()
        made, engine = read_verified(readable(path), require_signature=target.require_signature)
        self._require_fit(made, self._here(trt, target), path)
        return TrtSession(
            trt, collecting_logger(trt), engine, path, self.label, target, lambda engine: self.execution(trt, engine)
        )

    def execution(self, trt: Any, engine: Any) -> Any:
        """A new execution context of an engine."""
        return engine.create_execution_context()

    @abstractmethod
    def for_devices(self, trt: Any, config: Any, target: Target) -> list[str] | None:
        """Tell the builder which GPUs the engine is for; their compute capabilities, or None: the GPU it stands on."""

    @abstractmethod
    def refuse_device(self, target: Target, here: dict[str, Fact]) -> None:
        """Raise `UserError` where an engine built here would not be for the target's device."""

    def _built(self, trt: Any, logger: Any, onnx: Path, target: Target, out: Path) -> dict[str, Any]:
        """Write the engine and its timing cache; the build options as TensorRT took them."""
        builder = self._builder(trt, logger)
        network = builder.create_network(trt_versions.creation_flags(trt))
        self._parse(trt, logger, network, onnx)
        config = builder.create_builder_config()
        profile, shapes = _profile(builder, network, target)
        if config.add_optimization_profile(profile) < 0:
            raise refusal(self.label, onnx, logger.errors)
        options = trt_versions.configure(trt, self.label, builder, config, target)
        options |= {"profile": shapes, "compute_capabilities": self.for_devices(trt, config, target)}
        caching = target.build.timing_cache and trt_versions.has_timing_cache(trt)
        begun_with = trt_cache.attach(config, logger, out) if caching else None
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise refusal(self.label, onnx, logger.errors)
        write_atomic(out, bytes(memoryview(engine)))
        return {**options, "timing_cache": trt_cache.keep(config, out, begun_with) if caching else None}

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

    def _here(self, trt: Any, target: Target) -> dict[str, Fact]:
        capabilities = target.compute_capabilities if trt_versions.is_rtx(trt) else None
        return built_on(self.name, str(trt.__version__), capabilities)

    def _described(
        self, trt: Any, onnx: Path, graph: onnx_format.GraphProto, target: Target, out: Path, details: dict[str, Any]
    ) -> Artifact:
        """The manifest: what the ONNX file's own tells of the model, and all that the build tells."""
        fields: dict[str, Any] = {"role": precision_of(graph), "precision": precision_of(graph)}
        if has_manifest(onnx):
            source = open_artifact(onnx)
            fields = {name: getattr(source.manifest, name) for name in INHERITED} | {"lineage": ancestors(source)}
        return describe(
            out,
            kind="engine",
            verb="export",
            parents=(sha256(onnx),),
            **fields,
            details={"target": target.model_dump(mode="json"), **details},
            versions={self.name: str(trt.__version__)},
        )

    def _require_fit(self, engine: Artifact, here: dict[str, Fact], path: Path) -> None:
        details = engine.manifest.details
        made, build = (details.get(name) for name in ("built_on", "build"))
        if not isinstance(made, dict) or not isinstance(build, dict):
            raise UserError(f"{path} cannot be loaded here. Nothing says where it was built.", AGAIN)
        options = {name: build.get(name) for name in ("version_compatible", "hardware_compatibility")}
        fault = misfit({**made, **options}, here)
        if fault:
            raise Misfit(f"{path} cannot be loaded here. {fault[0]}", fault[1])

    def _tell_layers(self, trt: Any, engine: Artifact, graph: onnx_format.GraphProto, target: Target) -> None:
        """Write the table of layers beside the engine and its summary into the manifest; where no engine runs, or this
        TensorRT tells nothing, the reason."""
        told: dict[str, Any] = {"layers": None}
        trt_layers.table_path(engine.path).unlink(missing_ok=True)  # of an older build
        reason = self.available()
        if reason is None:
            try:
                layers = self._layers(trt, engine, target.model_copy(update={"require_signature": False}))
                told = {"layers": trt_layers.summary(layers, graph)}
                write_atomic(trt_layers.table_path(engine.path), trt_layers.report(layers, told["layers"]))
            except UserError as error:
                reason = error.message
        if reason is not None:
            told["layers_unknown"] = reason
        fields = engine.manifest.model_dump(exclude={"manifest", "file", "sha256", "bytes"})
        describe(engine.path, **{**fields, "details": {**engine.manifest.details, **told}})

    def _layers(self, trt: Any, engine: Artifact, target: Target) -> list[trt_layers.Layer]:
        """Layers and their times at the profile's usual shape: zeros go in, a tactic's time hangs on shapes alone."""
        with self.open(engine.path, target) as session:  # which has one input, or is refused
            ((_, usual, _),) = engine.manifest.details["build"]["profile"].values()
            x = np.zeros(usual, np.float32)
            for _ in range(WARM_UP):
                session.infer(x)
            layers, times = trt_layers.parse_layers(session.inspection()), trt_layers.layer_times(trt)
            for _ in range(PROFILED):
                session.profiled(x, times)
            return trt_layers.timed(layers, times.mean_ms())


def precision_of(graph: onnx_format.GraphProto) -> Precision:
    """What a graph states: int8 where it has Q/DQ, fp16 where a constant is float16, else fp32."""
    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        return "int8"
    return "fp16" if any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer) else "fp32"


def collecting_logger(trt: Any) -> Any:
    """A logger that prints nothing: its `errors` are the messages to quote if something is refused."""

    class Collecting(trt.ILogger):  # type: ignore[misc]  # the binding is not typed
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)

    return Collecting()


def _profile(builder: Any, network: Any, target: Target) -> tuple[Any, dict[str, list[list[int]]]]:
    """The optimization profile, and its [min, opt, max] shapes by input."""
    profile, shapes = builder.create_optimization_profile(), {}
    batch = target.batch
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        first, *rest = tuple(tensor.shape)
        if min(rest, default=1) < 0:
            raise UserError(
                f"Input {tensor.name!r} has shape {(first, *rest)}: only its batch may be dynamic.",
                "export with fixed channels, height and width",
            )
        sizes = (batch.min, batch.opt, batch.max) if first < 0 else (first, first, first)
        shapes[str(tensor.name)] = [[size, *rest] for size in sizes]
        profile.set_shape(tensor.name, *shapes[tensor.name])
    return profile, shapes
