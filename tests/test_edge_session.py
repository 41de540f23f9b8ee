"""The seam to the runtimes: ONNX Runtime for real, on nets small enough to compute by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd2edge import shelves
from kd2edge.edge.fake import FakeBackend
from kd2edge.edge.session import Backend, open_backend
from kd2edge.errors import UserError
from kd2edge.schema import Target

TARGET = Target(about="here", backend="onnxruntime", flavour="ort-x86", precisions=("fp32",), threads=1)


def pooled_linear(path: Path, weights: np.ndarray, batch: str | int = "N", elem: int = TensorProto.FLOAT) -> Path:
    """ONNX of y = mean over the pixels of x, times `weights` [C, D]; x is [batch, C, 4, 4]."""
    channels, dim = weights.shape
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", elem, [batch, channels, 4, 4])],
        [helper.make_tensor_value_info("y", elem, [batch, dim])],
        [numpy_helper.from_array(weights.astype(helper.tensor_dtype_to_np_dtype(elem)), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 3, 4, 4)).astype(np.float32)


def test_onnxruntime_computes_what_the_graph_says(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    path = pooled_linear(tmp_path / "net.onnx", weights)
    backend = open_backend("onnxruntime")
    assert backend.available() is None
    assert backend.build(path, TARGET, tmp_path / "unused") == path
    with backend.open(path, TARGET) as session:
        assert session.provider == "CPUExecutionProvider"
        assert session.fixed_batch is None
        assert set(session.versions) == {"onnxruntime"}
        for n in (1, 7):
            x = pixels(n)
            np.testing.assert_allclose(session.infer(x), x.mean((2, 3)) @ weights, rtol=1e-5, atol=1e-6)


def test_outputs_are_flattened_to_rows(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "relu.onnx"))
    with open_backend("onnxruntime").open(tmp_path / "relu.onnx", TARGET) as session:
        y = session.infer(pixels(2))
    assert y.shape == (2, 48)
    assert y.dtype == np.float32


def test_a_wrong_shape_names_both_shapes(tmp_path: Path) -> None:
    path = pooled_linear(tmp_path / "net.onnx", np.eye(3))
    with open_backend("onnxruntime").open(path, TARGET) as session:
        with pytest.raises(UserError, match=r"takes \[N, 3, 4, 4\].*given \[1, 1, 4, 4\]"):
            session.infer(np.zeros((1, 1, 4, 4), np.float32))
        with pytest.raises(UserError, match=r"given \[3, 4, 4\]"):
            session.infer(np.zeros((3, 4, 4), np.float32))


def test_a_fixed_batch_is_told_and_kept(tmp_path: Path) -> None:
    path = pooled_linear(tmp_path / "net.onnx", np.eye(3), batch=2)
    with open_backend("onnxruntime").open(path, TARGET) as session:
        assert session.fixed_batch == 2
        assert session.infer(pixels(2)).shape == (2, 3)
        with pytest.raises(UserError, match=r"\[2, 3, 4, 4\]"):
            session.infer(pixels(1))


def test_files_that_are_no_models_are_user_errors(tmp_path: Path) -> None:
    backend = open_backend("onnxruntime")
    with pytest.raises(UserError, match="no model file"):
        backend.open(tmp_path / "none.onnx", TARGET)
    damaged = pooled_linear(tmp_path / "net.onnx", np.eye(3))
    whole = damaged.read_bytes()
    for content, why in ((whole[:40], "cannot be read as ONNX"), (whole.replace(b"MatMul", b"MatNul"), "cannot load")):
        damaged.write_bytes(content)
        with pytest.raises(UserError, match=why):
            backend.open(damaged, TARGET)


def test_a_half_precision_input_is_refused(tmp_path: Path) -> None:
    path = pooled_linear(tmp_path / "net.onnx", np.eye(3), elem=TensorProto.FLOAT16)
    with pytest.raises(UserError, match=r"tensor\(float16\)"):
        open_backend("onnxruntime").open(path, TARGET)


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 4, 4]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "two.onnx"))
    with pytest.raises(UserError, match="2 inputs and 1 outputs"):
        open_backend("onnxruntime").open(tmp_path / "two.onnx", TARGET)


@pytest.mark.parametrize("name", shelves.names(shelves.BACKENDS))
def test_every_back_end_says_whether_it_can_run_here(name: str) -> None:
    backend = open_backend(name)
    assert isinstance(backend, Backend)
    assert backend.name == name
    said = backend.available()
    assert said is None or (len(said) > 20 and "\n" not in said)


def test_an_unknown_back_end_is_a_user_error() -> None:
    with pytest.raises(UserError, match="onnxruntime"):
        open_backend("onnxruntim")


def test_the_fake_is_deterministic_and_keeps_its_own_time(tmp_path: Path) -> None:
    path = pooled_linear(tmp_path / "net.onnx", np.eye(3))
    backend = FakeBackend(dim=4, latencies_ms=(1.0, 3.0))
    copy = backend.build(path, TARGET, tmp_path / "net.engine")
    with backend.open(copy, TARGET) as one, backend.open(copy, TARGET) as two:
        np.testing.assert_array_equal(one.infer(pixels(3)), two.infer(pixels(3)))
        one.infer(pixels(1))
        assert one.clock() == 4_000_000
        assert two.clock() == 1_000_000
    assert one.closed
    with pytest.raises(UserError):
        backend.open(tmp_path / "none", TARGET)


def test_the_edge_wing_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import kd2edge.edge.bench, kd2edge.edge.gate, kd2edge.edge.worker, kd2edge.edge.fake\n"
        "from kd2edge import shelves; from kd2edge.edge.session import open_backend\n"
        "[open_backend(name) for name in shelves.names(shelves.BACKENDS)]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
