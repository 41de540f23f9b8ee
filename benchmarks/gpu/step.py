"""One cell's work: python -m benchmarks.gpu.step NAME --out FOLDER. State and result go to work/NAME.told.json."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import subjects
from benchmarks.gpu.cells import BATCHES, FLAVOURS, Cell, Room, State, read
from benchmarks.gpu.contender import Asked
from benchmarks.gpu.contest import ROUNDS, contest
from kd2edge import drawers
from kd2edge.artifact import open_artifact
from kd2edge.edge import devices
from kd2edge.edge.built_on import built_on
from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.leaving import leave_with_parent
from kd2edge.edge.session import Backend, open_backend
from kd2edge.errors import UserError
from kd2edge.files import sha256, write_atomic
from kd2edge.graph.parity import compare, require, run_onnx
from kd2edge.schema import BatchRange, Latency, Precision, Target

IMAGES, CALIBRATION, THREADS = 32, 16, 8
LATENCY = Latency(warmup_ms=100, seconds=0.6, min_samples=221)  # a round's; three of them are enough for a p99
TO_TELL_S = 5.0  # what is left for adding up, of the time that a cell has
RIVALS = {  # and where their back ends are
    "torch_eager": "benchmarks.gpu.torch_eager",
    "torch_graphed": "benchmarks.gpu.torch_graphed",
    "torch_tuned": "benchmarks.gpu.torch_tuned",
    "onnxruntime_cuda": "benchmarks.gpu.onnxruntime_cuda",
    "onnxruntime_cpu": "onnxruntime",
}
TUNED = ("torch_graphed", "torch_tuned")
MODULES = ("tensorrt", "tensorrt_rtx", "torch", "onnxruntime", "cuda.bindings", "pycuda", "pynvml")
PACKAGES = ("torch", "triton", "onnxruntime-gpu", "cuda-bindings", "pycuda", "nvidia-ml-py")  # beside `versions`

Result = dict[str, Any]


class Without(Exception):
    """There is no number: what the cell's state is then, why, and what is left to tell."""

    def __init__(self, state: State, reason: str, result: Result) -> None:
        super().__init__()
        self.state, self.reason, self.result = state, reason, result


def no_gpu(room: Room) -> bool:
    return room.dry or built_on("", "")["gpu"] is None


