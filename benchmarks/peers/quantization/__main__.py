"""The comparison as one command: what is done is kept, what is missing is done, the table is made of it."""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.peers.quantization import cells, judge, table
from benchmarks.peers.quantization.cells import Cell
from benchmarks.peers.quantization.latency import in_turns
from benchmarks.peers.quantization.peers import OURS, PEERS, Peer
from benchmarks.peers.quantization.subjects import ROOT, Sources, Subject, names, prepare
from kd2edge.errors import UserError

TIMED = 32  # images that latencies are measured with, in turn


def main() -> int:
    given = _options()
    try:
        if not given.table:
            sources = Sources(given.cifar, given.faces, given.weights, tuple(given.run))
            for name in given.model or names(sources):
                _model(prepare(name, sources, given.work), given)
        table.write()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.quantization", description=__doc__)
    parser.add_argument("--model", action="append", help="one model; may be repeated; all by default")
    parser.add_argument("--tool", action="append", help="one tool; may be repeated; all by default")
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--faces", type=Path, help="folder of train.rec, lfw_dev_test.bin and lfw_dev_test_names.txt")
    parser.add_argument("--weights", type=Path, help="folder of the published weights")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a run whose fp32.onnx joins in")
    parser.add_argument("--modelopt", type=Path, default=Path(sys.executable), help="interpreter that has ModelOpt")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "peers-quantization", help="models and arrays")
    parser.add_argument("--again", action="store_true", help="do the named tools anew, though they are done")
    parser.add_argument("--no-latency", action="store_true", help="measure no latency: the machine is not quiet")
    parser.add_argument("--table", action="store_true", help="only write the README's table")
    return parser.parse_args()


def _model(subject: Subject, given: argparse.Namespace) -> None:
    wanted = [peer for peer in PEERS if not given.tool or peer.name in given.tool]
    judge.plain(subject)
    for peer in wanted:
        old = cells.read(cells.path_of(subject.name, peer.name))
        if given.again or not cells.valid(old, subject, peer.about):
            _tell(cells.write(_done(subject, peer, given.modelopt)))
            _compare(subject)
            table.write()
    _compare(subject)
    if not given.no_latency:
        _time(subject, anew=given.again)


def _done(subject: Subject, peer: Peer, modelopt: Path) -> Cell:
    python = modelopt if peer.adapter.startswith("modelopt") else Path(sys.executable)
    made = cells.quantized(subject, peer, python)
    return made if made.fault else judge.judged(made, subject)


def _sound(subject: Subject) -> dict[str, Cell]:
    """The cells of a model that have numbers and whose files are here, by tool, FP32 first."""
    read = [cells.read(cells.path_of(subject.name, name)) for name in table.ORDER]
    return {cell.tool: cell for cell in read if cell and not cell.fault and subject.path(f"{cell.tool}.onnx").is_file()}


def _compare(subject: Subject) -> None:
    sound = _sound(subject)
    ours = sound.get(OURS)
    for cell in sound.values():
        old = {difference.ours for difference in cell.difference.values()}
        if ours is not None and cell.tool != OURS and old != {ours.sha256}:
            cells.write(judge.differences(cell, ours, subject))


def _time(subject: Subject, anew: bool) -> None:
    """All files of a model together, whenever one of them has no latency yet."""
    sound = _sound(subject)
    if anew or any(cell.latency is None for cell in sound.values()):
        images = np.array(subject.images("test")[:TIMED])
        found = in_turns({name: subject.path(f"{name}.onnx") for name in sound}, images)
        for name, cell in sound.items():
            cells.write(cell.model_copy(update={"latency": found[name]}))


def _tell(cell: Cell) -> None:
    print(f"{cell.model}, {cell.about}: {cell.fault or cell.metrics}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
