"""kd2edge: from "the teacher is good" to "the engine may ship"."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.31 looks for a telemetry server as soon as it is imported; whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
