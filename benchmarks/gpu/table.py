"""What the cells of a run say, as one page of Markdown, and all of it laid out as benchmarks/results/ keeps it."""

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.cells import FLAVOURS, Cell, Room, read
from kd2edge.files import write_atomic

PAGE = "README.md"
NAMES = {
    "engine": "engine",
    "engine_graph": "engine, CUDA graph",
    "torch_eager": "torch eager",
    "torch_graphed": "torch.compile reduce-overhead",
    "torch_tuned": "torch.compile max-autotune",
    "onnxruntime_cuda": "onnxruntime CUDA",
    "onnxruntime_cpu": "onnxruntime, 8 threads of the processor",
}


def page(room: Room, names: list[str]) -> str:
    """The page of a run, of as many of its cells as there are."""
    cells = {name: cell for name in names if (cell := read(room, name)) is not None}
    lines = [*_head(cells), *_accepted(cells), *_contests(cells), *_sweeps(cells), *_rest(cells, names)]
    return "".join(f"{line}\n" for line in lines)


def kept(room: Room, names: list[str]) -> None:
    """Copy the page and the cells to results/<target>/gpu/, as they are to be committed."""
    cells = [cell for name in names if (cell := read(room, name)) is not None]
    engines = [cell for cell in cells if cell.name.startswith("engine-") and "target" in cell.result]
    folder = room.out / "results" / (engines[0].result["target"] if engines else "nvidia-dgpu") / "gpu"
    for cell in cells:
        write_atomic(folder / f"{cell.name}.json", room.cell(cell.name).read_bytes())
    write_atomic(folder / PAGE, page(room, names).encode())


def _head(cells: dict[str, Cell]) -> Iterator[str]:
    told = cells["machine"].result if "machine" in cells else {}
    gpu, versions = told.get("gpu", {}), told.get("versions", {})
    yield f"# {gpu.get('gpu') or 'No GPU'}, SM {gpu.get('sm') or '-'}, driver {gpu.get('driver') or '-'}"
    yield ""
    versions = versions | {name: one["version"] for name, one in told.get("importable", {}).items() if "version" in one}
    shown = ("torch", "tensorrt", "tensorrt_rtx", "onnxruntime", "onnxruntime-gpu", "pycuda", "cuda.bindings")
    yield "Made by `python -m benchmarks.gpu`: " + ", ".join(f"{n} {versions[n]}" for n in shown if n in versions) + "."
    yield "Latencies are in ms, of three rounds in which contenders took turns, with 95 % intervals; ratios are to the"
    yield "first that ran. Computing is as the row ships, with its captured graph or without. FP32 is computed with"
    yield "TF32 allowed; torch has FP16 where the engine has INT8. Cosines are with onnxruntime on the processor, at"
    yield "worst; `apart` is of what sets an image apart from the others' mean, since random weights answer nearly the"
    yield "same to all."


def _accepted(cells: dict[str, Cell]) -> Iterator[str]:
    yield from ("", "| kind of engine | state | what it says |", "|---|---|---|")
    for flavour in FLAVOURS:
        cell = cells.get(f"accepts-{flavour}")
        if cell is not None:
            said = cell.reason or f"runs by {cell.result['provider']}, cosine {cell.result['parity']['cosine_min']:.6f}"
            yield f"| {flavour} | {cell.state} | {_in_a_table(said)} |"


def _contests(cells: dict[str, Cell]) -> Iterator[str]:
    for cell in (*_of(cells, "contest"), *_of(cells, "tuned")):
        kind, net, precision = cell.name.split("-")
        about = cells[f"make-{net}"].result if f"make-{net}" in cells else {}
        yield from ("", f"## {net}, {precision}, batch 1{', torch.compile tuned' if kind == 'tuned' else ''}", "")
        yield f"{about.get('about', net)}; {about.get('weights', '')}."
        yield from ("", "| | end to end p50 | p99 | ratio | computing p50 | ratio | cosine | apart |")
        yield "|---|---|---|---|---|---|---|---|"
        for name, told in cell.result["contenders"].items():
            yield _row(NAMES[name.split(".")[2]], told, precision)


def _row(name: str, told: dict[str, Any], precision: str) -> str:
    if "fault" in told:
        return f"| {name} | {_in_a_table(told['fault'])} | | | | | | |"
    numbers, ratios = told["numbers"], told["ratio_to"]
    graph = told["conditions"].get("cuda_graph", True)
    shown = [_number(numbers, "latency_p50"), _number(numbers, "latency_p99"), _ratio(ratios, "latency_p50")]
    shown += [_number(numbers, f"gpu_compute_p50{'' if graph else '_no_graph'}"), _ratio(ratios, "gpu_compute_p50")]
    return " | ".join([f"| {name}", *shown, *_cosines(told, precision, "cosine_min", "cosine_apart_min")]) + " |"


def _cosines(told: dict[str, Any], precision: str, *names: str) -> list[str]:
    parity = told["parity"].get(f"onnxruntime {precision}")
    return [f"{parity[name]:.6f}" if parity else "-" for name in names]


def _sweeps(cells: dict[str, Cell]) -> Iterator[str]:
    above = ""
    for cell in _of(cells, "sweep"):
        _, net, precision, batch = cell.name.split("-")
        if above != f"{net}, {precision}":
            above = f"{net}, {precision}"
            yield from ("", f"## {above}, batches", "")
            yield "| batch | end to end p50 | images/s | computing p50 | without graph | apart |"
            yield "|---|---|---|---|---|---|"
        (told,) = cell.result["contenders"].values()
        shown = ("latency_p50", "throughput", "gpu_compute_p50", "gpu_compute_p50_no_graph")
        said = [_number(told["numbers"], name) for name in shown]
        yield " | ".join([f"| {batch}", *said, *_cosines(told, precision, "cosine_apart_min")]) + " |"


def _rest(cells: dict[str, Cell], names: list[str]) -> Iterator[str]:
    """The cells that have no number from a GPU, and why."""
    without = [cells.get(name, Cell(name=name, state="not reached", reason="the run ended before")) for name in names]
    shown = [cell for cell in without if cell.state != "done" and not cell.name.startswith("accepts-")]
    if shown:
        yield from ("", "| without a number | state | reason |", "|---|---|---|")
        yield from (f"| {cell.name} | {cell.state} | {_in_a_table(cell.reason or '')} |" for cell in shown)


def _of(cells: dict[str, Cell], kind: str) -> Iterator[Cell]:
    yield from (cell for name, cell in cells.items() if name.startswith(f"{kind}-") and cell.state == "done")


def _in_a_table(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _number(numbers: dict[str, Any], name: str) -> str:
    told = numbers.get(name, {})
    if told.get("value") is None:
        return "-"
    interval = f" [{told['low']:.4g}, {told['high']:.4g}]" if "low" in told else ""
    return f"{told['value']:.4g}{interval}"


def _ratio(ratios: dict[str, Any], name: str) -> str:
    return f"{ratios[name][0]:.2f}" if name in ratios else "-"
