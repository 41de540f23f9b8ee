"""The table of layers, from inspector output in the shapes that TensorRT 8.5 to 10.x write it (see the sources named).

The texts are made here after recordings: NVIDIA's page on the engine inspector (int8 convolution, dynamic shapes),
NVIDIA/TensorRT issues 3583 (10-column residual layer, TF32), 4020 (reformats), 4048 (names alone) and third parties'
recordings of Myelin's layers (kgen, gemm, fusion). No engine was inspected on this machine.
"""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kd2edge.edge.trt_layers import (
    Layer,
    inspect,
    int8_expected,
    layer_times,
    parse_layers,
    report,
    residual_adds,
    summary,
    table_path,
    timed,
    told,
)
from kd2edge.errors import UserError
from kd2edge.graph.quantize import quantize_model
from tests import graphs

INT8_TACTIC = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize64x96x64"
HALF_TACTIC = "sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x64_tensor16x8x16"
TF32_TACTIC = "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize128x128x16_stage4_warpsize2x2x1_tensor16x8x8"


def tensor(kind: str) -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": [1, 16, 8, 8], "Format/Datatype": kind}


def entry(name: str, kind: str = "CaskConvolution", **fields: Any) -> dict[str, Any]:
    plain = {"Name": name, "LayerType": kind, "Inputs": [], "Outputs": [], "TacticValue": "0x11", "StreamId": 0}
    return plain | fields


def of(*nodes: str, separator: str = "\x1e") -> str:
    return separator.join(f"[ONNX Layer: {node}]" for node in nodes)


def parsed(*entries: Any) -> list[Layer]:
    return parse_layers(json.dumps({"Layers": list(entries), "Bindings": ["images", "y"]}))


