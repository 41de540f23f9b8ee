"""An ONNX file teaches: its embedding is onnxruntime's, its classifier the head; what cannot be computed is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import nn

from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.kd import method, net, store, to_onnx
from kd2edge.kd.method import Batch, Lesson
from kd2edge.kd.tasks import Task
from kd2edge.schema import NetSpec, Plugin
from tests import graphs, lessons, tiny

pytestmark = pytest.mark.kd

SHAPE = net.Shape(3, (16, 16), 5)
LINEAR, COSINE = {"name": "linear"}, {"name": "arcface"}


def written(model: ModelProto, folder: Path, name: str = "teacher.onnx") -> Path:
    onnx.save(model, str(folder / name))
    return folder / name


def taught_by(path: Path, head: Mapping[str, str] = COSINE, shape: net.Shape = SHAPE, **options: Any) -> net.Net:
    section = {"model": {"name": "onnx", "path": str(path), **options}, "head": dict(head)}
    return net.freeze(net.build(NetSpec.model_validate(section), shape))


def told(made: net.Net) -> tuple[int, bool]:
    """How wide its embedding is, and whether it came with its classifier."""
    assert isinstance(made.backbone, net.Backbone)
    return made.head.weight.shape[1], made.backbone.ready


def images(count: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((count, 3, 16, 16)).astype(np.float32)


def near(found: torch.Tensor, wanted: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny net of ours as two files: `embedding.onnx`, 12 wide, and `logits.onnx`, of five classes."""
    folder = tmp_path_factory.mktemp("exported")
    for output, embedding in (("embedding", 12), ("logits", None)):
        torch.manual_seed(1)
        made = lessons.trained(net.build(lessons.spec(tiny.net(embedding=embedding)), SHAPE))
        to_onnx.export(made, output, images(), folder / f"{output}.onnx")
    return folder


def test_its_embedding_is_onnxruntimes(exported: Path) -> None:
    path = exported / "embedding.onnx"
    teacher = taught_by(path)
    out = teacher(torch.from_numpy(images()))
    near(out.embedding, run_onnx(path, images()))
    assert (out.fmap.shape, out.logits.shape) == ((4, 16, 4, 4), (4, 5))
    assert told(teacher) == (12, False)
    assert not [p for p in teacher.backbone.parameters() if p.requires_grad]


def test_a_classifiers_last_layer_becomes_the_head(exported: Path) -> None:
    path = exported / "logits.onnx"
    teacher = taught_by(path, LINEAR)
    out = teacher(torch.from_numpy(images()))
    near(out.logits, run_onnx(path, images()))
    assert told(teacher) == (16, True)
    near(out.embedding, out.fmap.mean((2, 3)).numpy())


@pytest.mark.parametrize(("classifier", "width"), [(None, 5), (True, 16), (False, 5)])
def test_of_other_classes_the_recipe_says_whether_it_is_a_classifier(
    exported: Path, classifier: bool | None, width: int
) -> None:
    shape = net.Shape(3, (16, 16), 7)
    teacher = taught_by(exported / "logits.onnx", LINEAR, shape, classifier=classifier)
    assert told(teacher) == (width, False)
    assert len(teacher.head.weight) == 7


def test_any_tensor_of_the_graph_may_be_the_embedding(exported: Path) -> None:
    path = exported / "logits.onnx"
    whole = taught_by(path, LINEAR)(torch.from_numpy(images()))
    gemm = onnx.load(str(path)).graph.node[-1]
    assert gemm.op_type == "Gemm"
    near(taught_by(path, output=gemm.input[0])(torch.from_numpy(images())).embedding, whole.embedding.numpy())
    with pytest.raises(UserError, match="computes no tensor 'logitz' \\(did you mean 'logits'"):
        taught_by(path, output="logitz")


