"""The nets of face recognition: their sizes, computed here anew and published, and what their options change."""

import pytest
import torch
from torch import nn

from kd2edge import shelves
from kd2edge.errors import UserError
from kd2edge.kd import net, store
from kd2edge.kd.models.iresnet import IResNet
from kd2edge.kd.models.mobilefacenet import MobileFaceNet
from kd2edge.schema import NetSpec

pytestmark = pytest.mark.kd


def build(size: int = 32, **spec: object) -> net.Net:
    return net.build(NetSpec.model_validate(spec), net.Shape(3, (size, size), 5))


def imagined(**spec: object) -> net.Net:
    """A net for 112 pixels without any memory."""
    with torch.device("meta"):
        return build(112, **spec)


def count(made: net.Net) -> int:
    """Parameters up to the embedding."""
    return sum(p.numel() for part in (made.backbone, made.neck) for p in part.parameters())


def norm(channels: int) -> int:
    return 2 * channels


def iresnet_by_hand(blocks: tuple[int, ...]) -> int:
    """BN, 3x3, BN, PReLU, 3x3, BN in each block; BN, 25,088 x 512 + 512, BN behind the last."""
    total = 27 * 64 + norm(64) + 64
    inputs = 64
    for width, repeats in zip((64, 128, 256, 512), blocks, strict=True):
        for block in range(repeats):
            total += norm(inputs) + 9 * inputs * width + norm(width) + width + 9 * width * width + norm(width)
            total += 0 if block else inputs * width + norm(width)
            inputs = width
    return total + norm(512) + 7 * 7 * 512 * 512 + 512 + norm(512)


@pytest.mark.parametrize(
    ("depth", "blocks", "millions"),
    [(18, (2, 2, 2, 2), 24.0), (34, (3, 4, 6, 3), 34.1), (50, (3, 4, 14, 3), 43.6), (100, (3, 13, 30, 3), 65.2)],
)
def test_iresnets_count_as_published(depth: int, blocks: tuple[int, ...], millions: float) -> None:
    made = imagined(model={"name": "iresnet", "depth": depth}, head={"name": "arcface"})
    assert count(made) == iresnet_by_hand(blocks)
    assert round(count(made) / 1e6, 1) == millions
    assert made.head.weight.shape == (5, 512)


def test_an_iresnet_hands_on_map_and_embedding_of_any_size() -> None:
    model = {"name": "iresnet", "multiplier": 0.125, "embedding": 48, "dropout": 0.5}
    out = build(40, model=model, head={"name": "cosface"}).eval()(torch.zeros(2, 3, 40, 40))
    assert (out.fmap.shape, out.embedding.shape, out.logits.shape) == ((2, 64, 3, 3), (2, 48), (2, 5))


def test_an_iresnets_embedding_has_no_gain_to_learn_and_its_map_survives_dropout() -> None:
    made = build(model={"name": "iresnet", "multiplier": 0.125, "dropout": 0.9})
    assert isinstance(made.backbone, IResNet)
    assert [name for name, p in made.backbone.named_parameters() if not p.requires_grad] == ["features.weight"]
    torch.manual_seed(0)
    fmap, _ = made.train().backbone(torch.randn(4, 3, 32, 32))
    assert (fmap == 0).float().mean() < 0.5, "dropout is for the linear layer's copy"


def test_an_iresnets_block_is_bn_conv_bn_prelu_conv_bn_and_a_sum() -> None:
    torch.manual_seed(0)
    made = build(model={"name": "iresnet", "multiplier": 0.125}).eval()
    block = made.backbone.get_submodule("layer1.0")
    x = torch.randn(2, 8, 6, 6)
    order = ["bn1", "conv1", "bn2", "prelu", "conv2", "bn3"]
    with torch.no_grad():
        expected = nn.Sequential(*[block.get_submodule(name) for name in order])(x)
        expected += block.get_submodule("downsample")(x)
        assert torch.equal(block(x), expected)
    assert expected.shape == (2, 8, 3, 3)
    assert block.get_submodule("conv1").stride == (1, 1)


