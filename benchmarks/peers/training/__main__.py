"""The step of kd2edge, the papers' loop and torchdistill, timed in turns: one command, a file for each subject."""

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.peers.training import curves, measure, result, table
from benchmarks.peers.training.result import RESULTS
from benchmarks.peers.training.subjects import SUBJECTS
from kd2edge.errors import UserError


def main() -> int:
    given = _options()
    try:
        if not given.table:
            _measure(given)
        if given.out == RESULTS:
            table.write()
            curves.write()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.training", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", nargs="+", choices=SUBJECTS, help="some subjects; by default all of the device")
    parser.add_argument("--turns", type=int, default=10, help="blocks of steps of each contender")
    parser.add_argument("--ablation-turns", type=int, default=7, help="of kd2edge with a feature left out; 0: none")
    parser.add_argument("--scale", type=float, help="of the steps in a block; by default 1, on a GPU 5")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each contender's process")
    parser.add_argument(
        "--workers", type=int, help="of the data loaders; by default 2, on a GPU 8 as in the papers' codes"
    )
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10; else noise")
    parser.add_argument("--faces", type=Path, help="folder of a train.rec of insightface's; else noise")
    parser.add_argument("--weights", type=Path, help="folder of resnet56-4bfd9763.th; else an untrained teacher")
    parser.add_argument("--torchdistill", type=Path, default=Path(sys.executable), help="interpreter that has it")
    parser.add_argument("--work", type=Path, help="folder for images and checkpoints, kept; else a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--table", action="store_true", help="only write the README's tables and the figure")
    return parser.parse_args()


def _measure(given: argparse.Namespace) -> None:
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no GPU that this torch can use.", "--device cpu")
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        for name in given.rows or [name for name, each in SUBJECTS.items() if given.device in each.devices]:
            if result.path_of(name, given.device, given.out).is_file() and not given.again:
                print(f"{name}: measured before; --again does it anew", flush=True)
                continue
            done = measure.measured(SUBJECTS[name], _plan(given, work / name), _command())
            result.write(done, given.device, given.out)
            print(table.told(done), flush=True)


def _plan(given: argparse.Namespace, folder: Path) -> measure.Options:
    return measure.Options(
        device=given.device,
        turns=given.turns,
        ablation_turns=given.ablation_turns,
        scale=given.scale or (5.0 if given.device == "cuda" else 1.0),
        threads=given.threads,
        workers=given.workers or (8 if given.device == "cuda" else 2),
        folder=folder,
        cifar=given.cifar,
        faces=given.faces,
        weights=given.weights,
        torchdistill=given.torchdistill,
        ablate=given.ablation_turns > 0,
    )


def _command() -> str:
    """As it was given, without the places of this machine."""
    words, placed = [], False
    for word in sys.argv[1:]:
        words.append(Path(word).name if placed else word)
        placed = word in ("--cifar", "--faces", "--weights", "--torchdistill", "--work", "--out")
    return shlex.join(["python", "-m", "benchmarks.peers.training", *words])


if __name__ == "__main__":
    sys.exit(main())