def face(batch: int | str = "N", softmax: bool = False, fmap: bool = True, width: int = 5) -> ModelProto:
    """As face nets end: a batch norm that nothing can take up on a map and one on a vector, PReLU, a fixed Reshape."""
    made = graphs.Net(4)
    x = made.conv("images", 8, 3, 2) if fmap else made.conv("images", 8, 16, pad=0)
    x = made.norm(made.prelu(made.norm(x)))
    first = batch if isinstance(batch, int) else 0
    x = made.node("Reshape", x, made.constant(np.array([first, 8 * 64 if fmap else 8], np.int64)))
    made.channels[x] = 8 * 64 if fmap else 8
    x = made.gemm(made.norm(x), width)
    return single_input(made, made.node("Softmax", x, axis=1) if softmax else x, batch)


def single_input(made: graphs.Net, output: str, batch: int | str = "N") -> ModelProto:
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 16, 16])
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, None])
    graph = helper.make_graph(made.nodes, "face", [given], [result], made.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_a_face_nets_ending_and_a_fixed_batch_are_computed(batch: int | str, tmp_path: Path) -> None:
    path = written(face(batch), tmp_path)
    out = taught_by(path, classifier=False)(torch.from_numpy(images()))
    near(out.embedding, run_onnx(path, images()))
    assert out.fmap.shape == (4, 8, 8, 8)


def test_without_a_map_of_pixels_the_embedding_is_one(tmp_path: Path) -> None:
    out = taught_by(written(face(fmap=False), tmp_path), classifier=False)(torch.from_numpy(images()))
    assert torch.equal(out.fmap, out.embedding[:, :, None, None])


def test_probabilities_are_not_taken_for_logits(tmp_path: Path) -> None:
    path = written(face(softmax=True), tmp_path)
    logits = taught_by(path, LINEAR)(torch.from_numpy(images())).logits
    near(torch.softmax(logits, 1), run_onnx(path, images()))


def test_a_teacher_of_raw_bgr_pixels_sees_raw_bgr_pixels(tmp_path: Path) -> None:
    path = written(face(), tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.float32)
    data = ((pixels / 255 - (0.4, 0.5, 0.6)) / (0.2, 0.25, 0.3)).astype(np.float32).transpose(0, 3, 1, 2)
    options: dict[str, Any] = {"mean": 0, "std": 1 / 255, "data_mean": [0.4, 0.5, 0.6], "data_std": [0.2, 0.25, 0.3]}
    teacher = taught_by(path, color="BGR", classifier=False, **options)
    wanted = run_onnx(path, np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2)))
    found = teacher(torch.from_numpy(np.ascontiguousarray(data))).embedding.numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": 0.5, "std": 0.5}, "go together"),
        ({"mean": 0, "std": 0, "data_mean": 0, "data_std": 1}, "every std is positive"),
        ({"mean": [0, 0], "std": 1, "data_mean": 0, "data_std": 1}, "names 2 constants"),
    ],
)
def test_half_a_normalisation_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        taught_by(written(face(), tmp_path), **options)


