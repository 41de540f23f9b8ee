"""What `kd2edge bench` adds to onnxruntime's own loop at batch 1: python benchmarks/overhead.py MODEL.onnx.

The bare loop is `bare` below: `session.run` on feeds made beforehand, between two readings of the clock. Both are given
the same images of the model's own test set. "one process" has both loops in turns on one and the same session, so that
the loop is all that differs; throughput there is calls by the time that the whole loop took, by the wall clock and of
the processor, which a busy machine disturbs less. "fresh processes" has in turns the product's own worker and a process
in which onnxruntime is opened as anyone would. Ratios are kd2edge's over the bare loop's, with intervals that resample
the turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kd2edge import stats
from kd2edge.artifact import Artifact, open_artifact
from kd2edge.data import Images, InMemory, normalize, open_source
from kd2edge.edge.decoded import decode
from kd2edge.edge.devices import fingerprint, versions
from kd2edge.edge.jobs import SAMPLES, Jobs
from kd2edge.edge.kept import kept_for_now
from kd2edge.edge.measure import measure, undisturbed
from kd2edge.edge.session import Floats, open_backend
from kd2edge.edge.worker import IMAGES_TO_TIME
from kd2edge.files import write_atomic
from kd2edge.schema import Latency, Target

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "overhead.json"
TARGET = Target(about="one thread", backend="onnxruntime", flavour="ort-x86", precisions=("fp32", "int8"))
ADDED_AT_MOST, P50_WITHIN = 0.01, 0.02

Nanoseconds = npt.NDArray[np.int64]


class Turn(NamedTuple):
    """What one loop took in one turn, in ns: each call, int64 [n], and all of it by the wall and of the processor."""

    ns: Nanoseconds
    wall: int
    processor: int | None = None


def timed(loop: Callable[[], Nanoseconds]) -> Turn:
    wall, processor = time.perf_counter_ns(), time.process_time_ns()
    ns = loop()
    return Turn(ns, time.perf_counter_ns() - wall, time.process_time_ns() - processor)


def bare(session: Any, feeds: list[dict[str, Floats]], seconds: float) -> Nanoseconds:
    """onnxruntime's own loop."""
    clock, taken = time.perf_counter_ns, []
    with undisturbed():
        first = clock()
        for feed in cycle(feeds):
            start = clock()
            session.run(None, feed)
            end = clock()
            taken.append(end - start)
            if end - first >= 1e9 * seconds:
                break
        return np.array(taken, np.int64)


def in_one_process(model: Artifact, images: Floats, turns: int, seconds: float) -> tuple[list[Turn], list[Turn]]:
    """Both loops on one session, who begins changing each time; the first turn of each is for warming up."""
    plan = Latency(warmup_ms=0, seconds=seconds, min_samples=1)
    ours: list[Turn] = []
    theirs: list[Turn] = []
    with open_backend(TARGET.backend).open(model.path, TARGET) as session:
        raw: Any = vars(session)["_session"]
        feeds = [{raw.get_inputs()[0].name: images[place : place + 1]} for place in range(len(images))]
        for turn in range(turns + 1):
            for side in ((0, 1), (1, 0))[turn % 2]:
                if side == 0:
                    ours.append(timed(lambda: measure(session, images, plan).ns))
                else:
                    theirs.append(timed(lambda: bare(raw, feeds, seconds)))
    return ours[1:], theirs[1:]


def in_fresh_processes(
    model: Artifact, pixels: Images, images: Floats, repeats: int, seconds: float, warmup_ms: float
) -> tuple[list[Turn], list[Turn]]:
    """A worker of `kd2edge bench` and a process of the bare loop in turns; their walls are the sums of their calls."""
    split = InMemory(pixels, np.zeros(len(pixels), np.int64), {}, [])
    plan = Latency(warmup_ms=warmup_ms, seconds=seconds, min_samples=1)
    ours: list[Turn] = []
    theirs: list[Turn] = []
    with kept_for_now() as kept:
        decoded = decode(split, kept.folder / "images.npy")
        jobs = Jobs("model", model, TARGET, kept)
        few = kept.folder / "feeds.npy"
        np.save(few, images)
        for turn in range(1, repeats + 1):
            for side in ((0, 1), (1, 0))[turn % 2]:
                if side == 0:
                    answer, cell = jobs.done(decoded, {"latency": plan, "samples": SAMPLES, "turn": turn})
                    if cell is None or answer.fault:
                        raise SystemExit(answer.fault)
                    ns = np.load(kept.file(cell, SAMPLES))
                    ours.append(Turn(ns, int(ns.sum())))
                else:
                    theirs.append(_bare_process(model.path, few, seconds, warmup_ms))
    return ours, theirs


def _bare_process(model: Path, feeds: Path, seconds: float, warmup_ms: float) -> Turn:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "samples.npy")
        options = {"--bare": feeds, "--seconds": seconds, "--warmup-ms": warmup_ms, "--out": out}
        given = [str(word) for option in options.items() for word in option]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(TARGET.threads)}
        subprocess.run([sys.executable, __file__, str(model), *given], env=environment, check=True)
        ns = np.load(out)
        return Turn(ns, int(ns.sum()))


