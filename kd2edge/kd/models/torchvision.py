"""Any classifier of torchvision by name: `{name: torchvision, arch: resnet50}`; `pretrained` fetches its weights."""

from kd2edge.errors import UserError, first_line
from kd2edge.kd.foreign import ForeignBackbone, torchvision_models
from kd2edge.kd.net import Shape
from kd2edge.shelves import PluginConfig, nearest


class Torchvision(ForeignBackbone):
    """torchvision.models.<arch>; a pretrained one keeps its own classifier, which the head takes over where it fits."""

    class Config(PluginConfig):
        """`classifier` is the path of the layer that classifies, as "head.fc", where the last linear one does not."""

        arch: str
        pretrained: bool = False
        classifier: str | None = None

    def __init__(self, config: Config, shape: Shape) -> None:
        models = torchvision_models("A torchvision model")
        known = models.list_models(module=models)
        if config.arch not in known:
            raise UserError(f"torchvision has no classifier {config.arch!r}{nearest(config.arch, known)}.")
        options = {"weights": "DEFAULT"} if config.pretrained else {"weights": None, "num_classes": shape.classes}
        try:
            body = models.get_model(config.arch, **options)
        except OSError as error:
            raise UserError(f"The weights of {config.arch} cannot be fetched: {first_line(error)}.") from error
        super().__init__(config, shape, body, config.pretrained, config.classifier)