def machine(room: Room) -> Result:
    """What numbers depend on, and what of the field is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    result: Result = {"device": devices.fingerprint(), "gpu": built_on("", ""), "versions": devices.versions() | found}
    result["protocol"] = {**LATENCY.model_dump(), "rounds": ROUNDS, "confidence": 0.95, "images": IMAGES}
    result["importable"] = {name: _importable(name) for name in MODULES}
    return result


def _importable(name: str) -> dict[str, str]:
    """Its version, or why it cannot be imported."""
    try:
        return {"version": str(getattr(import_module(name), "__version__", "unknown"))}
    except Exception as error:  # a library that is missing may show in many ways
        return {"fault": f"{type(error).__name__}: {error}"}


def target_for(flavour: str) -> tuple[str, Target]:
    """The target of `export/` for a kind of engine, and it as it is used here: for this GPU, batches of 1 to 32."""
    name = "nvidia-dgpu" if flavour == "tensorrt" else "nvidia-rtx"
    backend = "benchmarks.gpu.rtx_current" if flavour == "rtx_current" else flavour
    batch = BatchRange(min=1, opt=1, max=BATCHES[-1])
    changed = {"backend": backend, "compute_capabilities": (), "batch": batch, "sm": None}
    return name, drawers.read_target(name).model_copy(update=changed)


def accepts(room: Room, flavour: str) -> Result:
    """Whether this kind of engine can be built and computes here, on the student in FP32. A refusal is a finding."""
    name, target = target_for(flavour)
    result = {"target": name, **_built(room, "student", "fp32", target, room.work / f"accepts-{flavour}.engine")}
    _require_gpu(room, open_backend(target.backend), result)
    x = subjects.images(subjects.BY_NAME["student"], 4)
    with open_backend(target.backend).open(room.work / f"accepts-{flavour}.engine", target) as session:
        found = compare(run_onnx(room.model("student", "fp32"), x), in_batches(session, x, 4))
        require(found, "int8")  # the least of the ladder: TF32 is no fault, another net is
        return {**result, "provider": session.provider, "versions": session.versions, "parity": vars(found)}


def chosen(room: Room) -> tuple[str, Target] | None:
    """The first kind of engine that runs here; where there is no GPU, the first that can be built. None: no kind."""
    wanted = "no GPU" if no_gpu(room) else "done"
    for flavour in FLAVOURS:
        cell = read(room, f"accepts-{flavour}")
        if cell is not None and cell.state == wanted and "bytes" in cell.result:
            return target_for(flavour)
    return None


def make(room: Room, net: str) -> Result:
    """ONNX files of a net, and what onnxruntime makes of the images on the CPU."""
    subject = subjects.BY_NAME[net]
    made = subjects.make(subject, room.prepared, room.work, CALIBRATION)
    x = subjects.images(subject, IMAGES)
    np.save(room.work / f"{net}.images.npy", x)
    outputs = {precision: run_onnx(path, x, threads=THREADS) for precision, path in made.items()}
    for precision, values in outputs.items():
        np.save(room.work / f"{net}.{precision}.npy", values)
    return {
        "about": subject.about,
        "weights": subjects.weights(subjects.source(subject, room.prepared)),
        "calibration": f"minmax on {CALIBRATION} images of smooth noise",
        "input": list(subject.shape),
        "files": {p: {"sha256": sha256(path), "bytes": path.stat().st_size} for p, path in made.items()},
        "parity_on_the_cpu": {p: vars(compare(outputs["fp32"], values)) for p, values in outputs.items()},
    }


def engine(room: Room, net: str, precision: Precision) -> Result:
    """The engine that the contest is about, for one image alone: nothing of it is compiled for other batches."""
    name, target = _engines(room)
    result = {"target": name, **_built(room, net, precision, _alone(target, 1), room.engine(net, precision))}
    _require_gpu(room, open_backend(target.backend), result)
    return result


def _alone(target: Target, batch: int) -> Target:
    return target.model_copy(update={"batch": BatchRange(min=batch, opt=batch, max=batch), "cuda_graph": True})


def _engines(room: Room) -> tuple[str, Target]:
    found = chosen(room)
    if found is None:
        raise UserError("No kind of TensorRT engine can be had here; see the cells accepts-*.")
    return found


def _built(room: Room, net: str, precision: Precision, target: Target, out: Path) -> Result:
    began = time.perf_counter()
    backend = open_backend(target.backend)
    backend.build(room.model(net, precision), target, out)
    details = open_artifact(out).manifest.details
    told: Result = {
        name: details[name] for name in ("built_on", "build", "layers", "layers_unknown") if name in details
    }
    return {"bytes": out.stat().st_size, "seconds_to_build": time.perf_counter() - began, **told}


def _require_gpu(room: Room, backend: Backend, result: Result) -> None:
    if no_gpu(room):
        raise Without("no GPU", "no GPU", result)
    reason = backend.available()
    if reason is not None:
        raise UserError(reason)


def rivals_of(precision: Precision) -> list[str]:
    """Who is measured beside an engine: eager torch where it has the same precision, a processor in FP32."""
    left_out = {"fp32": (), "fp16": ("onnxruntime_cpu",), "int8": ("torch_eager", "onnxruntime_cpu")}[precision]
    return [name for name in RIVALS if name not in ("torch_tuned", *left_out)]


def entrants(room: Room, net: str, precision: Precision, rivals: Sequence[str]) -> list[Asked]:
    """The engine, without and with a captured graph, and its rivals; torch has no INT8 here and computes in FP16."""
    found = chosen(room)
    asked = []
    if found is not None and room.engine(net, precision).is_file():
        for name, graph in (("engine", False), ("engine_graph", True)):
            target = _alone(found[1], 1).model_copy(update={"cuda_graph": graph})
            asked.append(_asked(room, net, precision, name, target, room.engine(net, precision)))
    for rival in rivals:
        torch = rival.startswith("torch")
        theirs: Precision = "fp16" if torch and precision == "int8" else precision
        target = Target(
            about=rival,
            backend=RIVALS[rival],
            flavour="tensorrt",
            precisions=(theirs,),
            cuda_graph=rival in TUNED,
            threads=THREADS,
        )
        asked.append(_asked(room, net, precision, rival, target, room.model(net, "fp32" if torch else precision)))
    return asked


def _asked(room: Room, net: str, precision: str, name: str, target: Target, model: Path, batch: int = 1) -> Asked:
    place = f"{net}.{precision}.{name}.b{batch}"
    return Asked(
        name=place,
        model=model,
        target=target,
        images=room.work / f"{net}.images.npy",
        outputs=room.work / f"{place}.outputs.npy",
        folder=room.work,
        latency=LATENCY.model_copy(update={"batch": batch}),
    )


def rivals(room: Room, net: str, precision: Precision) -> Result:
    """Batches of one, in turns. Those that cannot run here say why, and the others go on."""
    return _contest(room, entrants(room, net, precision, rivals_of(precision)), _references(room, net, precision))


def tuned(room: Room, net: str, precision: Precision) -> Result:
    """The same with torch.compile's tuning, for which it takes minutes, beside the engine at its best."""
    asked = [one for one in entrants(room, net, precision, TUNED) if one.target.cuda_graph]
    return _contest(room, asked, _references(room, net, precision))


