"""The table of the README, made of the cells and of nothing else."""

from pathlib import Path

from benchmarks.peers.quantization import cells
from benchmarks.peers.quantization.cells import RESULTS, Cell
from benchmarks.peers.quantization.peers import FP32, OURS, PEERS
from kd2edge.files import write_atomic

README = Path(__file__).parent / "README.md"
MARKS = "<!-- cells: made by --table -->", "<!-- end of cells -->"
ORDER = [FP32, *(peer.name for peer in PEERS)]
LOGITS = ("top-1 %", "less ours (95 %)", "agreement %")
EMBEDDING = ("TAR 1e-3 / 1e-4 %", "less ours at 1e-4 (95 %)", "cosine (least)")
REST = ("INT8 / FP32 p50", "accepted by RTX", "s", "peak MiB")


def put(text: str, results: Path = RESULTS) -> str:
    """A README with its tables made anew between the marks."""
    begin, end = MARKS
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n\n{markdown(results)}\n{end}{tail}"


def write() -> None:
    write_atomic(README, put(README.read_text(encoding="utf-8")).encode())


def markdown(results: Path = RESULTS) -> str:
    """A table for each model of which there are cells, and the conditions beneath."""
    found = {folder.name: _cells(folder) for folder in sorted(results.glob("*")) if folder.is_dir()}
    return "\n".join(_model(name, rows) for name, rows in found.items() if rows)


def _cells(folder: Path) -> list[Cell]:
    read = (cells.read(path) for path in folder.glob("*.json"))
    known = [cell for cell in read if cell is not None and cell.tool in ORDER]
    return sorted(known, key=lambda cell: ORDER.index(cell.tool))


def _model(name: str, rows: list[Cell]) -> str:
    logits = any("top1" in cell.metrics for cell in rows)
    ours = next((cell.sha256 for cell in rows if cell.tool == OURS), None)
    head = ("tool", *(LOGITS if logits else EMBEDDING), *REST)
    lines = [f"### {name}", "", _line(*head), _line(*["---"] * len(head))]
    lines += [_row(cell, ours, logits) for cell in rows]
    return "\n".join([*lines, "", *_beneath(rows), ""])


def _row(cell: Cell, ours: str | None, logits: bool) -> str:
    if cell.fault:
        return _line(cell.about, cell.fault.replace("|", "/"), *["–"] * 6)
    rtx = "yes" if cell.rtx == "yes" else "–" if cell.rtx is None or cell.rtx.startswith("not asked") else "**no**"
    return _line(
        cell.about,
        _metrics(cell),
        _difference(cell, ours),
        _kept(cell, logits),
        f"{cell.latency.value:.2f} ({cell.latency.low:.2f} to {cell.latency.high:.2f})" if cell.latency else "–",
        rtx,
        f"{cell.seconds:.0f}" if cell.seconds is not None else "–",
        f"{cell.peak_mib:.0f}" if cell.peak_mib is not None else "–",
    )


def _metrics(cell: Cell) -> str:
    return " / ".join(f"{value:.2f}" for value in cell.metrics.values())


def _difference(cell: Cell, ours: str | None) -> str:
    if not cell.difference:
        return "–"
    found = list(cell.difference.values())[-1]
    if found.ours != ours:
        return "of an older file of ours"
    mark = "**" if found.low > 0 or found.high < 0 else ""
    value, low, high = (f"{round(number, 2) + 0:+.2f}" for number in (found.value, found.low, found.high))
    return f"{mark}{value}{mark} ({low} to {high})"


def _kept(cell: Cell, logits: bool) -> str:
    if cell.cosine is None or cell.cosine_min is None:
        return "–"
    return f"{cell.agreement:.1f}" if logits else f"{cell.cosine:.3f} ({cell.cosine_min:.3f})"


def _beneath(rows: list[Cell]) -> list[str]:
    """Conditions, and what NVIDIA's parser says of the files it refuses."""
    first = rows[0]
    found = sorted({f"{k} {v}" for cell in rows for k, v in cell.versions.items()})
    p50 = f"; FP32 takes {first.latency.p50_ms:.2f} ms" if first.latency else ""
    said = [
        f"* {first.images:,} test images{p50}; {first.device.get('cpu')}, one thread of {first.device.get('cores')} "
        f"cores (load {first.device.get('load')} while quantizing); {', '.join(found)}."
    ]
    said += [f"* {cell.about}: {cell.notes['macs_in_int8']:.1f} % of the multiplications in INT8, calibrator "
             f"{cell.notes['calibrator']}." for cell in rows if "macs_in_int8" in cell.notes]  # fmt: skip
    refused = [cell for cell in rows if cell.rtx not in (None, "yes") and not str(cell.rtx).startswith("not asked")]
    return said + [f"* Refused, {cell.about}: {str(cell.rtx).rpartition('.onnx: ')[2]}" for cell in refused]


def _line(*texts: str) -> str:
    return f"| {' | '.join(texts)} |"
