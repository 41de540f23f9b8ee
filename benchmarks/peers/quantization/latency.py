"""Latencies of all files of a model, in turns of one process: a machine that slows down does so for every one."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.quantization.cells import Ratio
from benchmarks.peers.quantization.runtime import Floats, run, session
from kd2edge import stats

TURNS, CALLS, WARM_UP = 40, 10, 20


def in_turns(models: Mapping[str, Path], images: Floats, turns: int = TURNS, calls: int = CALLS) -> dict[str, Ratio]:
    """The latency of each file for one image, over that of the file called "fp32", which must be among them."""
    opened = {name: session(path) for name, path in models.items()}
    for one in opened.values():
        _median(one, images, WARM_UP)
    random = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(turns):
        for name in random.permutation(list(models)).tolist():
            taken[name].append(_median(opened[name], images, calls))
    return {name: _ratio(found, taken["fp32"]) for name, found in taken.items()}


def _median(opened: Any, images: Floats, calls: int) -> float:
    """Of so many calls with one image each, in ms."""
    found = []
    for call in range(calls):
        image = np.ascontiguousarray(images[call % len(images)][None])
        began = time.perf_counter_ns()
        run(opened, image)
        found.append((time.perf_counter_ns() - began) / 1e6)
    return float(np.median(found))


def _ratio(found: list[float], fp32: list[float]) -> Ratio:
    ratios = [a / b for a, b in zip(found, fp32, strict=True)]
    low, high = stats.percentile_interval(ratios, 50) or (min(ratios), max(ratios))
    return Ratio(p50_ms=stats.median(found), value=stats.median(ratios), low=low, high=high, turns=len(ratios))
