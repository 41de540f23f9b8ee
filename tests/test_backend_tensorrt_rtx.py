"""NVIDIA's own parser and builder as a judge, without a GPU: what they refuse becomes a sentence with its mend."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd2edge.artifact import open_artifact
from kd2edge.edge.backends.tensorrt_rtx import TensorRTForRTX
from kd2edge.edge.session import Backend, open_backend
from kd2edge.edge.trt_errors import refusal
from kd2edge.errors import UserError
from kd2edge.schema import BatchRange, Build, Target

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'kd2edge[rtx]'")

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32)
DENSE = RANDOM.standard_normal((4, 8)).astype(np.float32)


@pytest.fixture
def backend() -> Backend:
    return open_backend("tensorrt_rtx")


def target(*capabilities: str) -> Target:
    return Target(
        about="test",
        backend="tensorrt_rtx",
        flavour="tensorrt",
        precisions=("fp32", "fp16", "int8"),
        batch=BatchRange(max=4),
        compute_capabilities=capabilities or ("8.6",),
        workspace_mib=64,
    )


def save(path: Path, nodes: list[onnx.NodeProto], batch: str | int = "N", **constants: np.ndarray) -> Path:
    """A net of `nodes` from `x` [batch, 3, 16, 16] to `c` [batch, 8, ...], with a pooled linear layer behind it."""
    tail = [
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "dense"], ["y"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes + tail,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in {"dense": DENSE, **constants}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def fp32(path: Path, batch: str | int = "N") -> Path:
    return save(path, [helper.make_node("Conv", ["x", "w"], ["c"], name="conv")], batch, w=KERNEL)


def fp16(path: Path) -> Path:
    nodes = [
        helper.make_node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["xh", "w"], ["ch"], name="conv"),
        helper.make_node("Cast", ["ch"], ["c"], to=TensorProto.FLOAT),
    ]
    return save(path, nodes, w=KERNEL.astype(np.float16))


def int8(path: Path, *, bias: str | None = "float", pad: bool = False) -> Path:
    """A Q/DQ convolution; `bias` "int32" is dequantized and `pad` puts a Pad with a quantized constant in front."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="x_q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="x_dq"),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"], name="w_dq"),
    ]
    image = "xd"
    constants = {"s": np.float32(0.05), "z": np.int8(0), "wq": np.int8(RANDOM.integers(-127, 128, KERNEL.shape))}
    if pad:
        nodes.append(helper.make_node("DequantizeLinear", ["kq", "s", "z"], ["kd"], name="k_dq"))
        nodes.append(helper.make_node("Pad", ["xd", "pads", "kd"], ["padded"], name="pad"))
        constants |= {"kq": np.int8(0), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
        image = "padded"
    if bias == "int32":
        nodes.append(helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["b"], name="b_dq", axis=0))
        constants |= {"bq": np.zeros(8, np.int32), "bs": np.full(8, 0.0025, np.float32), "bz": np.zeros(8, np.int32)}
    else:
        constants["b"] = np.zeros(8, np.float32)
    nodes.append(helper.make_node("Conv", [image, "wd", "b"], ["c"], name="conv"))
    return save(path, nodes, **constants)


