"""Running an engine: its bytes, loaded in a CUDA context of the session's own, which is released on exit.

All of CUDA goes through `cuda.seam`. What is made is released in reverse order, whatever failed in between: streams and
buffers after the execution contexts, then the engine, then the context.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from kd2edge.edge import trt_layers, trt_versions
from kd2edge.edge.cuda.choice import driver_fault as driver_fault  # what may open one asks here first
from kd2edge.edge.cuda.choice import open_cuda
from kd2edge.edge.session import Floats, Stages
from kd2edge.edge.trt_lane import Lane, Tensors
from kd2edge.errors import UserError
from kd2edge.schema import Target


class TrtSession:
    """An engine with one float32 image input and one float32 output, of a fixed or of a dynamic batch.

    `execution` makes an execution context of it.
    Raises `UserError` where the engine cannot be loaded or has other inputs and outputs, and where CUDA refuses.
    """

    def __init__(
        self,
        trt: Any,
        logger: Any,
        engine: bytes,
        path: Path,
        label: str,
        target: Target,
        execution: Callable[[Any], Any] = lambda engine: engine.create_execution_context(),
    ) -> None:
        self._trt, self._logger, self._graph, self._execution = trt, logger, target.cuda_graph, execution
        with ExitStack() as held:
            self._cuda = held.enter_context(open_cuda(label))
            held.callback(self.__dict__.pop, "_engine", None)
            self._engine = self._load(engine, path, label, target)
            self._tensors = self._named(path)
            self._lanes: list[Lane] = []
            self._watched: Lane | None = None
            held.callback(self._drop)
            self.open_streams(1)
            self._held = held.pop_all()
        dynamic = self._engine.get_tensor_shape(self._tensors.input)[0] < 0
        span = self._tensors.smallest[0], self._tensors.largest[0]
        self.fixed_batch = None if dynamic and span[0] < span[1] else span[1]
        gpu = self._cuda.gpu
        self.provider = f"{label} on {gpu.name} (SM {gpu.sm[0]}.{gpu.sm[1]}) by {self._cuda.package}"
        self.versions = {
            label: str(trt.__version__),
            self._cuda.package: self._cuda.version,
            "CUDA driver": f"{gpu.driver // 1000}.{gpu.driver % 1000 // 10}",
        }

    def infer(self, x: Floats) -> Floats:
        """Copy in, compute, copy out; as a captured graph where the target ships one."""
        lane = self._lanes[0]
        lane.begin(x, self._graph)
        return lane.finish()

    def stages(self, x: Floats, graph: bool) -> Stages:
        """What `infer` takes stage by stage, with or without a captured graph (see `session.Staged`)."""
        return self._lanes[0].stages(x, graph)

    def open_streams(self, count: int) -> None:
        """Have at least so many streams. Raises `UserError` where there is no room for them."""
        while len(self._lanes) < count:
            self._lanes.append(self._lane())

    def begin(self, x: Floats, stream: int) -> None:
        """Put a batch on a stream that has none; `finish` returns its results."""
        self._lanes[stream].begin(x, self._graph)

    def finish(self, stream: int) -> Floats:
        """Wait for what was begun on a stream: float32 [N, D]."""
        return self._lanes[stream].finish()

    def profiled(self, x: Floats, profiler: Any) -> Floats:
        """`infer` while a `trt.IProfiler` is told of each layer, in an execution context kept for that alone."""
        if self._watched is None:
            self._watched = self._lane()
        self._watched.execution.profiler = profiler
        self._watched.begin(x, graph=False)
        return self._watched.finish()

    def inspection(self) -> str:
        """The engine inspector's JSON of all layers, at the shape that was inferred last."""
        return trt_layers.inspect(self._trt, self._engine, self._lanes[0].execution)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _load(self, engine: bytes, path: Path, label: str, target: Target) -> Any:
        loaded = trt_versions.runtime(self._trt, self._logger, target).deserialize_cuda_engine(engine)
        if loaded is None:
            raise UserError(
                f"{label} cannot load {path}: {self._said(0)}.",
                "an engine runs with the TensorRT version and on the GPU it was built for: export it again here",
            )
        return loaded

    def _named(self, path: Path) -> Tensors:
        """No variable holds the engine: an error's traceback would keep it beyond its CUDA context."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(f"{path} has inputs {inputs} and outputs {outputs}.", "a model has one of each")
        for name in names:
            if self._engine.get_tensor_dtype(name) != self._trt.float32:
                raise UserError(f"{path}: {name!r} is not float32.", "keep input and output in float32, cast inside")
        smallest, _, largest = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(inputs[0], 0))
        return Tensors(inputs[0], outputs[0], smallest, largest)

    def _lane(self) -> Lane:
        return Lane(self._cuda, lambda: self._execution(self._engine), self._tensors, self._said)

    def _drop(self) -> None:
        for lane in (*self._lanes, *([self._watched] if self._watched else [])):
            lane.drop()

    def _said(self, place: int = -1) -> str:
        """The last error that TensorRT told of; of loading the first, from which the others follow."""
        return self._logger.errors[place] if self._logger.errors else "it says nothing more"
