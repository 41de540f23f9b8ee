"""A float graph as a torch module: operators as ONNX defines them, and the rest refused before anything is run."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kd2edge.errors import UserError
from kd2edge.graph.fold import fold
from kd2edge.graph.parity import run_onnx
from kd2edge.kd.graph_net import GraphNet, put_back
from tests import graphs

pytestmark = pytest.mark.kd


@pytest.mark.parametrize("name", graphs.NETS)
def test_a_graph_in_torch_computes_what_onnxruntime_does(name: str) -> None:
    model = fold(graphs.NETS[name]())
    images = graphs.images(4)
    with torch.no_grad():
        (found,) = GraphNet(model, [model.graph.output[0].name])(torch.from_numpy(images))
    np.testing.assert_allclose(found.numpy(), run_onnx(model, images), rtol=1e-4, atol=1e-4)


CONSTANTS: dict[str, np.ndarray] = {
    "one": np.array([1], np.int64),
    "last": np.array([-1], np.int64),
    "two": np.array([2], np.int64),
    "back": np.array([-1, -2], np.int64),
    "beside": np.array([[[[7]], [[8]]]] * 2, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
}


def single(kind: str, constants: tuple[str, ...] = (), first: str = "images", **attributes: Any) -> onnx.ModelProto:
    """One node on images [2, 3, 1, 1], called "odd"; its other inputs are constants, or the image itself."""
    node = onnx.helper.make_node(kind, [first, *constants], ["out"], "odd", **attributes)
    given = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [2, 3, 1, 1])
    made = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    held = [onnx.numpy_helper.from_array(CONSTANTS[n], n) for n in {first, *constants} & CONSTANTS.keys()]
    opsets = [onnx.helper.make_opsetid("", 18)]
    graph = onnx.helper.make_graph([node], "g", [given], [made], held)
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(
    "model",
    [
        *(single("Flatten", axis=axis) for axis in (0, 1, 2, 4, -1, -3)),
        single("Squeeze"),
        single("Squeeze", ("back",)),
        single("Unsqueeze", ("back",)),
        single("Concat", ("beside",), axis=1),
        single("Concat", ("images",), first="beside", axis=-3),
        single("Slice", ("one", "two", "one")),
        single("Slice", ("last", "two", "", "one")),
        single("Pad", ("pads",)),
    ],
    ids=lambda model: f"{model.graph.node[0].op_type}",
)
def test_an_operator_is_what_onnx_defines(model: onnx.ModelProto) -> None:
    images = np.random.default_rng(3).standard_normal((2, 3, 1, 1)).astype(np.float32)
    (found,) = GraphNet(model, ["out"])(torch.from_numpy(images))
    np.testing.assert_array_equal(found.detach().numpy(), run_onnx(model, images))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (single("Erf"), "Erf"),
        (single("MaxPool", kernel_shape=[1, 1], auto_pad="SAME_UPPER"), "odd pads by auto_pad"),
        (single("AveragePool", kernel_shape=[1, 1], ceil_mode=1), "odd rounds its size up"),
        (single("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]), "odd pads one side more"),
        (single("Pad", ("pads",), mode="edge"), "odd pads by more than a constant"),
        (single("Slice", ("last", "last", "one", "last")), "odd reads backwards"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_torch_does_not_compute_is_told_before_it_is_run(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(UserError, match=words):
        GraphNet(model, ["out"])


def test_values_put_back_keep_everything_else() -> None:
    model = fold(graphs.NETS[next(iter(graphs.NETS))]())
    made = GraphNet(model, [model.graph.output[0].name])
    name = made.order[0]
    changed = put_back(model, {name: torch.zeros_like(made.named()[name])})
    before, after = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, changed))
    assert not after[name].any()
    assert all(np.array_equal(before[key], after[key]) for key in before if key != name)
