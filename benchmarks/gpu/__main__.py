"""One call on a machine with one NVIDIA GPU: what accepts it, engines beside torch and onnxruntime, batch sweeps.

Cells in order of importance, each in a process of its own, until the minutes are over; what is done is kept. Without a
GPU (or with --dry) everything is done that needs none, and each cell that needs one says so in the place of a number.
"""

import argparse
import os
import time
from pathlib import Path

from benchmarks.gpu import subjects, table
from benchmarks.gpu.cells import ORDER, Room, plan, read, run
from kd2edge.files import write_atomic

AGAIN = ("timed out", "not reached", "failed")


def measured(room: Room, names: list[str], minutes: float) -> None:
    """Do the cells that are not there yet, and leave the page after each."""
    over = time.monotonic() + 60 * minutes
    for place, name in enumerate(names, 1):
        found = read(room, name)
        if found is None or found.state in AGAIN or (found.state == "no GPU" and not room.dry):
            found = run(room, name, over - time.monotonic())
        print(f"[{place}/{len(names)}] {name}: {found.state}, {found.seconds:.0f} s. {found.reason or ''}", flush=True)
        write_atomic(room.out / table.PAGE, table.page(room, names).encode())
    table.kept(room, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="models, cells and results")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing is begun")
    parser.add_argument("--rtx", type=Path, metavar="FOLDER", help="where TensorRT for RTX lies unpacked")
    parser.add_argument("--prepared", type=Path, default=subjects.GRAPHS, metavar="FOLDER", help="graphs of the nets")
    parser.add_argument("--dry", action="store_true", help="as on a machine without a GPU")
    parser.add_argument("--nets", nargs="+", choices=[*subjects.BY_NAME], default=[*subjects.BY_NAME])
    parser.add_argument("--precisions", nargs="+", choices=ORDER, default=ORDER)
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="only write the graphs of the nets there")
    parser.add_argument("--run", type=Path, metavar="RUN", help="with --prepare: take the student of this run")
    given = parser.parse_args()
    if given.prepare is not None:
        for path in subjects.prepare(given.prepare, given.run):
            print(f"{path.name}: {path.stat().st_size:,} bytes")
        return
    if given.out is None:
        parser.error("--out FOLDER says where the results go")
    if given.rtx is not None:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(given.rtx.resolve()), os.environ.get("PYTHONPATH", "")])
    room = Room(given.out.resolve(), given.prepared.resolve(), given.dry)
    room.work.mkdir(parents=True, exist_ok=True)
    measured(room, plan(given.nets, given.precisions), given.minutes)
    print((room.out / table.PAGE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