@pytest.mark.parametrize(
    ("fields", "precision"),
    [
        ({"TacticName": INT8_TACTIC}, "int8"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs"}, "int8"),
        ({"TacticName": HALF_TACTIC}, "fp16"),
        ({"TacticName": "ampere_h16816gemm_64x64"}, "fp16"),
        ({"TacticName": TF32_TACTIC}, "fp32"),
        ({"TacticName": "sm50_xmma_cublas_smallN_NN_f32f32_f32_f32_nn"}, "fp32"),
        ({"TacticName": "volta_scudnn_128x64_relu_medium_nn_v1"}, "fp32"),
        ({"TacticName": "sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn"}, "other"),
        ({"Inputs": [tensor("Thirty-two wide channel vectorized row major Int8 format.")]}, "int8"),
        ({"Inputs": [tensor("Row major linear FP16 format")]}, "fp16"),
        ({"Inputs": [tensor("Channel major FP32 format where channel % 4 == 0")]}, "fp32"),
        ({"Inputs": [tensor("Half")], "Outputs": [tensor("Float")]}, "fp16"),
        ({"Inputs": [{"Name": "x", "Datatype": "BFloat16"}]}, "other"),
        ({"Outputs": [tensor("Float")]}, "fp32"),
        ({"Inputs": [tensor("N/A due to dynamic shapes")], "Weights": {"Type": "Int8", "Count": 9}}, "int8"),
        (
            {"Inputs": [tensor("N/A due to dynamic shapes")], "Outputs": [tensor("N/A due to dynamic shapes")]},
            "unknown",
        ),
        ({"Inputs": [tensor("Int8")], "Weights": {"Type": "Float", "Count": 9}}, "fp32"),
        ({"Inputs": [tensor("Int8")], "TacticName": TF32_TACTIC}, "fp32"),
        ({"TacticName": "pointwise_vectorized"}, "unknown"),
    ],
)
def test_the_kernel_tells_the_precision_then_its_weights_then_what_it_reads(
    fields: dict[str, Any], precision: str
) -> None:
    (layer,) = parsed(entry("conv", **fields))
    assert layer.precision == precision


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", "", " "])
def test_metadata_names_the_nodes_once_each(separator: str) -> None:
    (layer,) = parsed(entry("fused", Metadata=of("/a/Conv", "b[0]", "/a/Conv", separator=separator)))
    assert layer.nodes[0] == "/a/Conv"
    assert len(layer.nodes) == 2


def test_metadata_may_tell_a_function() -> None:
    (layer,) = parsed(entry("fused", Metadata="[ONNX Layer: gelu | layer_3 (Block)]"))
    assert layer.nodes == ("gelu",)


def test_without_metadata_the_name_tells() -> None:
    (layer,) = parsed(entry("stem.weight + stem_q + Conv_0 + PWN(PWN(Relu_2), Add_3)", Metadata=""))
    assert {"Conv_0", "stem_q"} <= {*layer.nodes}
    (bare,) = parsed("Conv_0 + Relu_2")
    assert (bare.nodes, bare.precision, bare.kind) == (("Conv_0", "Relu_2"), "unknown", "unknown")


@pytest.fixture(scope="module")
def net() -> onnx.GraphProto:
    """A residual net in INT8: its Conv and Gemm nodes read dequantized data and weights."""
    return quantize_model(graphs.residual_net(), [graphs.images(4)], "tensorrt", "minmax").model.graph


def engine_of(net: onnx.GraphProto, *, fuse: bool = True) -> list[dict[str, Any]]:
    """The layers of a builder that puts each product in a layer of its own, and each addition behind the last."""
    quantized = {*int8_expected(net)}
    entries: list[dict[str, Any]] = [entry("Reformatting CopyNode for Input Tensor 0 to Conv_0", "Reformat")]
    for node in net.node:
        if node.op_type in ("Conv", "Gemm"):
            tactic = INT8_TACTIC if node.name in quantized else HALF_TACTIC
            entries.append(entry(node.name, TacticName=tactic, Metadata=of(node.name)))
        elif node.op_type == "Add" and fuse:
            entries[-1]["Metadata"] += "\x1f" + of(node.name)
        elif node.op_type == "Add":
            entries.append(entry(node.name, "PointWiseV2", Metadata=of(node.name), Inputs=[tensor("Half")]))
    return entries


def test_an_engine_that_does_as_the_graph_says(net: onnx.GraphProto) -> None:
    expected, adds = list(int8_expected(net)), residual_adds(net)
    assert len(expected) == 5  # the first convolution and the last product stay float
    assert len(adds) == 2
    found = summary(parsed(*engine_of(net)), net)
    assert found["int8"] == found["int8_expected"] == len(expected)
    assert (found["int8_missing"], found["int8_unknown"]) == ([], [])
    assert (found["adds"], found["fused_adds"], found["reformats"]) == (2, 2, 1)
    assert found["fp16"] == 2
    assert found["layers"] == len(expected) + 3
    sentence = told(found)
    assert f"{len(expected)} of {len(expected)} quantized products run in INT8." in sentence
    assert "2 of 2 additions fused" in sentence


def test_a_product_that_fell_back_is_named(net: onnx.GraphProto) -> None:
    entries = engine_of(net, fuse=False)
    victim = next(e for e in entries if e.get("TacticName") == INT8_TACTIC)
    victim["TacticName"] = TF32_TACTIC
    found = summary(parsed(*entries), net)
    assert found["int8_missing"] == [victim["Name"]]
    assert found["fused_adds"] == 0
    assert f"not {victim['Name']}" in told(found)


def test_a_pointwise_kernel_that_reads_int8_does_not_speak_for_a_convolution(net: onnx.GraphProto) -> None:
    entries = engine_of(net)
    victim = next(e for e in entries if e.get("TacticName") == INT8_TACTIC)
    victim["TacticName"] = HALF_TACTIC
    entries.append(entry("__myl_Move", "kgen", Inputs=[tensor("Int8")], Metadata=of(victim["Name"])))
    assert summary(parsed(*entries), net)["int8_missing"] == [victim["Name"]]


def test_what_no_layer_tells_is_not_called_proved(net: onnx.GraphProto) -> None:
    found = summary(parsed("{ForeignNode[Conv_0...Gemm_21]}"), net)
    assert len(found["int8_unknown"]) == found["int8_expected"] > 0
    assert found["unknown"] == found["layers"] == 1
    assert "nothing is told" in told(found)


def test_a_transposed_weight_is_still_dequantized() -> None:
    weight = numpy_helper.from_array(np.ones((4, 8), np.int8), "wq")
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["wq", "s"], ["wd"], "wdq"),
        helper.make_node("Transpose", ["wd"], ["wt"], "t"),
        helper.make_node("MatMul", ["xd", "wt"], ["y"], "product"),
        helper.make_node("MatMul", ["x", "wt"], ["z"], "half_done"),
    ]
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
    assert list(int8_expected(helper.make_graph(nodes, "g", [shape], [], [weight, scale]))) == ["product"]


