"""onnxruntime's `quantize_static`: its defaults, and the settings that its documentation gives for TensorRT."""

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.quantization.adapters.job import Job

PACKAGES = ("onnxruntime", "onnx")
INSTALL = "pip install onnxruntime onnx"


def quantize(job: Job) -> dict[str, Any]:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    setting = dict(job.setting)
    options: dict[str, Any] = {}
    if setting.pop("symmetric", False):
        options |= {"per_channel": True, "activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
        extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        options["extra_options"] = {**extra, **setting.pop("extra_options", {})}
    if "method" in setting:
        options["calibrate_method"] = CalibrationMethod[setting.pop("method")]
    quantize_static(str(job.fp32), str(job.out), _reader(np.load(job.calibration)), **options)
    return {}


def _reader(images: npt.NDArray[np.float32]) -> Any:
    """Image by image: what it keeps of a batch grows with its size, and its ranges do not change."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package is not typed
        def __init__(self) -> None:
            self.left = iter(images[i : i + 1] for i in range(len(images)))

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch}

    return Reader()
