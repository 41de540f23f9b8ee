"""kd2edge's own post-training quantization, as `kd2edge quantize` does it when nothing is asked for."""

from typing import Any

import numpy as np

from benchmarks.peers.quantization.adapters.job import Job
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.quantize import quantize_model
from kd2edge.graph.scales import has_vnni

PACKAGES = ("kd2edge", "onnx", "onnxruntime")
INSTALL = "pip install kd2edge"
BATCH = 32


def quantize(job: Job) -> dict[str, Any]:
    images, flavour = np.load(job.calibration), job.setting["flavour"]
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    reduce_range = flavour == "ort-x86" and not has_vnni()
    made = quantize_model(load_model(job.fp32), batches, flavour, reduce_range=reduce_range)
    save_model(made.model, job.out)
    coverage = made.coverage
    return {
        "calibrator": made.calibrator,
        "macs_in_int8": 100 * coverage.macs / coverage.all_macs,
        "layers_in_int8": f"{coverage.layers} of {coverage.all_layers}",
    }
