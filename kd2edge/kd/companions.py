"""Losses that go beside any logit-based method: the distance of embeddings, and contrast (CRD).

Both look at the student's embedding [N, d_s] and the teacher's [N, d_t]; where the widths differ, the distance goes
through a linear adapter that is trained beside the student: the method's own, or one that is dropped with the loss.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from kd2edge.kd.crd import CRD
from kd2edge.kd.method import Answers
from kd2edge.kd.net import Net, Out, adapter
from kd2edge.shelves import PluginConfig


class Companions(PluginConfig):
    """`embedding_l2` weighs mean ‖ẑ_s − ẑ_t‖² of normalised embeddings; `crd` contrasts them. Both are off by default.

    The released TH-KD code sums the distance over the batch: its weight is this one divided by the batch's size.
    """

    embedding_l2: float = Field(0.0, ge=0)
    crd: CRD.Config | None = None


class Company(nn.Module):
    """The companions of one student and teacher, with what they train."""

    def __init__(self, config: Companions, student: Net, teacher: Net, bridge: nn.Module | None = None) -> None:
        """`bridge` is the method's own adapter, if it has one, so that the distance is taken where its head is."""
        super().__init__()
        given, wanted = student.head.weight.shape[1], teacher.head.weight.shape[1]
        self.weight = config.embedding_l2
        own = adapter(given, wanted) if self.weight and bridge is None else nn.Identity()
        self.adapter = own if bridge is None else bridge
        self.crd = CRD(config.crd, given, wanted) if config.crd else None

    def forward(self, out: Out, answers: Answers, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name; none where all companions are off."""
        terms = {}
        if self.weight:
            distance = normalize(self.adapter(out.embedding).float()) - normalize(answers.embedding.float())
            terms["embedding_l2"] = self.weight * distance.square().sum(1).mean()
        if self.crd is not None:
            terms["crd"] = self.crd.config.weight * self.crd(out.embedding, answers.embedding, labels)
        return terms
