"""Any classifier of torchvision by name: `{name: torchvision, arch: resnet50}`; `pretrained` fetches its weights."""

from typing import Any

from kd2edge.errors import UserError, first_line
from kd2edge.kd.foreign import ForeignBackbone, torchvision_models
from kd2edge.kd.net import Shape
from kd2edge.shelves import PluginConfig, nearest


class Torchvision(ForeignBackbone):
    """torchvision.models.<arch>; a pretrained one keeps its own classifier, which the head takes over where it fits."""

    class Config(PluginConfig):
        """`pretrained` is true for the newest weights, or names some: IMAGENET1K_V1, as the literature's teachers.

        `classifier` is the path of the layer that classifies, as "head.fc", where the last linear one does not.
        """

        arch: str
        pretrained: bool | str = False
        classifier: str | None = None

    def __init__(self, config: Config, shape: Shape) -> None:
        models = torchvision_models("A torchvision model")
        known = models.list_models(module=models)
        if config.arch not in known:
            raise UserError(f"torchvision has no classifier {config.arch!r}{nearest(config.arch, known)}.")
        wanted = _weights(models, config) if config.pretrained else None
        options = {"weights": wanted} if wanted else {"weights": None, "num_classes": shape.classes}
        try:
            body = models.get_model(config.arch, **options)
        except OSError as error:
            raise UserError(f"The weights of {config.arch} cannot be fetched: {first_line(error)}.") from error
        super().__init__(config, shape, body, wanted is not None, config.classifier)


def _weights(models: Any, config: Torchvision.Config) -> str:
    """The name that torchvision knows these weights by; "DEFAULT" is its best."""
    if isinstance(config.pretrained, bool):
        return "DEFAULT"
    known = [weights.name for weights in models.get_model_weights(config.arch)]
    if config.pretrained not in known:
        raise UserError(
            f"torchvision has no weights {config.pretrained!r} of {config.arch}{nearest(config.pretrained, known)}.",
            f"true, or one of: {', '.join(known)}",
        )
    return config.pretrained
