"""Proof that ONNX Runtime computes here: the smallest model, y = |x| of one number, is opened and run.

The model is 60 bytes of ONNX (IR version 8, opset 17), so that a board without the package onnx can run it too.
"""

from kd2edge.edge.check import Check
from kd2edge.errors import first_line

MODEL = bytes.fromhex(
    "08083a320a0b0a017812017922034162731201675a0f0a0178120a0a08080112040a02080162"
    "0f0a0179120a0a08080112040a02080142040a001011"
)
MEND = "pip install --force-reinstall onnxruntime"


def check() -> Check:
    """A session is opened, its provider read back, and its answer looked at."""
    import numpy as np

    try:
        import onnxruntime
    except ImportError as error:
        return Check(name="onnxruntime", says="missing", detail=first_line(error), mend=MEND, needed=True)
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    works = session.run(None, {"x": np.array([-1], np.float32)})[0][0] == 1
    does = "computes" if works else "miscomputes"
    detail = f"{onnxruntime.__version__}, a session on {session.get_providers()[0]} {does}"
    says, mend = ("ok", None) if works else ("broken", MEND)
    return Check(name="onnxruntime", says=says, detail=detail, mend=mend, needed=True)
