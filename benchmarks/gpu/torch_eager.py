"""torch, one kernel after the other."""

from benchmarks.gpu.torch_session import TorchBackend


class Eager(TorchBackend):
    name = "torch_eager"
    mode = None
