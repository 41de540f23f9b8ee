"""A tiny classifier with its manifest and its images, a suite that takes a second, and a wheelhouse kept for the next
session."""

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd2edge import artifact
from kd2edge.artifact import Artifact
from kd2edge.data import decoder_name
from kd2edge.errors import UserError
from kd2edge.schema import Plugin, Preprocessing, Target
from kd2edge.verbs import remote_kit
from kd2edge.verbs.remote_wheels import here, wheels
from tests.tiny import COLOURS, image_folder

KEPT = Path(tempfile.gettempdir()) / f"kd2edge-tests-wheels-{os.getuid()}"
SIZE = 16
ORT = Target(about="there", backend="onnxruntime", flavour="ort-x86", precisions=("fp32",))
SUITE = """
about: A second's worth of everything
latency: {batch: 1, warmup_ms: 2, seconds: 0.03, min_samples: 9}
regressions: false
rules:
  - {metric: size, of: fp32, at_most: 1.0, why: it is tiny}
"""


def model(folder: Path) -> Artifact:
    """An ONNX file that tells three colours apart, and the images it does so on, in a folder of its own."""
    images = image_folder(folder / "images", per_class=8)
    colours = np.array(list(COLOURS.values()), np.float32) / 255
    weights = np.repeat((colours - colours.mean(0)).T, SIZE * SIZE, axis=0)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    path = folder / "it's a model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    preprocessing = Preprocessing(
        size=(SIZE, SIZE), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.5,) * 3, decoder=decoder_name("bilinear")
    )
    options = {"size": SIZE, "color": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3}
    data = Plugin.model_validate({"name": "imagefolder", "path": str(images), **options})
    fields = {"task": "classification", "output": "logits", "classes": tuple(COLOURS), "preprocessing": preprocessing}
    return artifact.describe(path, kind="onnx", role="fp32", verb="test", data=data, **fields)


def wheelhouse(cache: Path, *targets: Target) -> None:
    """Make `cache` the one of kd2edge's that has the wheels for this Python; skips where they cannot be fetched."""
    KEPT.mkdir(exist_ok=True)
    (cache / "kd2edge").mkdir(parents=True)
    (cache / "kd2edge" / "wheels").symlink_to(KEPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        try:
            for target in targets:
                wheels(target, here(), remote_kit.cache())
        except UserError as fault:
            pytest.skip(f"no wheelhouse: {fault.message}")
