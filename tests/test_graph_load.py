"""Reading and writing ONNX files: every fault is a sentence, and no half-written file appears."""

import errno
import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.fold import fold
from kd2edge.graph.load import load_model, save_model
from kd2edge.graph.run import run_onnx
from kd2edge.graph.signature import image_input, set_dynamic_batch
from kd2edge.graph.topology import opset
from tests.graphs import SIZE, Net, images, pooled_net, residual_net


def written(tmp_path: Path, model: ModelProto) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model = residual_net()
    save_model(model, tmp_path / "model.onnx")
    assert load_model(tmp_path / "model.onnx").graph == model.graph
    assert os.listdir(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "folder"])
def test_a_file_that_is_no_model_is_told_in_a_sentence(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path, residual_net())
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "text": b"not a model at all", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UserError, match=r"model\.onnx"):
        load_model(path)


def small_net(*lengths: int) -> ModelProto:
    """A convolution, and a Reshape by constants that a few nodes make of one another."""
    net = Net()
    counted = net.node("Cast", net.node("ConstantOfShape", net.constant(np.array(lengths, np.int64))), to=7)
    last = net.node("Gather", net.constant(np.array([8, 128, 4])), net.constant(np.array([1])), axis=0)
    sizes = net.node("Concat", counted, last, axis=0)
    return net.model(net.node("Reshape", net.prelu(net.norm(net.conv("images", 2, 3, 2))), sizes, channels=128))


def test_constants_are_made_and_terabytes_of_them_are_refused(tmp_path: Path) -> None:
    whole = load_model(written(tmp_path, small_net(1)))
    assert [node.op_type for node in fold(whole).graph.node] == ["Conv", "PRelu", "Reshape"]
    np.testing.assert_allclose(run_onnx(fold(whole), images(2)), run_onnx(whole, images(2)), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="ConstantOfShape_0, a ConstantOfShape, makes a constant of 99,999,999"):
        fold(small_net(10**14))


def test_a_constant_that_cannot_be_computed_stays_and_is_told_when_it_runs() -> None:
    model = small_net(1)
    for tensor in model.graph.initializer:
        if numpy_helper.to_array(tensor).tolist() == [1]:
            tensor.CopyFrom(numpy_helper.from_array(np.array([7]), tensor.name))  # of three
    gather = fold(model).graph.node[0]
    assert gather.op_type == "Gather"
    with pytest.raises(UserError, match=r"cannot be (run|loaded) by ONNX Runtime"):
        run_onnx(fold(model), images(2))


def test_whatever_bits_flip_is_told_in_a_sentence(tmp_path: Path) -> None:
    whole = small_net(1).SerializeToString()
    path, told, fine = tmp_path / "model.onnx", 0, 0
    for seed in range(600):
        chance, bits = random.Random(seed), bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 3])):
            bits[chance.randrange(len(bits))] ^= 1 << chance.randrange(8)
        path.write_bytes(bits)
        try:
            fold(load_model(path))
            fine += 1
        except UserError:
            told += 1
    assert told > 100
    assert fine > 20


@pytest.mark.parametrize("fault", ["a name", "a shape", "no output"])
def test_damage_that_the_checker_passes_is_refused(tmp_path: Path, fault: str) -> None:
    """A name that is no text, and a tensor whose numbers are more than its shape says, a graph for nothing."""
    model = small_net(1)
    if fault == "a shape":
        next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4).dims[2] = 2
    if fault == "no output":
        del model.graph.output[:]
    content = model.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content.replace(b"PRelu_6", b"PRel\xed_6") if fault == "a name" else content)
    with pytest.raises(UserError, match=r"model\.onnx"):
        load_model(tmp_path / "model.onnx")


def test_a_graph_that_fails_on_the_images_is_told() -> None:
    model = pooled_net()
    model.graph.initializer.append(numpy_helper.from_array(np.array([5]), "sixth"))
    model.graph.node.append(
        helper.make_node("Gather", [model.graph.output[0].name, "sixth"], ["picked"], "pick", axis=0)
    )
    model.graph.output[0].name = "picked"
    assert run_onnx(model, images(6)).shape[0] == 1
    with pytest.raises(UserError, match="cannot be run by ONNX Runtime"):
        run_onnx(model, images(2))


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    model = residual_net()
    model.graph.node[3].input[0] = "made by nobody"
    with pytest.raises(UserError, match="not a valid ONNX model"):
        load_model(written(tmp_path, model))


def test_weights_in_a_lost_file_beside_the_model_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(residual_net(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=16)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UserError, match=r"model\.onnx"):
        load_model(path)


