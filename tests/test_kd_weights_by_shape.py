"""A published net under other names is taken over tensor by tensor, aloud, or refused at the first that differs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kd2edge.errors import UserError
from kd2edge.kd import net, weights
from kd2edge.schema import NetSpec

pytestmark = pytest.mark.kd

SPEC = NetSpec.model_validate({"model": {"name": "mobilefacenet", "multiplier": 0.125}, "neck": "gdc", "embedding": 16})


def make(seed: int) -> net.Net:
    """A small MobileFaceNet whose batch norms have statistics of their own."""
    torch.manual_seed(seed)
    made = net.build(SPEC, net.Shape(3, (32, 32), 3))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made.eval()


def renamed(made: net.Net) -> dict[str, Tensor]:
    """Its state dict as another project would name it: of each name only the last part is kept."""
    names: Iterator[int] = iter(range(1000))
    return {f"module.part{next(names)}.{key.rpartition('.')[2]}": v for key, v in made.state_dict().items()}


def saved(state: dict[str, Tensor], folder: Path) -> str:
    torch.save({"state_dict": state}, folder / "w.pt")
    return str(folder / "w.pt")


def outputs(made: net.Net) -> Tensor:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits: Tensor = made(images).logits
    return logits


def test_the_same_layers_under_other_names_give_the_same_outputs_and_are_told(tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    said: list[str] = []
    path = saved(renamed(source), tmp_path)
    assert weights.load_into(copy, path, said.append) == Path(path)
    assert torch.equal(outputs(source), outputs(copy))
    (line,) = said
    assert "shape and order" in line
    assert "part0.weight → backbone.layers.0.0.weight" in line


def test_nothing_is_guessed_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensors \d+ are missing, as 'backbone\.layers\.0\.0\.weight'"):
        weights.load_into(make(1), saved(renamed(make(0)), tmp_path))


def test_names_come_first_and_then_nothing_is_said(tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    said: list[str] = []
    weights.load_into(copy, saved(dict(source.state_dict()), tmp_path), said.append)
    assert torch.equal(outputs(source), outputs(copy))
    assert said == []


def test_a_part_of_a_net_is_filled_from_a_file_without_a_classifier(tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    without = dict(list(renamed(source).items())[:-2])
    weights.load_in_order(nn.ModuleList([copy.backbone, copy.neck]), saved(without, tmp_path), lambda _: None)
    copy.head = source.head
    assert torch.equal(outputs(source), outputs(copy))


def test_the_first_tensor_that_differs_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    state, copy = renamed(make(0)), make(1)
    before = outputs(copy)
    name = next(key for key in state if key.startswith("module.part8."))
    state[name] = torch.zeros(5)
    with pytest.raises(UserError, match=r"tensor 8, part8\.\w+ \(5,\), is none for backbone\.layers"):
        weights.load_into(copy, saved(state, tmp_path), lambda _: None)
    assert torch.equal(outputs(copy), before)


def test_layers_in_another_order_are_refused_though_their_shapes_agree(tmp_path: Path) -> None:
    """The bias and the running mean of a batch norm have one shape: their names tell them apart."""
    items = list(renamed(make(0)).items())
    items[2], items[3] = items[3], items[2]
    with pytest.raises(UserError, match=r"tensor 3, part3\.running_mean .* is none for backbone\.layers\.0\.1\.bias"):
        weights.load_into(make(1), saved(dict(items), tmp_path), lambda _: None)


@pytest.mark.parametrize(("keep", "words"), [(slice(None, -1), r"first over 'head\.bias'"), (slice(None), "more.bias")])
def test_a_file_that_ends_too_soon_or_too_late_is_refused(tmp_path: Path, keep: slice, words: str) -> None:
    state = dict(list(renamed(make(0)).items())[keep])
    if keep == slice(None):
        state["more.bias"] = torch.zeros(3)
    with pytest.raises(UserError, match=words):
        weights.load_into(make(1), saved(state, tmp_path), lambda _: None)