def _references(room: Room, net: str, precision: Precision) -> dict[str, Any]:
    return {f"onnxruntime {p}": np.load(room.work / f"{net}.{p}.npy") for p in ("fp32", precision)}


def _contest(room: Room, asked: list[Asked], references: dict[str, Any]) -> Result:
    if no_gpu(room):
        raise Without("no GPU", "no GPU", {"entrants": [one.name for one in asked]})
    told = contest(asked, room.ends - TO_TELL_S, references)
    if all("fault" in one for one in told.values()):
        raise Without(
            "failed", "; ".join(f"{name}: {one['fault']}" for name, one in told.items()), {"contenders": told}
        )
    return {"contenders": told}


def sweep(room: Room, net: str, precision: Precision, batch: str) -> Result:
    """An engine with that batch alone as its profile, without and with its captured graph."""
    name, target = _engines(room)
    size, path = int(batch), room.engine(net, precision, int(batch))
    alone = _alone(target, size)
    result = {"target": name, **_built(room, net, precision, alone, path)}
    _require_gpu(room, open_backend(target.backend), result)
    asked = _asked(room, net, precision, "engine", alone, path, size)
    return {**result, **_contest(room, [asked], _references(room, net, precision))}


STEPS: dict[str, Callable[..., Result]] = {
    "machine": machine,
    "accepts": accepts,
    "make": make,
    "engine": engine,
    "contest": rivals,
    "sweep": sweep,
    "tuned": tuned,
}


def outcome(room: Room, name: str) -> Cell:
    """State, reason and result of a cell."""
    kind, *arguments = name.split("-")
    try:
        return Cell(name=name, state="done", result=STEPS[kind](room, *arguments))
    except Without as told:
        return Cell(name=name, state=told.state, reason=told.reason, result=told.result)
    except UserError as error:
        return Cell(name=name, state="refused", reason=" ".join(str(error).split()))


def main() -> None:
    leave_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, default=subjects.GRAPHS)
    parser.add_argument("--ends", type=float, default=math.inf)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    room = Room(given.out, given.prepared, given.dry, given.ends)
    write_atomic(room.told(given.name), outcome(room, given.name).model_dump_json().encode())


if __name__ == "__main__":
    main()
