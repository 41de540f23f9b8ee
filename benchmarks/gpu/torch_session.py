"""torch as a session beside the engines': the same graph and weights, channels last, copies and kernels timed apart.

Batch norms are folded in that graph already, which is to torch's advantage. FP32 is computed with TF32 allowed, as
TensorRT does by default.
"""

import time
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from typing_extensions import Self

from kd2edge.edge.cuda.faults import NotCaptured
from kd2edge.edge.session import Backend, Floats, Stages
from kd2edge.graph.load import load_model
from kd2edge.schema import Target


class TorchSession:
    """One stream, pinned buffers of one batch size at a time. `mode` is torch.compile's; None is eager."""

    fixed_batch = None

    def __init__(self, path: Path, half: bool, mode: str | None, device: str = "cuda") -> None:
        import torch

        from kd2edge.kd.graph_net import GraphNet

        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        model = load_model(path)
        net = GraphNet(model, [model.graph.output[0].name]).eval()
        net.to(device=device, dtype=torch.float16 if half else torch.float32)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._torch, self._device, self._dtype = torch, torch.device(device), torch.float16 if half else torch.float32
        self._whole, self._mode = net, mode
        self._nets: dict[tuple[int, ...], Any] = {}
        name = torch.cuda.get_device_name() if device == "cuda" else device
        self.provider = f"torch {mode or 'eager'} {'fp16' if half else 'fp32, TF32 allowed'} on {name}"
        self.versions = {"torch": str(torch.__version__), "CUDA of torch": str(torch.version.cuda)}
        self._input: Any = None
        self._output: Any = None

    def infer(self, x: Floats) -> Floats:
        with self._torch.no_grad():
            self._fill(x)
            made = self._out(self._compute(self._in()))
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()
        out: Floats = made.numpy().reshape(len(x), -1).copy()
        return out

    def stages(self, x: Floats, graph: bool) -> Stages:
        """As the protocol says; the mode decides whether kernels are launched as a graph, the other way is refused."""
        if graph == (self._mode is None):
            raise NotCaptured(f"torch {self._mode or 'eager'} {'has no' if graph else 'always uses a'} CUDA graph")
        cuda = self._torch.cuda
        moments = [cuda.Event(enable_timing=True) for _ in range(5)]
        with self._torch.no_grad():
            self._fill(x)
            moments[0].record()
            given = self._in()
            moments[1].record()
            self._compute(given)  # ahead of what is timed, as engines do it
            moments[2].record()
            asked = time.perf_counter_ns()
            made = self._compute(given)
            enqueued = time.perf_counter_ns()
            moments[3].record()
            self._out(made)
            moments[4].record()
        cuda.synchronize()
        h2d, _, compute, d2h = (round(1e6 * a.elapsed_time(b)) for a, b in pairwise(moments))
        return Stages(h2d, compute, d2h, enqueued - asked)

    def _fill(self, x: Floats) -> None:
        """Copy the images to pinned memory; nothing is under way that reads it."""
        if self._input is None or self._input.shape != x.shape:
            self._input = self._torch.empty(x.shape, pin_memory=self._device.type == "cuda")
        np.copyto(self._input.numpy(), x)

    def _in(self) -> Any:
        return self._input.to(self._device, non_blocking=True)

    def _compute(self, given: Any) -> Any:
        if self._mode is not None:
            self._torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._net(given)(given)

    def _net(self, given: Any) -> Any:
        """The net for a shape as bare operators, so that no Python of the graph's reading is timed or compiled.

        Layout and precision are its own affair, as they are inside an engine: compiled with it and captured with it.
        """
        shape = tuple(given.shape)
        if shape not in self._nets:
            from torch.fx.experimental.proxy_tensor import make_fx

            def whole(images: Any) -> Any:
                inside = images.to(self._dtype).contiguous(memory_format=self._torch.channels_last)
                return self._whole(inside)[0].float()

            traced: Any = make_fx(whole)(self._torch.zeros_like(given))
            self._nets[shape] = traced if self._mode is None else self._torch.compile(traced, mode=self._mode)
        return self._nets[shape]

    def _out(self, made: Any) -> Any:
        """In pinned memory, once the device is done."""
        if self._output is None or self._output.shape != made.shape:
            self._output = self._torch.empty(made.shape, pin_memory=self._device.type == "cuda")
        return self._output.copy_(made, non_blocking=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._nets, self._whole, self._input, self._output


class TorchBackend(Backend):
    """What the three modes share; of the target only its precision is read."""

    mode: str | None = None

    def available(self) -> str | None:
        try:
            import torch
        except ImportError:
            return "torch is not installed"
        return None if torch.cuda.is_available() else "no GPU: torch sees none"

    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        return onnx

    def open(self, path: Path, target: Target) -> TorchSession:
        return TorchSession(path, target.precisions == ("fp16",), self.mode)
