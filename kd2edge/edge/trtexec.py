"""A second opinion on an engine's latency: NVIDIA's `trtexec`, every switch pinned so that both measure the same.

Its defaults changed: 10.x launches without a CUDA graph, waits without spinning and times the copies; 11.x is the
other way round in all three, has switches to turn each back, and ignores those of 10.x (NVIDIA's TensorRT sources,
samples/common/sampleOptions.cpp). What is compared is the GPU's compute time, from events around the launch.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd2edge import stats
from kd2edge.errors import UserError, first_line

PLACES = ("/usr/src/tensorrt/bin/trtexec",)  # where JetPack and NVIDIA's Debian packages put it, off the PATH
BANNER = re.compile(r"&&&& RUNNING TensorRT\.trtexec \[TensorRT v(\d+(?:\.\d+)*)\]")
MEDIAN = re.compile(r"GPU Compute Time: .*?median = ([\d.]+) ms")
WARNING = re.compile(r"\[W\] \* (.+)")
INPUT = re.compile(r"Created input binding for (\S+) with dimensions ([\dx]+)")
LOOK = ("--warmUp=0", "--duration=0", "--iterations=1")  # for the version and the input: what is dynamic it makes 1
WARM_UP_MS, SECONDS, ITERATIONS = 500, 3, 100
TIMEOUT_S = 120
AGREES = 0.05

Version = tuple[int, int, int]


def crosscheck(
    engine: Path, shape: Sequence[int], ours_ms: Sequence[float], graph: bool = True
) -> dict[str, Any] | None:
    """How far `trtexec` is from `ours_ms`, the GPU's compute times in ms of a batch; None where it is not installed.

    `shape` [N, C, H, W] is that batch's; `graph` says whether ours were launched as a CUDA graph. A JSON object:
    `version`, `switches`, `n`, `p50_ms`, `ours_p50_ms`, `ratio` (ours to its), `within_5_percent`, and the `warnings`
    it gave; or `fault`, a sentence, where it failed. The engine is loaded as it is: it must have been verified.
    """
    command = find()
    if command is None:
        return None
    try:
        return _checked(command, engine, "x".join(map(str, shape)), ours_ms, graph)
    except UserError as error:
        return {"fault": error.message}


def find() -> str | None:
    """The program, on the PATH or where NVIDIA's packages leave it."""
    return next((found for place in ("trtexec", *PLACES) if (found := shutil.which(place))), None)


def version(said: str) -> Version:
    """That of the banner: v100300 and v10.3.0 are 10.3.0, v8602 is 8.6.2. Raises `UserError` where there is none."""
    found = BANNER.search(said)
    if found is None:
        raise UserError("trtexec said nothing of its version")
    parts = [int(part) for part in found[1].split(".")]
    if len(parts) > 1:
        major, minor, patch = [*parts, 0, 0][:3]
        return major, minor, patch
    number = parts[0]
    return (number // 10000, number // 100 % 100, number % 100) if number >= 10000 else (number // 1000, *_old(number))


def switches(of: Version, graph: bool) -> list[str]:
    """All that decides the time, as that version needs it said. Raises `UserError` for a version not known here."""
    pinned = [f"--warmUp={WARM_UP_MS}", f"--duration={SECONDS}", f"--iterations={ITERATIONS}", "--infStreams=1"]
    if of[0] == 10:
        return [*pinned, "--noDataTransfers", "--useSpinWait", *(["--useCudaGraph"] if graph else [])]
    if of[0] == 11:
        return [*pinned, *([] if graph else ["--noCudaGraph"])]
    raise UserError(f"trtexec is of TensorRT {'.'.join(map(str, of))}, whose defaults are not known here")


def compute_ms(times: str) -> list[float]:
    """The GPU's compute times of an `--exportTimes` file, in ms. Raises `UserError` where it is not one."""
    try:
        rows = json.loads(times)
        found = [float(row["endComputeMs"]) - float(row["startComputeMs"]) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError("trtexec's --exportTimes is not as it was up to 11.4") from error
    if not found or not min(found) > 0:
        raise UserError("trtexec timed nothing")
    return found


def _checked(command: str, engine: Path, shape: str, ours_ms: Sequence[float], graph: bool) -> dict[str, Any]:
    load = [command, f"--loadEngine={engine}"]
    look = _run([*load, *LOOK])
    pinned = switches(version(look), graph) + _shapes(look, shape)
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        said = _run([*load, *pinned, f"--exportTimes={times}"])
        theirs = compute_ms(times.read_text(encoding="utf-8") if times.is_file() else "")
    if [dimensions for _, dimensions in INPUT.findall(said)] != [shape]:
        raise UserError(f"trtexec did not time batches of {shape}")
    p50, ours = stats.percentile(theirs, 50), stats.percentile(ours_ms, 50)
    printed = MEDIAN.search(said)
    if printed is None or abs(float(printed[1]) - p50) > AGREES * p50:
        raise UserError("trtexec's own summary does not agree with the times it exported")
    return {
        "version": ".".join(map(str, version(look))),
        "switches": pinned,
        "n": len(theirs),
        "p50_ms": p50,
        "ours_p50_ms": ours,
        "ratio": ours / p50,
        "within_5_percent": abs(ours / p50 - 1) <= AGREES,
        "warnings": WARNING.findall(said),
    }


def _shapes(look: str, shape: str) -> list[str]:
    """What makes it take that shape: nothing for an engine of fixed shapes, which refuses to be told them."""
    inputs = INPUT.findall(look)
    if len(inputs) != 1:
        raise UserError(f"trtexec told of {len(inputs)} inputs where the engine has one")
    name, dimensions = inputs[0]
    return [] if dimensions == shape else [f"--shapes={name}:{shape}"]


def _run(command: list[str]) -> str:
    """What a run says on both its streams. Raises `UserError` where it does not end, or ends badly."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"trtexec did not run: {first_line(error)}") from error
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        errors = [line for line in said.splitlines() if "[E]" in line]
        raise UserError(f"trtexec ended with status {done.returncode}: {errors[0] if errors else 'no error told'}")
    return said


def _old(number: int) -> tuple[int, int]:
    return number // 100 % 10, number % 100
