"""The tools of the comparison and their settings: one row of the table each."""

from dataclasses import dataclass, field
from typing import Any

OURS = "kd2edge"
FP32 = "fp32"


@dataclass(frozen=True)
class Peer:
    """A tool with a setting. `about` says both in words, and a change of those makes its cells stale.

    A new version of a tool, or of kd2edge, does not: make those cells with `--again`.
    """

    name: str
    about: str
    adapter: str
    setting: dict[str, Any] = field(default_factory=dict)


PEERS = [
    Peer(OURS, "kd2edge's defaults, for TensorRT: S8S8", "kd2edge_ptq", {"flavour": "tensorrt"}),
    Peer("kd2edge-x86", "kd2edge's defaults, for onnxruntime on x86: U8S8", "kd2edge_ptq", {"flavour": "ort-x86"}),
    Peer("ort-defaults", "onnxruntime `quantize_static`, its defaults", "onnxruntime_static"),
    Peer("ort-minmax", "the same, S8S8, per channel, no bias Q/DQ, minmax", "onnxruntime_static", {"symmetric": True}),
    Peer(
        "ort-percentile",
        "the same with percentile 99.99",
        "onnxruntime_static",
        {"symmetric": True, "method": "Percentile", "extra_options": {"CalibPercentile": 99.99}},
    ),
    Peer("modelopt-max", "ModelOpt on ONNX, max", "modelopt_onnx", {"method": "max"}),
    Peer("modelopt-entropy", "ModelOpt on ONNX, entropy (its default)", "modelopt_onnx", {"method": "entropy"}),
    Peer("modelopt-torch", "ModelOpt on torch, `INT8_DEFAULT_CFG`", "modelopt_torch"),
]
