"""How fast a `train.rec` is read beside the bare JPEG decoder: python benchmarks/recordio.py FOLDER [--out FILE].

Turn by turn in random order, on the same images and as many threads. Pillow alone is given the encoded bytes in memory:
"decode" ends at Pillow's own pixels, "array" at numpy's, "batch" has put them into one array a batch. Of the reader,
"records" finds each record in the file and gives an array as "array" does, "split" reads shuffled batches as training
does, to be held against "batch".
"""

import argparse
import io
import json
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from kd2edge import stats
from kd2edge.data import Images, _aligned, open_source
from kd2edge.data._aligned import Aligned
from kd2edge.data._recordio import Records
from kd2edge.edge.devices import fingerprint, versions
from kd2edge.files import write_atomic

Taken = dict[str, list[tuple[float, float]]]  # wall and processor seconds of each turn


def pixels(encoded: bytes) -> Any:
    return Image.open(io.BytesIO(encoded)).load()


def array(encoded: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def put(out: Images, images: list[bytes], start: int, place: int) -> None:
    out[place - start] = array(images[place])


def in_turns(split: Aligned, records: Records, threads: int, chosen: argparse.Namespace) -> Taken:
    random = np.random.default_rng(0)
    index = random.permutation(len(split))[: chosen.images].astype(np.int64)
    positions = index.tolist()
    images = [records.image(position + 1) for position in positions]
    _aligned.THREADS = threads
    pool = ThreadPoolExecutor(threads)

    def shared(one: Callable[[int], Any], places: range) -> None:
        def some(start: int) -> None:
            for place in places[start::threads]:
                one(place)

        list(pool.map(some, range(threads))) if threads > 1 else some(0)

    def batches() -> None:
        for start in range(0, len(images), chosen.batch):
            out = np.empty((chosen.batch, *split.size, 3), np.uint8)
            shared(partial(put, out, images, start), range(start, min(start + chosen.batch, len(images))))

    def split_batches() -> None:
        for start in range(0, len(index), chosen.batch):
            split.read(index[start : start + chosen.batch])

    whole = range(len(images))
    contestants: dict[str, Callable[[], None]] = {
        "decode": lambda: shared(lambda place: pixels(images[place]), whole),
        "array": lambda: shared(lambda place: array(images[place]), whole),
        "batch": batches,
        "records": lambda: shared(lambda place: split.pixels(positions[place]), whole),
        "split": split_batches,
    }
    taken: Taken = {name: [] for name in contestants}
    for turn in range(chosen.turns + 1):
        for name in random.permutation(list(contestants)).tolist():
            wall, processor = time.perf_counter(), time.process_time()
            contestants[name]()
            if turn:  # the first warms up
                taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    pool.shutdown()
    return taken


def summary(taken: Taken, images: int) -> dict[str, Any]:
    """Median images a second of each, and rates over one another with the median's 95 % interval."""
    out: dict[str, Any] = {}
    for clock, name in enumerate(("wall", "processor")):
        seconds = {who: [turn[clock] for turn in turns] for who, turns in taken.items()}
        out[name] = {f"{who}_images_s": round(images / stats.median(times)) for who, times in seconds.items()}
        for ours, raw in (("records", "array"), ("split", "batch"), ("split", "array"), ("split", "decode")):
            ratios = [a / b for a, b in zip(seconds[raw], seconds[ours], strict=True)]
            low, high = stats.percentile_interval(ratios, 50) or (min(ratios), max(ratios))
            out[name][f"{ours}_over_{raw}"] = [round(number, 3) for number in (stats.median(ratios), low, high)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with train.rec, train.idx and property")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    split = open_source({"name": "insightface_rec", "path": str(chosen.folder)}).split("train")
    assert isinstance(split, Aligned)
    records = Records(chosen.folder / "train.rec")
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/recordio.py", "FOLDER", *sys.argv[2:]]),
        "decoder": f"pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}",
        "images": {"in_file": len(split), "read": chosen.images, "size": split.read(np.arange(1)).shape[1:]},
        "conditions": {"batch": chosen.batch, "turns": chosen.turns, "threads": chosen.threads},
        "device": fingerprint(),
        "versions": versions(),
    }
    for threads in chosen.threads:
        found = summary(in_turns(split, records, threads, chosen), chosen.images)
        result[f"threads_{threads}"] = found
        print(f"{threads} threads: {json.dumps(found)}", flush=True)
    if chosen.out:
        write_atomic(chosen.out, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
