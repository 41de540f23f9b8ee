"""Any classifier of timm by name: `{name: timm, arch: mobilenetv3_small_050}`; `pretrained` fetches its weights."""

from kd2edge.errors import MissingExtra, UserError, first_line
from kd2edge.kd.foreign import ForeignBackbone, torchvision_models
from kd2edge.kd.net import Shape
from kd2edge.shelves import PluginConfig


class Timm(ForeignBackbone):
    """timm.create_model(<arch>); a pretrained one keeps its own classifier, which the head takes over where it fits."""

    class Config(PluginConfig):
        """`classifier` is the path of the layer that classifies, as "head.fc", where the last linear one does not."""

        arch: str
        pretrained: bool = False
        classifier: str | None = None

    def __init__(self, config: Config, shape: Shape) -> None:
        torchvision_models("A timm model")  # timm imports it
        try:
            import timm
        except ImportError as error:
            raise MissingExtra("timm", "zoo", "A timm model") from error
        if not timm.is_model(config.arch):
            raise UserError(f"timm has no classifier {config.arch!r}.", "see timm.list_models()")
        classes = None if config.pretrained else shape.classes  # None: as many as its weights have
        try:
            body = timm.create_model(
                config.arch, pretrained=config.pretrained, num_classes=classes, in_chans=shape.channels
            )
        except (OSError, RuntimeError) as error:
            raise UserError(f"timm cannot make {config.arch}: {first_line(error)}.") from error
        super().__init__(config, shape, body, config.pretrained, config.classifier)
