"""What a quantized file is worth: its metrics, what it keeps of FP32, and how far it is from ours with an interval."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.quantization import cells
from benchmarks.peers.quantization.cells import Cell, Difference
from benchmarks.peers.quantization.peers import FP32
from benchmarks.peers.quantization.rtx import verdict
from benchmarks.peers.quantization.runtime import outputs
from benchmarks.peers.quantization.subjects import Floats, Subject
from kd2edge.graph.parity import compare
from kd2edge.metrics import topk, verify
from kd2edge.metrics.paired import Drop, tar_drop, top1_drop

FARS = (1e-3, 1e-4)


def judged(cell: Cell, subject: Subject) -> Cell:
    """The cell with its numbers; the outputs are kept beside the file, for comparing with ours."""
    model = subject.path(f"{cell.tool}.onnx")
    found = outputs(model, subject.images("test"))
    np.save(model.with_suffix(".outputs.npy"), found)
    update: dict[str, Any] = {"metrics": metrics(found, subject), "images": len(found), "rtx": verdict(model)}
    if cell.tool != FP32:
        parity = compare(kept(subject, FP32), found)
        update |= {"cosine": parity.cosine_mean, "cosine_min": parity.cosine_min}
        update["agreement"] = 100 * parity.argmax_agreement if subject.output == "logits" else None
    return cell.model_copy(update=update)


def plain(subject: Subject, results: Path = cells.RESULTS) -> None:
    """FP32's cell, and its outputs: a checkout brings the one without the other."""
    cell = cells.read(cells.path_of(subject.name, FP32, results))
    if cell is None or not cells.valid(cell, subject, "FP32"):
        cell = cells.blank(subject, FP32, "FP32")
    elif subject.path(f"{FP32}.outputs.npy").is_file():
        return
    cells.write(judged(cell, subject), results)


def kept(subject: Subject, tool: str) -> Floats:
    return np.load(subject.path(f"{tool}.outputs.npy"))  # type: ignore[no-any-return]


def metrics(found: Floats, subject: Subject) -> dict[str, float]:
    """In %. `topk` and `verify` are those of kd2edge's own bench."""
    if subject.output == "logits":
        return {"top1": 100 * topk(found, subject.labels, (1,))[1]}
    tar = verify(found, subject.labels, FARS).tar
    return {f"tar@{far:.0e}".replace("e-0", "e-"): 100 * tar[far] for far in FARS}


def differences(cell: Cell, ours: Cell, subject: Subject) -> Cell:
    """The cell with its distance from ours; images are resampled together, of embeddings whole identities."""
    assert ours.sha256 is not None
    theirs, own = kept(subject, cell.tool), kept(subject, ours.tool)
    found = {name: _difference(drop, ours.sha256) for name, drop in _drops(theirs, own, subject).items()}
    return cell.model_copy(update={"difference": found})


def _drops(theirs: Floats, own: Floats, subject: Subject) -> dict[str, Drop]:
    labels: npt.NDArray[np.int64] = subject.labels
    if subject.output == "logits":
        return {"top1": top1_drop(theirs, own, labels)}
    return {f"tar@{far:.0e}".replace("e-0", "e-"): tar_drop(theirs, own, labels, far) for far in FARS}


def _difference(drop: Drop, ours: str) -> Difference:
    return Difference(value=-drop.drop, low=-drop.high, high=-drop.low, ours=ours)