def test_an_old_opset_is_raised_and_computes_the_same(tmp_path: Path) -> None:
    old = pooled_net()
    old.opset_import[0].version = 11  # every operator of this net means the same in 11 and 17
    old.ir_version = 6
    loaded = load_model(written(tmp_path, old))
    assert opset(loaded) == 17
    assert loaded.ir_version <= 10
    np.testing.assert_allclose(run_onnx(loaded, images(2)), run_onnx(old, images(2)), rtol=1e-5, atol=1e-6)


def test_initializers_that_ir_3_lists_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    old = pooled_net()
    old.ir_version = 3
    old.opset_import[0].version = 9
    for tensor in old.graph.initializer:
        old.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    assert [value.name for value in load_model(written(tmp_path, old)).graph.input] == ["images"]


@pytest.mark.parametrize("version", [6, 21])
def test_an_opset_outside_what_can_be_read_is_refused(tmp_path: Path, version: int) -> None:
    model = residual_net()
    model.opset_import[0].version = version
    with pytest.raises(UserError, match=f"opset {version}"):
        load_model(written(tmp_path, model))


def test_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    model = residual_net()
    for node in model.graph.node:
        node.name = "" if node.op_type == "Conv" else "same"
    names = [node.name for node in load_model(written(tmp_path, model)).graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


@pytest.mark.parametrize(("version", "ir"), [(12, 8), (21, 8), (17, 11)])
def test_what_tensorrt_10_cannot_read_is_not_written(tmp_path: Path, version: int, ir: int) -> None:
    model = residual_net()
    model.opset_import[0].version, model.ir_version = version, ir
    with pytest.raises(UserError, match=f"opset {version} and IR {ir}"):
        save_model(model, tmp_path / "model.onnx")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old one")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="The disk is full"):
        save_model(residual_net(), path)
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_file_in_a_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written"):
        save_model(residual_net(), tmp_path / "file" / "model.onnx")


def test_the_image_input_is_read_off() -> None:
    given = image_input(residual_net())
    assert (given.name, given.batch, given.channels, given.size) == ("images", None, 3, (SIZE, SIZE))
    assert given.shape == ("batch", 3, SIZE, SIZE)


@pytest.mark.parametrize("fault", ["rank", "type", "free size", "two inputs"])
def test_anything_but_one_image_batch_is_refused(fault: str) -> None:
    model = residual_net()
    tensor = model.graph.input[0].type.tensor_type
    if fault == "rank":
        del tensor.shape.dim[3]
    elif fault == "type":
        tensor.elem_type = TensorProto.UINT8
    elif fault == "free size":
        tensor.shape.dim[2].dim_param = "height"
    else:
        model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))
    with pytest.raises(UserError):
        image_input(model)


def fixed(reshape: bool = False, to: int = 1) -> ModelProto:
    """The pooled net with its batch fixed at 1, its Flatten optionally a Reshape to [`to`, -1]."""
    model = pooled_net()
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    if reshape:
        flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
        flatten.op_type = "Reshape"
        model.graph.initializer.append(numpy_helper.from_array(np.array([to, 32], dtype=np.int64), "shape"))
        flatten.input.append("shape")
    return model


@pytest.mark.parametrize("reshape", [False, True])
def test_a_fixed_batch_is_freed(reshape: bool) -> None:
    model, freed = set_dynamic_batch(fixed(reshape))
    assert freed
    assert image_input(model).batch is None
    np.testing.assert_allclose(run_onnx(model, images(3)), run_onnx(pooled_net(), images(3)), rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_be_freed_is_left_and_reported() -> None:
    model = fixed()
    model.graph.output[0].name = "out"
    first = numpy_helper.from_array(np.array([0], dtype=np.int64), "first")
    model.graph.initializer.append(first)  # takes image 0 of the batch, whatever its size
    model.graph.node.append(
        helper.make_node("Gather", [model.graph.node[-1].output[0], "first"], ["out"], "pick", axis=0)
    )
    same, freed = set_dynamic_batch(model)
    assert not freed
    assert same is model


def test_a_fixed_batch_of_one_takes_images_one_by_one() -> None:
    np.testing.assert_allclose(run_onnx(fixed(), images(3)), run_onnx(pooled_net(), images(3)), rtol=1e-5, atol=1e-6)


def test_a_larger_fixed_batch_takes_images_in_groups_of_its_size() -> None:
    model = pooled_net()
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 4
    np.testing.assert_allclose(run_onnx(model, images(8)), run_onnx(pooled_net(), images(8)), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="groups of 4"):
        run_onnx(model, images(6))
