"""torch.compile with CUDA graphs, its kernels as they come."""

from benchmarks.gpu.torch_session import TorchBackend


class Graphed(TorchBackend):
    name = "torch_graphed"
    mode = "reduce-overhead"
