"""A published face net becomes a teacher: its names translated, and the classifier it came without rebuilt."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd2edge.data import InMemory, Preprocessing, normalize, open_source
from kd2edge.edge.accuracy import score
from kd2edge.errors import UserError
from kd2edge.kd import centres, net, store, weights
from kd2edge.kd.activations import PReLU
from kd2edge.kd.distill import Work
from kd2edge.progress import Silent
from kd2edge.run import Run
from kd2edge.schema import NetSpec, Recipe, Teacher
from tests import tiny
from tests.test_kd_weights_by_shape import SPEC, make, outputs, saved

pytestmark = pytest.mark.kd

BLOCKS = ["conv_23", *(f"conv_3.model.{i}" for i in range(4)), "conv_34", *(f"conv_4.model.{i}" for i in range(6))]
BLOCKS += ["conv_45", *(f"conv_5.model.{i}" for i in range(2))]
HOW = Preprocessing(size=(32, 32), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.5,) * 3, decoder="none")
COSINE = SPEC.model_copy(update={"head": SPEC.head.model_copy(update={"name": "arcface"})})


def published(made: net.Net) -> dict[str, Tensor]:
    """A net of ours as FaceX-Zoo would have saved it: its names, for BGR, without a classifier."""
    names = {"layers.0": "conv1", "layers.1": "conv2_dw", "layers.17": "conv_6_sep"}
    neck = {"0": "conv_6_dw.conv", "1": "conv_6_dw.bn", "3": "linear", "4": "bn"}
    inner, parts = {"0": "conv", "1": "bn", "2": "prelu"}, {"0": "conv", "1": "conv_dw"}
    state = {}
    for key, value in made.state_dict().items():
        path = key.split(".")
        if path[0] == "neck":
            state[f"{neck[path[2]]}.{path[3]}"] = value
        elif path[0] == "backbone" and len(path) == 5:
            state[f"{names[f'layers.{path[2]}']}.{inner[path[3]]}.{path[4]}"] = value
        elif path[0] == "backbone" and len(path) == 7:
            state[f"{BLOCKS[int(path[2]) - 2]}.{parts[path[4]]}.{inner[path[5]]}.{path[6]}"] = value
        elif path[0] == "backbone":
            layer = {"2": "conv", "3": "bn"}[path[4]]
            state[f"{BLOCKS[int(path[2]) - 2]}.project.{layer}.{path[5]}"] = value
    return {**state, "conv1.conv.weight": state["conv1.conv.weight"].flip(1)}


def embeddings(made: net.Net) -> Tensor:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found: Tensor = made.eval()(images).embedding
    return found


def test_a_net_under_facex_zoos_names_gives_the_same_embeddings(tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    head = copy.head.weight.clone()
    weights.load_into(copy, saved(published(source), tmp_path), headless=True)
    assert torch.equal(embeddings(source), embeddings(copy))
    assert torch.equal(copy.head.weight, head)


@pytest.mark.parametrize("head", [False, True])
def test_its_training_saves_it_as_a_backbone_perhaps_beside_a_head(head: bool, tmp_path: Path) -> None:
    """A head of [d, classes], whose classes are in no order of ours."""
    source, copy = make(0), make(1)
    state = {f"backbone.{name}": value for name, value in published(source).items()}
    if head:
        state["head.weight"] = copy.head.weight.detach().T.contiguous()
    torch.save({"state_dict": state, "epoch": 17}, tmp_path / "Epoch_17.pt")
    weights.load_into(copy, str(tmp_path / "Epoch_17.pt"), headless=True)
    assert torch.equal(embeddings(source), embeddings(copy))
    with pytest.raises(UserError, match="without its classifier"):
        weights.load_into(copy, str(tmp_path / "Epoch_17.pt"))


@pytest.mark.parametrize("name", ["conv_3.model.0.extra", "conv_77.conv.weight", "conv_3.model.9.conv", "conv_45.a.b"])
def test_what_is_no_layer_of_that_net_is_passed_over(name: str, tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    weights.load_into(copy, saved({**published(source), name: torch.ones(2)}, tmp_path), headless=True)
    assert torch.equal(embeddings(source), embeddings(copy))


def test_weights_without_a_classifier_say_how_to_get_one(tmp_path: Path) -> None:
    copy = make(1)
    before = outputs(copy)
    with pytest.raises(UserError, match=r"without its classifier[\s\S]*head_from: centres"):
        weights.load_into(copy, saved(published(make(0)), tmp_path))
    assert torch.equal(outputs(copy), before)


def test_a_net_of_that_family_with_other_shapes_is_refused(tmp_path: Path) -> None:
    wide = SPEC.model_copy(update={"embedding": 32})
    with pytest.raises(UserError, match="does not fit this net"):
        weights.load_into(
            net.build(wide, net.Shape(3, (32, 32), 3)), saved(published(make(0)), tmp_path), headless=True
        )


def people() -> InMemory:
    images = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    return InMemory(images, np.array([0, 1, 1, 2, 2, 2, 0]), {}, ["a", "b", "c"])


def teacher() -> net.Net:
    torch.manual_seed(4)
    return net.build(COSINE, net.Shape(3, (32, 32), 3)).eval()


def test_class_centres_are_sums_of_unit_embeddings_of_images_and_their_mirrors(tmp_path: Path) -> None:
    made, data = teacher(), people()
    kept = store.Store(tmp_path)
    centres.rebuild(made, data, HOW, kept, Silent())
    with torch.no_grad():
        both = [made(torch.from_numpy(normalize(p, HOW))).embedding for p in (data.images, data.images[:, :, ::-1])]
    unit = sum(e / e.norm(dim=1, keepdim=True) for e in both)
    assert isinstance(unit, Tensor)
    for person in range(3):
        total = unit[torch.from_numpy(data.labels == person)].sum(0)
        torch.testing.assert_close(made.head.weight[person], total / total.norm(), rtol=1e-4, atol=1e-5)
    again = teacher()
    again.head.weight.data.zero_()
    centres.rebuild(again, data, HOW, kept, Silent())
    assert torch.equal(again.head.weight, made.head.weight)


def test_a_class_without_images_has_no_centre() -> None:
    data = people()
    data.labels = np.array([0, 1, 1, 1, 1, 0, 0])
    with pytest.raises(UserError, match="Of 3 classes 1 have no centre, as c"):
        centres.rebuild(teacher(), data, HOW, None, Silent())


def test_class_centres_make_cosine_classifiers_only() -> None:
    with pytest.raises(UserError, match=r"teacher\.head is a linear one"):
        centres.rebuild(make(0), people(), HOW, None, Silent())
    section = {**SPEC.model_dump(), "weights": "w.pt", "head_from": "centres"}
    with pytest.raises(ValueError, match="cosine, arcface or cosface"):
        Teacher.model_validate(section)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is the GPU that shall be missing")
def test_class_centres_are_computed_where_the_recipe_trains(tmp_path: Path) -> None:
    tree = tiny.recipe(tiny.image_folder(tmp_path / "images", per_class=2), {"name": "kd"})
    section = {**tiny.net(head="arcface"), "weights": str(tmp_path / "w.safetensors"), "head_from": "centres"}
    spec = NetSpec.model_validate(tiny.net(head="arcface"))
    weights.write(net.build(spec, net.Shape(3, (16, 16), 3)), tmp_path / "w.safetensors")
    for train in (tree["train"], None):
        tree["teacher"] = {**section, "train": train and {**train, "device": "cuda"}}
        tree["train"] = {**tree["train"], "device": "cpu" if train else "cuda"}
        with pytest.raises(UserError, match="no GPU"):
            Work.open(Recipe.model_validate(tree), Run(tmp_path), Silent()).teacher()


@pytest.mark.parametrize(
    "model", [{"name": "onnx", "path": "t.onnx"}, {"name": "timm", "arch": "x", "pretrained": True}]
)
def test_no_untrained_layer_is_put_behind_a_teacher_without_a_file_for_it(model: dict[str, object]) -> None:
    section = {"model": model, "head": {"name": "arcface"}, "head_from": "centres"}
    assert Teacher.model_validate(section).embedding is None
    with pytest.raises(ValueError, match=r"set teacher\.embedding=null"):
        Teacher.model_validate({**section, "embedding": 64})
    assert Teacher.model_validate({**section, "embedding": 64, "weights": "w.pt"}).embedding == 64


def test_prelu_in_training_is_torchs_own() -> None:
    made, x = PReLU(8), torch.randn(4, 8, 5, 5, requires_grad=True)
    nn.init.uniform_(made.weight, -1, 1)
    found = []
    for mode in (True, False):
        out = made.train(mode)(x)
        found.append((out, *torch.autograd.grad(out.square().sum(), [x, made.weight])))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1:], found[1][1:])


FACES, WEIGHTS = os.environ.get("KD2EDGE_LFW"), os.environ.get("KD2EDGE_FACEXZOO")


@pytest.mark.skipif(
    not (FACES and WEIGHTS), reason="KD2EDGE_LFW and KD2EDGE_FACEXZOO name no folder with LFW and no file of weights"
)
def test_the_published_net_has_its_published_figures() -> None:
    folder = Path(str(FACES))
    places = {"test": folder / "lfw_dev_test.bin", "names": folder / "lfw_dev_test_names.txt"}
    options = {"train": str(folder), **{name: str(path) for name, path in places.items()}, "std": 128 / 255}
    source = open_source({"name": "faces", **options})
    spec = NetSpec.model_validate({"model": {"name": "mobilefacenet"}, "neck": "gdc", "embedding": 512})
    made = net.build(spec, net.Shape(3, (112, 112), 2)).eval()
    weights.load_into(made, str(WEIGHTS), headless=True)
    split, how, found = source.split("test"), source.preprocessing(), []
    with torch.no_grad():
        for start in range(0, len(split), 64):
            images = normalize(split.read(np.arange(start, min(start + 64, len(split)))), how)
            found.append(made(torch.from_numpy(images)).embedding.numpy())
    numbers = score(np.concatenate(found), split, "embedding")[0]
    for name, expected in {"tar@1e-3": 97.76, "tar@1e-4": 95.83}.items():
        assert numbers[name].value == pytest.approx(expected, abs=0.2)
