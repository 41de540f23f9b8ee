"""Teachers come from anywhere: our own safetensors, a wrapped state dict, torchvision, the package; damage is told."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from kd2edge.errors import UserError
from kd2edge.kd import net, weights
from kd2edge.schema import NetSpec
from tests import tiny

pytestmark = pytest.mark.kd

SHAPE = net.Shape(3, (32, 32), 3)


def make(seed: int, model: Mapping[str, object] | None = None) -> net.Net:
    torch.manual_seed(seed)
    spec = tiny.net() if model is None else {"model": model}
    return net.build(NetSpec.model_validate(spec), SHAPE).eval()


def same(a: net.Net, b: net.Net) -> bool:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.equal(a(x).logits, b(x).logits)


def test_our_own_weights_come_back(tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    weights.load_into(copy, str(weights.write(source, tmp_path / "w.safetensors")))
    assert same(source, copy)


def test_a_wrapped_state_dict_is_unwrapped(tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    state = {
        f"module.{key.replace('backbone.', '').replace('head.', 'linear.')}": v
        for key, v in source.state_dict().items()
    }
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
    weights.load_into(copy, str(tmp_path / "w.pt"))
    assert same(source, copy)


def test_a_torchvision_state_dict_loads_into_our_resnet(tmp_path: Path) -> None:
    """The names are torchvision's: conv1, layer1.0.conv1, downsample.0, fc."""
    source, copy = make(0, {"name": "resnet", "depth": 18}), make(1, {"name": "resnet", "depth": 18})
    state = {k.replace("backbone.", "").replace("head.", "fc."): v for k, v in source.state_dict().items()}
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias"} <= set(state)
    torch.save(state, tmp_path / "resnet18.pth")
    weights.load_into(copy, str(tmp_path / "resnet18.pth"))
    assert same(source, copy)


@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True), (False, False)])
def test_a_bias_is_for_the_files_classifier_to_say(ours: bool, theirs: bool, tmp_path: Path) -> None:
    """A teacher's logits are its own: a bias of the net's does not remain, and one in the file is not lost."""
    source, copy = make(0), make(1)
    for made, has in ((source, theirs), (copy, ours)):
        if not has:
            made.head.bias = None
    weights.load_into(copy, str(weights.write(source, tmp_path / "w.safetensors")))
    assert (copy.head.bias is not None) == theirs
    assert same(source, copy)


def test_a_bias_is_taken_from_beside_its_weight_only(tmp_path: Path) -> None:
    source, copy = make(0), make(1)
    state = {k.replace("backbone.", "").replace("head.", "fc."): v for k, v in source.state_dict().items()}
    state["linear.bias"] = torch.ones(3)
    del state["fc.bias"]
    source.head.bias = None
    torch.save(state, tmp_path / "w.pt")
    weights.load_into(copy, str(tmp_path / "w.pt"))
    assert same(source, copy)


def test_a_file_without_a_classifier_is_told(tmp_path: Path) -> None:
    source = make(0)
    torch.save({k: v for k, v in source.state_dict().items() if not k.startswith("head.")}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds this net without its classifier"):
        weights.load_into(make(1), str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"not a checkpoint", "cannot be read"), (b"", "cannot be read")],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damage_is_one_sentence(tmp_path: Path, content: bytes, words: str, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        weights.load_into(make(0), str(path))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="not loadable as plain tensors"):
        weights.load_into(make(0), str(tmp_path / "w.pt"))


def test_another_net_is_told_with_the_tensor(tmp_path: Path) -> None:
    path = weights.write(make(0), tmp_path / "w.safetensors")
    wide = net.build(NetSpec.model_validate(tiny.net((8, 8, 32))), SHAPE)
    with pytest.raises(UserError, match=r"does not fit this net: backbone\.layer3"):
        weights.load_into(wide, str(path))
    with pytest.raises(UserError, match="does not hold this net"):
        weights.load_into(make(0, {"name": "mobilefacenet"}), str(path))


@pytest.mark.parametrize("say", [None, [].append], ids=["by name", "by name, then in order"])
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("fault", ["a tensor is missing", "a tensor has another shape"])
def test_a_file_that_does_not_fit_leaves_the_net_as_it_was(
    tmp_path: Path, ours: bool, fault: str, say: Callable[[str], None] | None
) -> None:
    source, copy = make(0), make(1)
    (copy if not ours else source).head.bias = None
    state = source.state_dict()
    if fault == "a tensor is missing":
        del state[next(iter(state))]
    else:
        state["head.weight"] = torch.zeros(7, 16)
    torch.save(state, tmp_path / "w.pt")
    before = {key: value.clone() for key, value in copy.state_dict().items()}
    parameters = dict(copy.named_parameters())
    with pytest.raises(UserError):
        weights.load_into(copy, str(tmp_path / "w.pt"), say)
    after = copy.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(own is parameters[key] for key, own in copy.named_parameters())


def test_embedded_weights_are_listed_small_and_vouched_for() -> None:
    assert "omniglot" in weights.embedded()
    for name in weights.embedded():
        path = weights.locate(name)
        assert path.stat().st_size <= 4_000_000
        assert path.with_name(f"{name}.ledger.jsonl").is_file()


def test_unknown_weights_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'omniglot'"):
        weights.locate("omniglott")
