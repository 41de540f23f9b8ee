"""Any ONNX file as a teacher: `{name: onnx, path: teacher.onnx}`; its weights are the file's, and stay as they are."""

import hashlib
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kd2edge.errors import UserError, first_line
from kd2edge.graph.find import same, tensors
from kd2edge.kd.graph_net import GraphNet
from kd2edge.kd.models._onnx_graph import Taken, cannot, take
from kd2edge.kd.net import Backbone, Shape
from kd2edge.shelves import PluginConfig

Constants = float | tuple[float, ...]


def _each(value: Constants) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


class Onnx(Backbone):
    """[N, C, H, W] → the graph's last map of more than one pixel, and its embedding [N, d].

    The embedding is the graph's output; of a classifier it is what feeds the linear layer that ends it, and that layer
    becomes the head where it fits. A graph without such a map hands on its embedding as one. What is computed is
    compared with onnxruntime on noise. Raises `UserError` as `take` does, and where the two differ.
    """

    class Config(PluginConfig):
        """`output` names another tensor than the graph's output; `classifier` says what a linear layer at its end is.

        `color` is the order of the channels that the teacher was trained on. `mean` and `std`, one number or one a
        channel in the data's order, are its own normalisation in units of pixel / 255, where it is not the data's:
        raw pixels are mean 0 and std 0.00392157. Then `data_mean` and `data_std` repeat what the data set does.
        """

        path: str = Field(repr=False)  # what is in it counts, see `extra_repr`
        output: str | None = None
        classifier: bool | None = None
        color: Literal["RGB", "BGR"] = "RGB"
        mean: Constants | None = None
        std: Constants | None = None
        data_mean: Constants | None = None
        data_std: Constants | None = None

        @model_validator(mode="after")
        def _all_or_none(self) -> "Onnx.Config":
            given = [value is not None for value in (self.mean, self.std, self.data_mean, self.data_std)]
            if any(given) and not all(given):
                raise ValueError("mean, std, data_mean and data_std go together")
            if any(value <= 0 for std in (self.std, self.data_std) if std is not None for value in _each(std)):
                raise ValueError("every std is positive")
            return self

    pools = True
    stride = 1
    pretrained = True
    config: Config
    gain: Tensor | None
    shift: Tensor | None

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        path = Path(config.path)
        taken = take(path, shape, config.output, config.classifier)
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        gain, shift = _normalisation(config, shape.channels)
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        try:
            self.graph = GraphNet(taken.model, [taken.fmap or taken.pooled, taken.pooled])
        except UserError as error:
            raise cannot(path, error.message.partition(": ")[2].rstrip(".")) from error
        self.width = self._proved(path, taken)
        self.__dict__["classifier"] = taken.linear  # the head owns its parameters; this is only a reference
        self.requires_grad_(False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sha256 {self.sha256}"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.gain is not None and self.shift is not None:
            images = images * self.gain + self.shift
        if self.config.color == "BGR":
            images = torch.cat([images[:, place : place + 1] for place in (2, 1, 0)], 1)
        fmap, pooled = self.graph(images)
        embedding: Tensor = pooled.flatten(1)
        return (fmap if fmap.ndim == 4 else embedding[:, :, None, None]), embedding

    @torch.no_grad()
    def _proved(self, path: Path, taken: Taken) -> int:
        """The embedding's width, if torch computes what onnxruntime does."""
        count = max(2, taken.batch)
        noise = torch.randn(count, self.shape.channels, *self.shape.size, generator=torch.Generator().manual_seed(0))
        try:
            pooled = self.graph(noise)[1]
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
            raise cannot(path, f"torch cannot run it ({first_line(error)})") from error
        if pooled.ndim < 2 or len(pooled) != count or pooled[0].numel() != pooled.shape[1]:
            raise cannot(path, f"it makes {list(pooled.shape)} of {count} images, no vector of each")
        found = pooled.flatten(1) if taken.linear is None else taken.linear(pooled.flatten(1))
        (theirs,) = tensors(taken.original, noise.numpy(), [taken.end])
        if not same(found.numpy(), theirs.reshape(count, -1)):
            raise cannot(path, "torch computes other values than onnxruntime")
        return int(pooled.shape[1])


def _normalisation(config: Onnx.Config, channels: int) -> tuple[Tensor | None, Tensor | None]:
    """Gain and shift [C, 1, 1] from the data's normalisation to the teacher's own; None where there is no other."""
    if config.color == "BGR" and channels != 3:
        raise UserError(f"A teacher of BGR images cannot look at images of {channels} channel.", "set data.color: RGB")
    if config.mean is None or config.std is None or config.data_mean is None or config.data_std is None:
        return None, None
    given = (config.mean, config.std, config.data_mean, config.data_std)
    mean, std, data_mean, data_std = (_column(value, channels) for value in given)
    return (data_std / std).float(), ((data_mean - mean) / std).float()


def _column(value: Constants, channels: int) -> Tensor:
    values = value if isinstance(value, tuple) else (value,) * channels
    if len(values) != channels:
        raise UserError(f"The data has {channels} channels, and teacher.model names {len(values)} constants for them.")
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