@pytest.mark.parametrize(("name", "output", "head"), [("kd", "logits", LINEAR), ("th_kd", "embedding", COSINE)])
def test_it_teaches(name: str, output: str, head: Mapping[str, str], exported: Path) -> None:
    teacher = taught_by(exported / f"{output}.onnx", head)
    embedding = None if output == "logits" else 12
    student = lessons.spec({**tiny.net(embedding=embedding), "head": dict(head)})
    task = Task("classification" if output == "logits" else "verification")
    made = method.make(Plugin.model_validate({"name": name}), Lesson(task, SHAPE, student, teacher))
    (stage,) = made.stages()
    before = {key: value.clone() for key, value in made.student.state_dict().items()}
    held = store.digest(teacher)
    optimizer = torch.optim.SGD([p for p in stage.learner.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        loss = torch.stack(list(stage.losses(Batch(torch.from_numpy(images(8)), torch.arange(8) % 5)).values())).sum()
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert store.digest(teacher) == held
    moved = made.student.state_dict()
    assert not torch.equal(moved["backbone.conv1.weight"], before["backbone.conv1.weight"])


def test_it_crosses_to_onnx_again_as_a_runs_teacher(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "mean": 0.1,
        "std": 0.2,
        "data_mean": 0.5,
        "data_std": 0.5,
        "color": "BGR",
        "classifier": False,
    }
    teacher = taught_by(written(face(1), tmp_path), **options)
    reference, parity = to_onnx.export(teacher, "embedding", images(), tmp_path / "again.onnx")
    assert parity.cosine_min > 0.99999
    near(teacher(torch.from_numpy(images())).embedding, reference)


def test_a_teacher_is_known_by_its_files_content_not_by_its_path(tmp_path: Path) -> None:
    model = face()
    one, same = (taught_by(written(model, tmp_path, name)).backbone for name in ("a.onnx", "b.onnx"))
    model.graph.initializer[-1].raw_data = np.ones(5, np.float32).tobytes()
    other = taught_by(written(model, tmp_path, "c.onnx")).backbone
    assert store.digest(one) == store.digest(same) != store.digest(other)


def changed(**changes: Any) -> ModelProto:
    model = face()
    if "op" in changes:
        model.graph.node[1].op_type = changes["op"]
        del model.graph.node[1].input[1:]
    if "domain" in changes:
        model.graph.node[0].domain = changes["domain"]
        model.opset_import.append(helper.make_opsetid(changes["domain"], 1))
    if "outputs" in changes:
        model.graph.output.append(helper.make_tensor_value_info(model.graph.node[0].output[0], 1, [None] * 4))
    if "inputs" in changes:
        model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))
    if "pad" in changes:
        del model.graph.node[0].attribute[:]
        model.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    return model


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"op": "Erf"}, r"cannot be a teacher: it has Erf, which kd2edge\.kd\.graph_net does not know"),
        ({"domain": "com.example"}, r"it has com\.example\.Conv, which"),
        ({"outputs": True}, "has 2 outputs"),
        ({"inputs": True}, r"takes images float \[N, 3, 16, 16\] and scale float \[1\], and the data gives"),
        ({"pad": True}, "cannot be a teacher: Conv_0 pads by auto_pad"),
    ],
    ids=str,
)
def test_a_graph_that_cannot_be_computed_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        taught_by(written(changed(**changes), tmp_path))


def test_images_of_another_size_or_colour_are_refused(tmp_path: Path) -> None:
    path = written(face(), tmp_path)
    with pytest.raises(UserError, match=r"takes images float \[N, 3, 16, 16\], and the data gives .* \[N, 3, 24, 24\]"):
        taught_by(path, shape=net.Shape(3, (24, 24), 5))
    with pytest.raises(UserError, match=r"\[N, 1, 16, 16\]"):
        taught_by(path, shape=net.Shape(1, (16, 16), 5))


def test_a_map_is_no_embedding(tmp_path: Path) -> None:
    path = written(face(), tmp_path)
    with pytest.raises(UserError, match=r"makes \[2, 8, 8, 8\] of 2 images, no vector of each"):
        taught_by(path, output=onnx.load(str(path)).graph.node[2].output[0])


def test_what_is_no_linear_layer_is_no_classifier(tmp_path: Path) -> None:
    path = written(face(), tmp_path)
    flat = onnx.load(str(path)).graph.node[-2].output[0]
    with pytest.raises(UserError, match="which is no linear layer"):
        taught_by(path, output=flat, classifier=True)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "missing.bin"])
def test_weights_outside_the_files_folder_are_never_read(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (tmp_path / "inner").mkdir()
    model = face()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=location))
    path = tmp_path / "inner" / "teacher.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError):
        taught_by(path)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    whole = written(face(), tmp_path).read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half\.onnx"):
        taught_by(tmp_path / "half.onnx")
    with pytest.raises(UserError, match="There is no ONNX file"):
        taught_by(tmp_path / "none.onnx")


def test_a_deep_copy_can_be_trained_as_sh_kd_does(exported: Path) -> None:
    teacher = taught_by(exported / "embedding.onnx").requires_grad_(True)
    teacher.train()(torch.from_numpy(images())).embedding.square().sum().backward()
    assert isinstance(teacher.backbone, nn.Module)
    assert all(p.grad is not None for p in teacher.backbone.parameters())