def wide_by_hand(embedding: int) -> int:
    """insightface's: a second convolution of 64 groups, hidden widths from 128 to 512, a 7x7 for each channel."""

    def conv(inputs: int, outputs: int, pixels: int) -> int:
        return inputs * outputs * pixels + norm(outputs) + outputs

    def block(inputs: int, hidden: int, outputs: int) -> int:
        return conv(inputs, hidden, 1) + conv(1, hidden, 9) + hidden * outputs + norm(outputs)

    total = conv(3, 128, 9) + conv(2, 128, 9)
    total += block(128, 128, 128) + 4 * block(128, 128, 128)
    total += block(128, 256, 256) + 6 * block(256, 256, 256)
    total += block(256, 512, 256) + 2 * block(256, 256, 256)
    return total + conv(256, 512, 1) + 49 * 512 + norm(512) + 512 * embedding + norm(embedding)


@pytest.mark.parametrize(("form", "embedding", "parameters"), [("paper", 128, 1_003_136), ("insightface", 512, 0)])
def test_both_mobilefacenets_count_as_published(form: str, embedding: int, parameters: int) -> None:
    made = imagined(model={"name": "mobilefacenet", "form": form}, neck="gdc", embedding=embedding)
    assert count(made) == (parameters or wide_by_hand(512))
    assert made.backbone.get_submodule("layers.1.0").groups == 64


@pytest.mark.parametrize("form", ["paper", "insightface"])
@pytest.mark.parametrize(("activation", "kind"), [("prelu", nn.PReLU), ("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU)])
def test_a_mobilefacenet_has_one_kind_of_activation(form: str, activation: str, kind: type[nn.Module]) -> None:
    made = build(model={"name": "mobilefacenet", "form": form, "multiplier": 0.25, "activation": activation})
    found = [m for m in made.modules() if isinstance(m, nn.PReLU | nn.ReLU | nn.LeakyReLU)]
    assert found
    assert all(isinstance(m, kind) for m in found)
    assert made.eval()(torch.zeros(1, 3, 32, 32)).fmap.shape == (1, 128, 2, 2)


def test_what_a_mobilefacenet_was_before_it_had_forms_it_is_still() -> None:
    """Its names are in checkpoints, and what it prints goes into the keys by which finished stages are found."""
    made = build(model={"name": "mobilefacenet", "multiplier": 0.125}, neck="gdc", embedding=8)
    assert repr(MobileFaceNet.Config()) == "Config(multiplier=1.0, activation='prelu')"
    assert repr(made).count("_Bottleneck(") == 15
    names = [name for name in made.state_dict() if name.endswith(".weight") and name.startswith("backbone.layers.")]
    block = ["layers.0.0", "layers.0.1", "layers.0.2", "layers.1.0", "layers.1.1", "layers.1.2", "layers.2", "layers.3"]
    layers = [f"{place}.{part}" for place in (0, 1) for part in (0, 1, 2)]
    layers += [f"{place}.{part}" for place in range(2, 17) for part in block] + [f"17.{part}" for part in (0, 1, 2)]
    assert names == [f"backbone.layers.{layer}.weight" for layer in layers]


def test_forms_are_told_apart_by_what_is_printed() -> None:
    paper, wide = (
        store.digest(build(model={"name": "mobilefacenet", "form": form, "multiplier": 0.125}))
        for form in ("paper", "insightface")
    )
    assert paper != wide


def test_a_wrong_option_is_told() -> None:
    with pytest.raises(UserError, match="depth"):
        build(model={"name": "iresnet", "depth": 101})
    assert {"iresnet", "mobilefacenet"} <= set(shelves.names(shelves.MODELS))
    assert not [name for name in shelves.names(shelves.MODELS) if name.startswith("_")]
