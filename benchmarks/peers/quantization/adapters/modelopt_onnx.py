"""NVIDIA ModelOpt on an ONNX file, its calibration on the CPU, what it does not quantize left in FP32."""

import importlib
from typing import Any

import numpy as np

from benchmarks.peers.quantization.adapters.job import Job

PACKAGES = ("nvidia-modelopt", "onnxruntime", "onnx", "onnx-graphsurgeon")
INSTALL = (
    "pip install nvidia-modelopt==0.47.0 requests huggingface_hub onnx_graphsurgeon onnxconverter-common polygraphy "
    "lief onnxslim, and name its interpreter with --modelopt"
)


def quantize(job: Job) -> dict[str, Any]:
    modelopt = importlib.import_module("modelopt.onnx.quantization")
    modelopt.quantize(
        str(job.fp32),
        quantize_mode="int8",
        calibration_data={"images": np.load(job.calibration)},
        calibration_method=job.setting["method"],
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(job.out),
        log_level="ERROR",
    )
    return {}
