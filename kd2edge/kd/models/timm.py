"""Any classifier of timm by name: `{name: timm, arch: mobilenetv3_small_050}`; `pretrained` fetches its weights."""

from kd2edge.errors import MissingExtra, UserError
from kd2edge.kd.foreign import ForeignBackbone
from kd2edge.kd.net import Shape
from kd2edge.shelves import PluginConfig


class Timm(ForeignBackbone):
    """timm.create_model(<arch>), with as many classes as the data set has."""

    class Config(PluginConfig):
        arch: str
        pretrained: bool = False

    def __init__(self, config: Config, shape: Shape) -> None:
        try:
            import timm
        except (ImportError, RuntimeError) as error:
            raise MissingExtra("timm", "train", "A timm model") from error
        if not timm.is_model(config.arch):
            raise UserError(f"timm has no classifier {config.arch!r}.", "see timm.list_models()")
        body = timm.create_model(
            config.arch, pretrained=config.pretrained, num_classes=shape.classes, in_chans=shape.channels
        )
        super().__init__(config, shape, body)
