"""The contract of a layout: how a published state dict, named and laid out by others, becomes one of our nets'."""

from collections.abc import Mapping

from torch import Tensor

from kd2edge.kd.net import Net


class Layout:
    """One family of published nets. A file of the layouts shelf holds one subclass."""

    about: str  # the family, for people: "FaceX-Zoo MobileFaceNet"

    def fits(self, given: Mapping[str, Tensor]) -> bool:
        """Whether a state dict, wrappers' prefixes dropped, is of this family, judged by the names of its tensors."""
        raise NotImplementedError

    def translated(self, given: Mapping[str, Tensor], net: Net) -> dict[str, Tensor]:
        """The state dict under `net`'s names, for images as kd2edge feeds them: RGB.

        It may lack the head. Names that the net has no tensor for are for the caller to refuse, as are shapes.
        """
        raise NotImplementedError
