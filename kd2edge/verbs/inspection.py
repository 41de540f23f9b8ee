"""What can be said of a model file beside speed and accuracy: its cost on paper, and how well its integers are used."""

from collections.abc import Iterator, Sequence

from onnx import ModelProto

from kd2edge.artifact import Artifact
from kd2edge.data import Source
from kd2edge.errors import UserError
from kd2edge.graph import audit, cost
from kd2edge.graph.load import load_model
from kd2edge.report.model import Number
from kd2edge.verbs.engines import graph_of
from kd2edge.verbs.images import batches_of

AUDITED = 512  # images on which the quantizers of an INT8 file are watched


def inspected(
    items: Sequence[tuple[str, Artifact]], source: Source, split: str
) -> Iterator[tuple[str, dict[str, Number]]]:
    """Role → numbers, from images of `split` where any are needed. An unreadable file says so in its row, not here.

    Of an engine it is the ONNX file that it was built from, where that lies beside it.
    """
    for role, artifact in items:
        try:
            graph = graph_of(artifact)
            if graph is None:
                continue
            model = load_model(graph)
            numbers = _costs(model)
            if artifact.manifest.precision == "int8" and artifact.manifest.preprocessing is not None:
                numbers |= _integers(model, artifact, source, split)
        except UserError:
            continue
        yield role, numbers


def _costs(model: ModelProto) -> dict[str, Number]:
    return {
        "parameters": Number(value=cost.parameters(model), unit="", better="lower"),
        "macs": Number(value=cost.macs(model), unit="", better="lower"),
    }


def _integers(model: ModelProto, artifact: Artifact, source: Source, split: str) -> dict[str, Number]:
    """The least share of its integer range that any activation uses, and the activation that does."""
    batches = batches_of(artifact, source, split, AUDITED)
    used = audit.range_used(model, batches)
    if not used:
        return {}
    worst = min(used, key=lambda name: used[name])
    value, note = 100 * used[worst], f"least of {len(used)} quantized activations: {worst}"
    return {"integer_range": Number(value=value, unit="%", n=len(batches), better="higher", note=note)}