@pytest.mark.parametrize("make", [fp32, fp16, int8])
def test_a_good_graph_becomes_an_engine(
    make: Callable[[Path], Path], backend: Backend, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = backend.build(make(tmp_path / "net.onnx"), target(), tmp_path / "net.engine")
    assert engine == tmp_path / "net.engine"
    assert engine.stat().st_size > 10_000
    assert capfd.readouterr() == ("", "")


def test_one_engine_holds_several_compute_capabilities(backend: Backend, tmp_path: Path) -> None:
    net = fp32(tmp_path / "net.onnx")
    one = backend.build(net, target("8.6"), tmp_path / "one.engine")
    five = backend.build(net, target("8.0", "8.6", "8.9", "12.0", "12.1"), tmp_path / "five.engine")
    assert five.stat().st_size > one.stat().st_size


def test_a_fixed_batch_needs_no_profile_of_the_target(backend: Backend, tmp_path: Path) -> None:
    assert backend.build(fp32(tmp_path / "net.onnx", batch=7), target(), tmp_path / "net.engine").is_file()


def test_an_int32_bias_is_named_with_its_mend(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        backend.build(int8(tmp_path / "net.onnx", bias="int32"), target(), tmp_path / "net.engine")
    assert "node 'b_dq' (DequantizeLinear" in caught.value.message
    assert "bq int32 [8]" in caught.value.message
    assert "must have type" in caught.value.message
    assert "cudaError" not in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None
    assert "bias stays float" in caught.value.hint
    assert not (tmp_path / "net.engine").exists()


def test_a_quantized_pad_constant_is_named_with_its_mend(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"refuses node 'k_dq'.*kq int8") as caught:
        backend.build(int8(tmp_path / "net.onnx", pad=True), target(), tmp_path / "net.engine")
    assert caught.value.hint is not None
    assert "constant of a Pad" in caught.value.hint


def test_fp32_products_for_turing_are_named_with_their_mend(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"node 'fc' \(Gemm.*FP32 GEMM is not supported") as caught:
        backend.build(fp32(tmp_path / "net.onnx"), target("7.5"), tmp_path / "net.engine")
    assert caught.value.hint is not None
    assert "drop 7.5" in caught.value.hint


def quantized_by(path: Path, scale: float, zero: int, weight_scale: float = 0.05) -> Path:
    """A Q/DQ convolution whose activation has that step and zero point."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="x_q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="x_dq"),
        helper.make_node("DequantizeLinear", ["wq", "ws"], ["wd"], name="w_dq"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], name="conv"),
    ]
    scales = {"s": np.float32(scale), "z": np.int8(zero), "ws": np.float32(weight_scale)}
    return save(path, nodes, wq=np.int8(RANDOM.integers(-127, 128, KERNEL.shape)), **scales)


@pytest.mark.parametrize(
    ("scale", "zero", "weight_scale", "node", "mend"),
    [
        (0.05, 5, 0.05, "x_q", "zero points are 0"),
        (0.0, 0, 0.05, "x_q", "a step of 0"),
        (0.05, 0, 0.0, "w_dq", "a step of 0"),
    ],
)
def test_a_quantization_it_cannot_take_is_named_with_its_mend(
    scale: float, zero: int, weight_scale: float, node: str, mend: str, backend: Backend, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"refuses node '{node}'") as caught:
        backend.build(quantized_by(tmp_path / "net.onnx", scale, zero, weight_scale), target(), tmp_path / "net.engine")
    assert caught.value.hint is not None
    assert mend in caught.value.hint


def test_weights_that_do_not_fit_are_named(backend: Backend, tmp_path: Path) -> None:
    wide = RANDOM.standard_normal((8, 5, 3, 3)).astype(np.float32)
    net = save(tmp_path / "net.onnx", [helper.make_node("Conv", ["x", "w"], ["c"], name="conv")], w=wide)
    with pytest.raises(UserError, match=r"refuses node 'conv'.*w float \[8, 5, 3, 3\]") as caught:
        backend.build(net, target(), tmp_path / "net.engine")
    assert "do not fit" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        ("p2o.DequantizeLinear.1357: only activation types allowed as input to this layer.", "bias stays float"),
        ("Error Code 10: Internal Error (Could not find any implementation for node Conv_3.)", "workspace_mib"),
        ("Error Code 9: API Usage Error (Target GPU SM 87 is not supported by this TensorRT release.)", "JetPack"),
        ("Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)", "close what else uses the GPU"),
    ],
)
def test_what_only_tensorrt_says_is_known_from_reports(message: str, mend: str, tmp_path: Path) -> None:
    """Messages as they stand in reports to NVIDIA: none of them can be provoked here."""
    assert mend in (refusal("TensorRT", fp32(tmp_path / "net.onnx"), [message]).hint or "")


@pytest.mark.parametrize("option", ["dla_core", "version_compatible", "hardware_compatibility"])
def test_what_rtx_does_not_know_is_refused(option: str, backend: Backend, tmp_path: Path) -> None:
    value = {"dla_core": 0, "version_compatible": True, "hardware_compatibility": "ampere_plus"}[option]
    goal = target().model_copy(update={"build": Build.model_validate({option: value}), "dla_cores": 1})
    with pytest.raises(UserError, match=f"TensorRT for RTX does not know build.{option}"):
        backend.build(fp32(tmp_path / "net.onnx"), goal, tmp_path / "net.engine")


def test_the_manifest_tells_how_it_was_built(backend: Backend, tmp_path: Path) -> None:
    goal = target("8.0", "8.6").model_copy(update={"build": Build(optimization_level=5)})
    engine = backend.build(fp32(tmp_path / "net.onnx"), goal, tmp_path / "net.engine")
    manifest = open_artifact(engine).manifest
    build = manifest.details["build"]
    assert build["optimization_level"] == 5
    assert build["workspace_mib"] == 64
    assert build["compute_capabilities"] == ["8.0", "8.6"]
    assert build["profile"] == {"x": [[1, 3, 16, 16], [1, 3, 16, 16], [4, 3, 16, 16]]}
    assert build["timing_cache"] is None  # RTX has none
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.engine", "net.engine.manifest.json", "net.onnx"]
    if backend.available() is not None:
        assert manifest.details["layers"] is None
        assert manifest.details["layers_unknown"] == backend.available()


def test_an_unknown_operator_is_named(backend: Backend, tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["k"]), helper.make_node("Det", ["k"], ["c"], name="odd")]
    with pytest.raises(UserError, match=r"node 'odd' \(Det.*not supported") as caught:
        backend.build(save(tmp_path / "net.onnx", nodes, w=KERNEL), target(), tmp_path / "net.engine")
    assert caught.value.hint is not None
    assert "operator" in caught.value.hint


def test_mixed_types_are_named_with_their_mend(backend: Backend, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["xh", "w"], ["c"], name="conv"),
    ]
    with pytest.raises(UserError, match=r"node 'conv' \(Conv; inputs: xh float16.*w float \[8, 3, 3, 3\]") as caught:
        backend.build(save(tmp_path / "net.onnx", nodes, w=KERNEL), target(), tmp_path / "net.engine")
    assert caught.value.hint is not None
    assert "cast" in caught.value.hint


def test_a_damaged_file_never_reaches_the_parser(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"net\.onnx cannot be read as ONNX"):
        backend.build(tmp_path / "net.onnx", target(), tmp_path / "net.engine")
    with pytest.raises(UserError, match="There is no ONNX file"):
        backend.build(tmp_path / "none.onnx", target(), tmp_path / "net.engine")


def test_an_unknown_compute_capability_names_the_known(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"compute capability 8\.7") as caught:
        backend.build(fp32(tmp_path / "net.onnx"), target("8.7"), tmp_path / "net.engine")
    assert caught.value.hint is not None
    assert "8.6, 8.9, 12.0" in caught.value.hint


def test_a_dynamic_image_size_is_refused(backend: Backend, tmp_path: Path) -> None:
    model = onnx.load(str(fp32(tmp_path / "net.onnx")))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(UserError, match="only its batch may be dynamic"):
        backend.build(tmp_path / "net.onnx", target(), tmp_path / "net.engine")


def test_running_without_a_driver_says_so(backend: Backend, tmp_path: Path) -> None:
    reason = backend.available()
    if reason is None:
        pytest.skip("an NVIDIA driver and pycuda are here")
    engine = backend.build(fp32(tmp_path / "net.onnx"), target(), tmp_path / "net.engine")
    with pytest.raises(UserError, match="TensorRT for RTX"):
        backend.open(engine, target())


def test_engines_may_be_captured_and_their_kernels_wait_for_no_second_call(backend: Backend) -> None:
    """The flag on a real config; the execution context on a stand-in with the binding's own strategies."""
    trt: Any = pytest.importorskip("tensorrt_rtx")
    assert isinstance(backend, TensorRTForRTX)
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    backend.for_devices(trt, config, target())
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    how = SimpleNamespace(dynamic_shapes_kernel_specialization_strategy=None)
    engine = SimpleNamespace(create_runtime_config=lambda: how, create_execution_context=lambda given: given)
    assert backend.execution(trt, engine) is how
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert how.dynamic_shapes_kernel_specialization_strategy == eager
