"""NVIDIA ModelOpt on a torch module, with its INT8 default configuration, through torch's older ONNX exporter."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.quantization.adapters.job import Job
from benchmarks.peers.quantization.adapters.modelopt_onnx import INSTALL as INSTALL

PACKAGES = ("nvidia-modelopt", "torch", "onnx")
BATCH = 50


def quantize(job: Job) -> dict[str, Any]:
    mtq = importlib.import_module("modelopt.torch.quantization")
    import torch

    from benchmarks.peers.quantization.published import build
    from kd2edge.kd.net import Shipped

    if job.torch is None:
        raise ValueError("it takes a torch module, and this model is an ONNX file")
    torch.set_num_threads(1)
    images = torch.from_numpy(np.load(job.calibration))

    def forward(module: Any) -> None:
        for start in range(0, len(images), BATCH):
            module(images[start : start + BATCH])

    with torch.no_grad():
        shipped = Shipped(build(job.torch), job.output).eval().float()
        quantized = mtq.quantize(shipped, mtq.INT8_DEFAULT_CFG, forward)
        _export(quantized, images[:2], job.out, job.output)
    found = [m for m in quantized.modules() if getattr(getattr(m, "weight_quantizer", None), "is_enabled", False)]
    return {"layers_in_int8": f"{len(found)}"}


def _export(module: Any, images: Any, path: Path, output: str) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (images,),
            str(path),
            dynamo=False,
            opset_version=18,
            input_names=["images"],
            output_names=[output],
            dynamic_axes={"images": {0: "batch"}, output: {0: "batch"}},
        )
