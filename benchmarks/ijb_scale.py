"""Pooling, scoring and ROC of IJB-C at its full size, ours beside the algorithm of the public scripts, same arrays.

    python benchmarks/ijb_scale.py                 both, on 1 and on 2 threads; some minutes and 6 GB
    python benchmarks/ijb_scale.py --scale 0.1     a tenth of everything (a hundredth of the pairs)

Embeddings are random, drawn from a seed: what they cost does not depend on what they are worth. Sizes and structure are
the release's: 3,531 templates in the galleries, 19,593 probes, each pair of one and the other, in order of the first.
Every measurement is a process of its own, so that its peak memory is its own; the arrays are part of that peak, and are
drawn before the clock starts. `random pairs` lists as many pairs of any two templates: the hardest case for ours.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd2edge.data import Templates
from kd2edge.metrics import IJB_FARS, judge_templates, pair_scores, pool, roc_at
from kd2edge.metrics.templates import places

GALLERY, PROBES, IMAGES, GENUINE, IMPOSTOR, WIDTH = 3_531, 19_593, 469_375, 19_557, 15_638_932, 512
BATCH = 100_000  # pairs gathered at a time by the public scripts
RESULT = Path(__file__).parent / "results" / "ijb-scale.json"

Floats = npt.NDArray[np.float32]


def release(scale: float, anywhere: bool) -> tuple[Floats, Templates]:
    """Embeddings and lists; genuine pairs are scored like the impostors but for a lift that their templates share."""
    random = np.random.default_rng(0)
    gallery, probes, images = (round(scale * count) for count in (GALLERY, PROBES, IMAGES))
    genuine, impostor = round(scale * GENUINE), round(scale * scale * IMPOSTOR)
    templates = gallery + probes
    template = np.sort(np.append(np.arange(templates), random.integers(0, templates, images - templates)))
    embeddings = random.standard_normal((images, WIDTH), np.float32)
    owner = np.append(np.arange(gallery), random.integers(0, gallery, probes))[template]
    for start in range(0, images, BATCH):
        mine = owner[start : start + BATCH]
        embeddings[start : start + BATCH, :64] += 0.4 * np.sign(np.sin(np.outer(mine + 1, np.arange(1, 65) ** 2)))
    pairs = np.empty((genuine + impostor, 2), np.int64)
    for side, (low, high) in enumerate([(0, templates)] * 2 if anywhere else [(0, gallery), (gallery, templates)]):
        pairs[:, side] = random.integers(low, high, len(pairs))
    pairs[:, 0].sort()
    same = np.arange(len(pairs)) < genuine
    pairs[same, 1] = gallery + np.arange(genuine) % probes
    pairs[same, 0] = owner[np.searchsorted(template, pairs[same, 1])]
    media, faceness = random.integers(0, images // 3, images), random.uniform(0.5, 1, images).astype(np.float32)
    return embeddings, Templates(template + 1, media, faceness, pairs + 1, same)


class Clock:
    """Seconds of wall and of processor time by step."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    def __call__(self, step: str, work: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        found = work()
        self.wall[step], self.processor[step] = time.perf_counter() - wall, time.process_time() - processor
        return found


def ours(embeddings: Floats, protocol: Templates, clock: Clock) -> dict[str, float]:
    known, vectors = clock("pooling", lambda: pool(embeddings, protocol))
    scores = clock(
        "pairs",
        lambda: pair_scores(vectors, *(places(protocol.pairs[:, side], known, "a pair") for side in (0, 1))),
    )
    found = clock("ROC", lambda: roc_at(scores, protocol.same))
    return {f"{far:.0e}": tar for far, tar in found.nearest_tar.items()}


def whole(embeddings: Floats, protocol: Templates, clock: Clock) -> dict[str, float]:
    """All of `judge_templates`: intervals by resampled templates too."""
    found = clock("with intervals", lambda: judge_templates(embeddings, protocol))
    return {f"{far:.0e}": tar for far, tar in found.roc.nearest_tar.items()}


def reference(embeddings: Floats, protocol: Templates, clock: Clock) -> dict[str, float]:
    """As the protocol is described: template by template, pairs gathered in batches, scikit-learn's curve."""
    known, vectors = clock("pooling", lambda: pool_by_loop(embeddings, protocol))
    scores = clock("pairs", lambda: score_by_batches(vectors, known, protocol))
    return dict(clock("ROC", lambda: nearest_by_scikit(scores, protocol)))


