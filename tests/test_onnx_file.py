"""Looking at an ONNX file before it is parsed: where its weights lie, and whether it would burst."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, helper, numpy_helper

from kd2edge import onnx_file
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.graph.load import load_model
from kd2edge.graph.run import run_onnx
from kd2edge.onnx_file import INNER, require_safe, require_whole
from kd2edge.schema import Target
from tests.graphs import images, residual_net

TARGET = Target(about="here", backend="onnxruntime", flavour="ort-x86", precisions=("fp32",))
READERS = ("require_safe", "load_model", "run_onnx", "backend")


def read(how: str, path: Path) -> None:
    """Every way by which an ONNX file is read."""
    if how == "require_safe":
        require_safe(path)
    elif how == "load_model":
        load_model(path)
    elif how == "run_onnx":
        run_onnx(path, images(1))
    else:
        with open_backend("onnxruntime").open(path, TARGET) as session:
            session.infer(images(1))


def external(folder: Path, **changed: str | None) -> Path:
    """The residual net with its weights in `weights.bin`, the place of the first of them `changed`."""
    path = folder / "model.onnx"
    onnx.save(residual_net(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=16)
    model = onnx.load(str(path), load_external_data=False)
    first = next(tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL)
    told = {entry.key: entry.value for entry in first.external_data} | changed
    del first.external_data[:]
    for key, value in told.items():
        if value is not None:
            first.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def holders(message: Descriptor, seen: dict[str, bool]) -> bool:
    """Whether a message can hold a tensor, at any depth; `seen` collects all that were asked."""
    if message.name == "TensorProto":
        return True
    if message.name not in seen:
        seen[message.name] = False  # for the cycle graph → node → attribute → graph, asked again below
        seen[message.name] = any([holders(f.message_type, seen) for f in message.fields if f.message_type])
    return seen[message.name]


def test_the_walk_visits_whatever_can_hold_a_tensor_by_the_installed_onnx() -> None:
    waiting, expected = [ModelProto.DESCRIPTOR], {}
    while waiting:
        message = waiting.pop()
        inner = {f.number: f.message_type for f in message.fields if f.message_type and holders(f.message_type, {})}
        if message.name == "TensorProto":
            inner = {f.number: f.message_type for f in message.fields if f.name == "external_data"}
        if inner and message.name not in expected:
            expected[message.name] = {number: kind.name for number, kind in inner.items()}
            waiting += inner.values()
    assert {name: dict(fields) for name, fields in INNER.items()} == expected


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    path = external(tmp_path)
    whole = run_onnx(residual_net(), images(1))
    for how in READERS:
        read(how, path)
    np.testing.assert_allclose(run_onnx(load_model(path), images(1)), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run_onnx(path, images(1)), whole, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="does not vouch"):
        require_whole(path.read_bytes(), path)


PLACES: dict[str, dict[str, str | None]] = {
    "absolute": {"location": "/etc/passwd"},
    "above": {"location": "../secret.bin"},
    "above, in disguise": {"location": "sub/../../secret.bin"},
    "a device": {"location": "/dev/zero"},
    "itself a folder": {"location": "."},
    "nothing": {"location": ""},
    "not told": {"location": None},
    "a NUL": {"location": "weights.bin\0.txt"},
    "by a link": {"location": "link.bin"},
    "by a folder that is a link": {"location": "way/secret.bin"},
    "a pipe": {"location": "pipe"},
    "a lost file": {"location": "gone.bin"},
    "past the end": {"offset": "4096", "length": "999999999999"},
    "an offset past the end": {"offset": "999999999999", "length": None},
    "a negative offset": {"offset": "-1"},
    "a negative length": {"length": "-4"},
    "digits of another script": {"length": "٣"},
    "no number": {"length": "1e3"},
    "in other words": {"basepath": "/etc"},
    "an address in memory": {"location": "*/_ORT_MEM_ADDR_/*"},
    "a name that no disk takes": {"location": "ä" * 200},
    "a number of a thousand digits": {"offset": "9" * 1000},
}


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("place", PLACES)
def test_weights_anywhere_else_are_refused(place: str, how: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "way").symlink_to(tmp_path)
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (folder / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(1 << 16))
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match=r"model"):
        read(how, external(folder, **PLACES[place]))


@pytest.mark.parametrize("how", READERS)
def test_a_file_is_read_as_onnx_whatever_its_name(how: str, tmp_path: Path) -> None:
    """ONNX Runtime has another format, by the name: what was looked at has to be what is loaded."""
    path = tmp_path / "model.ort"
    onnx.save(residual_net(), str(path), format="protobuf")
    read(how, path)


def test_a_builder_of_engines_is_given_neither_such_weights_nor_what_onnx_forbids(tmp_path: Path) -> None:
    """The second ends TensorRT for RTX 1.7.1 by a signal, in its parser."""
    pytest.importorskip("tensorrt_rtx")
    target = Target(about="r", backend="tensorrt_rtx", flavour="tensorrt", precisions=("fp32",))
    path = external(tmp_path, location="../secret.bin")
    without = residual_net()
    without.graph.node[14].output.pop()
    for content, why in (
        (path.read_bytes(), "does not name a file within"),
        (without.SerializeToString(), "not a valid"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=why):
            open_backend("tensorrt_rtx").build(path, target, tmp_path / "engine")


def test_a_name_that_is_no_text_is_told_of_weights_beside_the_model_too(tmp_path: Path) -> None:
    path = external(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"constant_1", b"constant\xed1"))
    with pytest.raises(UserError, match="is no UTF-8 text"):
        load_model(path)


def test_weights_that_many_tensors_share_do_not_add_up_to_terabytes(tmp_path: Path) -> None:
    path = external(tmp_path)
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.truncate(1 << 30)  # sparse
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value="weights.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"bytes of weights in other files"):
        load_model(path)


def nested(depth: int) -> ModelProto:
    """An If in an If in an If ..., the innermost with a constant from elsewhere."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    for _ in range(depth):
        inner = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", 1, [1])])
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return helper.make_model(helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", 1, [1])]))


def test_a_constant_deep_in_a_branch_is_found_and_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(nested(2).SerializeToString())
    with pytest.raises(UserError, match="etc/passwd"):
        require_safe(path)
    path.write_bytes(nested(1).SerializeToString())
    with pytest.raises(UserError, match="etc/passwd"):
        require_safe(path)
    tag = b""
    for _ in range(200):  # a graph attribute of a node of a graph ...
        for field in (6, 5, 1):
            tag = bytes([field << 3 | 2]) + _varint(len(tag)) + tag
    path.write_bytes(bytes([7 << 3 | 2]) + _varint(len(tag)) + tag)
    with pytest.raises(UserError, match="nested"):
        require_safe(path)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def laughs(levels: int, each: int = 10) -> ModelProto:
    """Functions that call one another `each` times: each ** levels nodes in all."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(levels):
        calls = ("Relu", "") if level == 0 else (f"f{level - 1}", "own")
        nodes = [helper.make_node(calls[0], [f"x{i}"], [f"x{i + 1}"], domain=calls[1]) for i in range(each)]
        functions.append(helper.make_function("own", f"f{level}", ["x0"], [f"x{each}"], nodes, imports))
    x, y = (helper.make_tensor_value_info(name, 1, ["N", 3, 8, 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node(f"f{levels - 1}", ["x"], ["y"], domain="own")], "g", [x], [y])
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("how", READERS)
def test_functions_that_expand_to_billions_of_nodes_are_refused(how: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(laughs(2).SerializeToString())
    require_safe(path)
    path.write_bytes(laughs(12).SerializeToString())
    with pytest.raises(UserError, match="once its functions are expanded"):
        read(how, path)
    loop = laughs(2)
    loop.functions[0].node[0].op_type, loop.functions[0].node[0].domain = "f1", "own"
    path.write_bytes(loop.SerializeToString())
    with pytest.raises(UserError, match="once its functions are expanded"):
        read(how, path)


def test_a_place_that_is_told_twice_is_refused_since_readers_differ_in_which_they_take(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.external_data.add(key="location", value="weights.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="tells its 'location' twice"):
        require_safe(path)


@pytest.mark.parametrize("bomb", ["nodes", "values", "sizes", "text", "too large", "empty"])
def test_bombs_are_refused_before_room_is_made_for_them(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    if bomb == "too large":
        os.truncate(path, 3 << 30)  # sparse
    elif bomb == "text":
        model = residual_net()
        model.doc_string = "x" * (17 << 20)
        path.write_bytes(model.SerializeToString())
    elif bomb != "empty":
        tag = {"nodes": 1, "values": 13, "sizes": 12}[bomb]  # node, value_info, output of a graph
        graph = bytes([tag << 3 | 2, 0]) * (10 << 20)
        path.write_bytes(bytes([7 << 3 | 2]) + _varint(len(graph)) + graph)
    with pytest.raises(UserError, match=r"model\.onnx"):
        load_model(path)


def test_a_long_chain_of_nodes_is_read_in_time_and_a_huge_tensor_is_refused(tmp_path: Path) -> None:
    path, count = tmp_path / "model.onnx", 20_000
    x, y = (helper.make_tensor_value_info(name, 1, ["N", 3, 8, 8]) for name in ("t0", f"t{count}"))
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), ir_version=8)
    model.opset_import[0].version = 17
    path.write_bytes(model.SerializeToString())
    assert len(load_model(path).graph.node) == count
    huge = residual_net()
    huge.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]
    path.write_bytes(huge.SerializeToString())
    with pytest.raises(UserError, match=r"model\.onnx"):
        load_model(path)
    huge.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), "negative"))
    huge.graph.initializer[0].dims[:] = [-3]
    path.write_bytes(huge.SerializeToString())
    with pytest.raises(UserError, match=r"model\.onnx"):
        load_model(path)


def test_real_networks_are_far_from_the_limits() -> None:
    walk = onnx_file._Walk(residual_net().SerializeToString())
    walk.all()
    assert walk.nodes == len(residual_net().graph.node)
    assert walk.fields < onnx_file.FIELDS / 1000
