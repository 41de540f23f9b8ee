"""What a training step of a classifier of very many classes takes, by the share of classes that it samples.

    python benchmarks/classes.py [--classes 360232] [--out benchmarks/results/classes.json]

A step is the head's own: forward, backward and update of an ArcFace head by margin softmax, and KL from a teacher's
head of the same size, as `kd` has them; no backbone. Each row is a process of its own, so that its peak memory is its
own. `predicted` is the formula of docs/many-classes.md.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARES, THREADS = (1.0, 0.3, 0.1, 0.03, 0.01), (1, 2)
RESIDENT, ROWS, COLUMNS = 3, 2, 6  # matrices [C, d] that stay; matrices [k, d] and [N, k] that live at the peak
MB = 1e6


def predicted(classes: int, width: int, batch: int, share: float) -> float:
    """Bytes of a step in float32 beside the process itself: what stays, and what lives while it lasts."""
    drawn = classes * share
    return 4 * (RESIDENT * classes * width + ROWS * drawn * width + COLUMNS * batch * drawn)


def measure(classes: int, width: int, batch: int, share: float, threads: int, steps: int) -> dict[str, Any]:
    """Seconds of each step after the first, and peak memory, of this process."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    train(1000, width, batch, share, 2)  # what the process and the library take once
    before = peak()
    seconds = train(classes, width, batch, share, steps + 1)
    return {"seconds": seconds[1:], "process_bytes": before, "peak_bytes": peak()}


def train(classes: int, width: int, batch: int, share: float, steps: int) -> list[tuple[float, float]]:
    """Seconds of each step by the clock and of the processor, on random embeddings and labels."""
    import torch

    from kd2edge.kd import heads
    from kd2edge.kd.losses import kl
    from kd2edge.kd.partial import sampled
    from kd2edge.kd.schedule import optimizer
    from kd2edge.schema import Train

    own = heads.ArcFace(width, classes, 64, 0.5, share)
    teacher = heads.ArcFace(width, classes, 64, 0.5).requires_grad_(False)
    update, seconds = optimizer(own, Train.model_validate({"epochs": 1, "lr": 0.1})), []
    for _ in range(steps):
        embedding, taught = torch.randn(batch, width, requires_grad=True), torch.randn(batch, width)
        labels = torch.randint(classes, (batch,))
        began = time.perf_counter(), time.process_time()
        with sampled(labels, own, teacher) as columns:
            logits = own(embedding)
            ce = torch.nn.functional.cross_entropy(own.with_margin(logits, columns), columns)
            loss = ce + kl(logits, teacher(taught), 4.0)
        update.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        update.step()
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        del logits, ce, loss
    return seconds


def peak() -> int:
    """The process's largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def row(given: argparse.Namespace, share: float, threads: int) -> dict[str, Any]:
    """One share and number of threads, in a process of its own."""
    settings = (given.classes, given.width, given.batch, share, threads, given.steps)
    command = [sys.executable, __file__, "--child", json.dumps(settings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    (clock, cpu), beside = zip(*found["seconds"], strict=True), predicted(*settings[:4])
    return {
        "share": share,
        "classes_per_step": math.ceil(given.classes * share),
        "threads": threads,
        "seconds_median": statistics.median(clock),
        "cpu_seconds_median": statistics.median(cpu),
        "seconds": clock,
        "load": os.getloadavg()[0],
        "peak_mb": found["peak_bytes"] / MB,
        "process_mb": found["process_bytes"] / MB,
        "predicted_mb": (beside + found["process_bytes"]) / MB,
    }


def conditions() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=360_232)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "classes.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(*json.loads(given.child))))
        return
    rows = []
    for threads in THREADS:
        for share in SHARES:
            rows.append(row(given, share, threads))
            told = rows[-1]
            print(
                f"{threads} thread(s)  share {share:<5g} {told['seconds_median']:8.3f} s "
                f"(processor {told['cpu_seconds_median']:8.3f} s) "
                f"{told['peak_mb']:8.0f} MB  predicted {told['predicted_mb']:8.0f} MB",
                flush=True,
            )
    setting = {name: getattr(given, name) for name in ("classes", "width", "batch", "steps")}
    command = f"python benchmarks/classes.py --classes {given.classes} --steps {given.steps}"
    report = {"command": command, "setting": setting, "conditions": conditions(), "rows": rows}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
