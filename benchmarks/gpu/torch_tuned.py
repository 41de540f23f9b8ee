"""torch.compile with CUDA graphs and its kernels tuned for this GPU."""

from benchmarks.gpu.torch_session import TorchBackend


class Tuned(TorchBackend):
    name = "torch_tuned"
    mode = "max-autotune"