def bare_alone(model: Path, feeds: Path, seconds: float, warmup_ms: float, out: Path) -> None:
    """A process of its own: onnxruntime as anyone would open it, on one thread, warmed up as long as the worker is."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = TARGET.threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name, images = session.get_inputs()[0].name, np.load(feeds)
    made = [{name: images[place : place + 1]} for place in range(len(images))]
    bare(session, made, warmup_ms / 1000)
    np.save(out, bare(session, made, seconds))


def compared(ours: list[Turn], theirs: list[Turn]) -> dict[str, Any]:
    """Latencies in ms, calls a second, and ratios [value, low, high] at 95 %, null where turns are too few."""
    sides = {"kd2edge": ours, "bare": theirs}
    p50 = stats.percentile_ratio([turn.ns for turn in ours], [turn.ns for turn in theirs])
    calls = np.array([[len(turn.ns) for turn in side] for side in sides.values()])
    found = {
        "turns": len(ours),
        "calls": {name: sum(len(turn.ns) for turn in side) for name, side in sides.items()},
        "p50_ms": {name: _p50([turn.ns for turn in side]) for name, side in sides.items()},
        "p50_ms_by_turn": {name: [_p50([turn.ns]) for turn in side] for name, side in sides.items()},
        "p50_ratio": _told(p50),
    }
    for clock in ("wall", "processor"):
        took = [[getattr(turn, clock) for turn in side] for side in sides.values()]
        if all(ns is not None for side in took for ns in side):
            rates, ratio = _throughput(calls, np.array(took))
            found[f"calls_a_second_by_{clock}"] = dict(zip(sides, rates, strict=True))
            found[f"throughput_ratio_by_{clock}"] = ratio
    return found


def _throughput(calls: Nanoseconds, took: Nanoseconds) -> tuple[list[float], list[float | None]]:
    """Calls a second of both sides, and the ratio of the first's to the second's; int64 [2, turns] each."""

    def ratio(weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        rates = (weights @ calls.T) / (weights @ took.T)
        return np.asarray(rates[:, 0] / rates[:, 1], np.float64)

    rates = 1e9 * calls.sum(axis=1) / took.sum(axis=1)
    return [round(float(rate), 1) for rate in rates], _told(stats.bootstrap(ratio, calls.shape[1]))


def _p50(taken: list[Nanoseconds]) -> float:
    return round(stats.percentile(np.concatenate(taken), 50) / 1e6, 6)


def _told(found: stats.Bootstrap) -> list[float | None]:
    low, high = found.interval() or (None, None)
    return [None if number is None else round(number, 5) for number in (found.value, low, high)]


def report(given: argparse.Namespace) -> dict[str, Any]:
    model = open_artifact(given.model)
    data, preprocessing = model.manifest.data, model.manifest.preprocessing
    if data is None or preprocessing is None:
        raise SystemExit(f"The manifest of {given.model.name} names no data, or no preprocessing.")
    pixels = open_source(data.model_dump()).split("test").read(np.arange(IMAGES_TO_TIME))
    images = normalize(pixels, preprocessing)
    device = fingerprint()
    one = compared(*in_one_process(model, images, given.turns, given.seconds))
    fresh = compared(*in_fresh_processes(model, pixels, images, given.repeats, given.seconds, given.warmup_ms))
    options = f"--turns {given.turns} --repeats {given.repeats} --seconds {given.seconds:g}"
    options += f" --warmup-ms {given.warmup_ms:g}"
    return {
        "command": f"python benchmarks/overhead.py {model.path.name} {options}",
        "model": {
            "file": model.path.name,
            "sha256": model.manifest.sha256,
            "precision": model.manifest.precision,
            "input": list(images.shape[1:]),
        },
        "conditions": {
            "batch": 1,
            "threads": TARGET.threads,
            "images": len(images),
            "data": data.name,
            "seconds_a_turn": given.seconds,
            "warmup_ms": given.warmup_ms,
            "confidence": 0.95,
        },
        "device": device,
        "versions": versions(),
        "one_process": one,
        "fresh_processes": fresh,
        "met": _met(one, fresh),
    }


def _met(one: dict[str, Any], fresh: dict[str, Any]) -> dict[str, bool]:
    """By the values, and where it says "surely" by the whole interval."""
    added, _, added_at_most = one["p50_ratio"]
    _, low, high = fresh["p50_ratio"]
    return {
        "added_at_most_1_percent": added <= 1 + ADDED_AT_MOST,
        "added_surely_at_most_1_percent": added_at_most is not None and added_at_most <= 1 + ADDED_AT_MOST,
        "throughput_at_least_99_percent": one["throughput_ratio_by_wall"][0] >= 1 - ADDED_AT_MOST,
        "processor_throughput_at_least_99_percent": one["throughput_ratio_by_processor"][0] >= 1 - ADDED_AT_MOST,
        "p50_surely_within_2_percent": low is not None and 1 - P50_WITHIN <= low <= high <= 1 + P50_WITHIN,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="the smallest student, its manifest beside it")
    parser.add_argument("--turns", type=int, default=20, help="of each loop in one process")
    parser.add_argument("--repeats", type=int, default=10, help="of each in fresh processes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--warmup-ms", type=float, default=1000.0, help="of each fresh process")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--bare", type=Path, metavar="FEEDS.npy", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        bare_alone(given.model, given.bare, given.seconds, given.warmup_ms, given.out)
        return
    made = report(given)
    print(json.dumps({name: made[name] for name in ("one_process", "fresh_processes", "met")}, indent=1))
    write_atomic(given.out, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
