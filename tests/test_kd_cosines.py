"""Cosines block by block are the cosines, their gradients too, and few centres go the way they always went."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd2edge.kd import cosines

pytestmark = pytest.mark.kd

Found = tuple[Tensor, Tensor | None, Tensor | None]


def found(few: int, precision: str, monkeypatch: pytest.MonkeyPatch, trains: bool = True) -> Found:
    """The cosines of 5 rows with 17 centres, and the gradients of both; the 17 are few or go in blocks of four."""
    monkeypatch.setattr(cosines, "FEW", few)
    monkeypatch.setattr(cosines, "AT_ONCE", 4)
    generator = torch.Generator().manual_seed(0)
    rows, centres, pull = (torch.randn(shape, generator=generator) for shape in ((5, 8), (17, 8), (5, 17)))
    rows.requires_grad_()
    centres.requires_grad_(trains)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        result = cosines.cosines(F.normalize(rows), centres)
    (result * pull).sum().backward()  # type: ignore[no-untyped-call]
    return result.detach(), rows.grad, centres.grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_blocks_are_the_whole(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, blocks = (found(few, precision, monkeypatch) for few in (17, 16))
    assert blocks[0].dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
    tolerance = 1e-6 if precision == "fp32" else 2e-2
    for one, other in zip(blocks, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_frozen_centres_get_no_gradient_and_rows_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, blocks = (found(few, "fp32", monkeypatch, trains=False) for few in (17, 16))
    assert blocks[2] is None
    torch.testing.assert_close(blocks[1], whole[1])


def test_a_centre_at_zero_is_no_division_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "FEW", 0)
    centres = torch.zeros(3, 4, requires_grad=True)
    cosines.cosines(torch.eye(4), centres).sum().backward()  # type: ignore[no-untyped-call]
    assert centres.grad is not None
    assert bool(torch.isfinite(centres.grad).all())


def test_what_is_exported_has_no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of hundreds of slices would be slow to export, and slower to read."""
    monkeypatch.setattr(cosines, "FEW", 0)
    monkeypatch.setattr(cosines, "AT_ONCE", 4)

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(17, 8))

        def forward(self, rows: Tensor) -> Tensor:
            return cosines.cosines(rows, self.weight)

    graph = torch.export.export(Head(), (torch.randn(2, 8),)).graph
    assert [node.target for node in graph.nodes].count(torch.ops.aten.linear.default) == 1