def test_a_float_graph_expects_no_int8() -> None:
    found = summary(parsed(entry("Conv_0", TacticName=TF32_TACTIC, Metadata=of("Conv_0"))), graphs.residual_net().graph)
    assert found["int8_expected"] == 0
    assert "quantized" not in told(found)


def test_times_are_means_by_layer_name() -> None:
    times = layer_times(SimpleNamespace(IProfiler=type("IProfiler", (), {})))
    for name, milliseconds in (("a", 1.0), ("b", 0.5), ("a", 3.0)):
        times.report_layer_time(name, milliseconds)
    assert times.mean_ms() == {"a": 2.0, "b": 0.5}
    layers = timed(parsed(entry("a"), entry("b"), entry("c")), times.mean_ms())
    assert [layer.ms for layer in layers] == [2.0, 0.5, None]


def test_rtx_takes_the_profiler() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    times = layer_times(trt)
    assert isinstance(times, trt.IProfiler)
    times.report_layer_time("a", 1.0)
    assert times.mean_ms() == {"a": 1.0}


class Inspector:
    execution_context: object = None

    def get_engine_information(self, form: object) -> str:
        return f"{form} {self.execution_context}"


def test_the_inspector_is_asked_for_the_shape_that_runs() -> None:
    trt = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))
    assert inspect(trt, SimpleNamespace(create_engine_inspector=Inspector), "context") == "json context"


def test_the_table_lies_beside_the_engine(net: onnx.GraphProto) -> None:
    layers = parsed(*engine_of(net))
    table = json.loads(report(layers, summary(layers, net)))
    assert table["summary"]["layers"] == len(table["layers"])
    assert set(table["layers"][1]) == {"name", "kind", "nodes", "precision", "tactic", "ms"}
    assert table_path(Path("a/net.engine")) == Path("a/net.engine.layers.json")


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"Layers": 3}', '{"Layers": {}}', "Layer Information", "[" * 5000]
)
def test_what_is_no_table_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError, match="says nothing that is understood"):
        parse_layers(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["Name", "LayerType", "Inputs", "Outputs", "Weights", "TacticName", "TacticValue", "Metadata"]
ENTRY = st.dictionaries(st.sampled_from(FIELDS), JSON | st.lists(st.fixed_dictionaries({"Format/Datatype": JSON})))


PLAIN = graphs.residual_net().graph


@settings(max_examples=200, deadline=None)
@given(st.lists(ENTRY | JSON, max_size=5))
def test_no_content_crashes_it(entries: list[Any]) -> None:
    layers = parsed(*entries)
    assert len(layers) == len(entries)
    told(summary(layers, PLAIN))
    assert report(layers, {})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_crashes_it(data: st.DataObject) -> None:
    text = json.dumps({"Layers": [entry("Conv_0", TacticName=INT8_TACTIC, Metadata=of("Conv_0", "Relu_1"))]})
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.text(max_size=3)) + text[place + data.draw(st.integers(0, 9)) :]
    with contextlib.suppress(UserError):
        parse_layers(damaged)