def pool_by_loop(embeddings: Floats, protocol: Templates) -> tuple[npt.NDArray[np.int64], Floats]:
    weighed = embeddings * protocol.faceness[:, None]
    known = np.unique(protocol.template)
    sums = np.zeros((len(known), embeddings.shape[1]), np.float32)
    for row, template in enumerate(known):
        (images,) = np.where(protocol.template == template)
        media = protocol.media[images]
        means = []
        for medium, count in zip(*np.unique(media, return_counts=True), strict=True):
            frames = weighed[images[media == medium]]
            means.append(frames[0] if count == 1 else np.mean(frames, axis=0))
        sums[row] = np.sum(means, axis=0)
    return known, sums / np.sqrt(np.sum(sums**2, axis=-1, keepdims=True))


def score_by_batches(vectors: Floats, known: npt.NDArray[np.int64], protocol: Templates) -> Floats:
    row = np.zeros(known.max() + 1, np.int64)
    row[known] = np.arange(len(known))
    scores = np.zeros(len(protocol.pairs), np.float32)
    for start in range(0, len(scores), BATCH):
        one, other = row[protocol.pairs[start : start + BATCH]].T
        scores[start : start + BATCH] = np.sum(vectors[one] * vectors[other], axis=-1)
    return scores


def nearest_by_scikit(scores: Floats, protocol: Templates) -> dict[str, float]:
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(protocol.same, scores)
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    return {f"{far:.0e}": float(tpr[min((abs(rate - far), i) for i, rate in enumerate(fpr))[1]]) for far in IJB_FARS}


WAYS = {"reference": reference, "ours": ours, "whole": whole}


def measure(way: str, scale: float, anywhere: bool) -> dict[str, Any]:
    embeddings, protocol = release(scale, anywhere)
    clock, drawn = Clock(), peak()
    found = WAYS[way](embeddings, protocol, clock)
    return {"seconds": clock.wall, "processor": clock.processor, "arrays_gb": drawn, "peak_gb": peak(), "tar": found}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def child(way: str, scale: float, anywhere: bool, threads: int) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, __file__, "--scale", str(scale), "--way", way, *["--anywhere"] * anywhere]
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    load = os.getloadavg()[0]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    pairs = "random pairs" if anywhere else "the release's pairs"
    return {"way": way, "pairs": pairs, "threads": threads, "load": load, **json.loads(done.stdout)}


def shown(row: dict[str, Any]) -> str:
    steps = "  ".join(f"{step} {seconds:.1f}" for step, seconds in row["seconds"].items())
    total = f"{sum(row['seconds'].values()):6.1f} s ({sum(row['processor'].values()):.1f} of processor)"
    return f"{row['way']:9}  {row['pairs']:19}  {row['threads']}  {total}  {row['peak_gb']:.2f} GB   {steps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=None, help=f"default: {RESULT.name} at full size, else nowhere")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--anywhere", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(measure(asked.way, asked.scale, asked.anywhere)))
        return
    rows = []
    plan = [("reference", False), ("ours", False), ("ours", True), ("whole", False)]
    for way, anywhere, threads in [(*step, threads) for threads in asked.threads for step in plan]:
        rows.append(child(way, asked.scale, anywhere, threads))
        print(shown(rows[-1]), flush=True)
    out = asked.out or (RESULT if asked.scale == 1 else None)
    if out:
        out.write_text(json.dumps(conditions(asked.scale) | {"rows": rows}, indent=1) + "\n")


def conditions(scale: float) -> dict[str, Any]:
    import sklearn

    told = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    n = {"images": IMAGES, "width": WIDTH, "templates": GALLERY + PROBES, "genuine": GENUINE, "impostor": IMPOSTOR}
    return {
        "about": "IJB-C at full size, random embeddings" if scale == 1 else f"IJB-C at {scale} of its size",
        "command": "python benchmarks/ijb_scale.py" + (f" --scale {scale}" if scale != 1 else ""),
        "device": {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scikit-learn": sklearn.__version__},
        "n": n,
    }


if __name__ == "__main__":
    main()
