"""A cell of the comparison, one model by one tool: a JSON file of its own, so that the work may stop at any moment."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.peers.quantization.adapters.job import Answer, Job
from benchmarks.peers.quantization.peers import Peer
from benchmarks.peers.quantization.subjects import ROOT, Subject
from kd2edge.edge.devices import fingerprint
from kd2edge.files import sha256, write_atomic
from kd2edge.schema import Section

RESULTS = ROOT / "benchmarks" / "results" / "onnx-cpu" / "peers-quantization"


class Difference(Section):
    """Metric of this tool less that of ours, in points, with a paired 95 % interval; `ours` is our file's sha256."""

    value: float
    low: float
    high: float
    ours: str


class Ratio(Section):
    """Latency over FP32's, measured in turns of one process: medians of turns, and the interval of their median."""

    p50_ms: float
    value: float
    low: float
    high: float
    turns: int


class Cell(Section):
    """`fault` says why there are no numbers. Metrics are in %; `fp32` and `sha256` name the two files."""

    model: str
    tool: str
    about: str
    fp32: str
    sha256: str | None = None
    fault: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    difference: dict[str, Difference] = Field(default_factory=dict)
    agreement: float | None = None
    cosine: float | None = None
    cosine_min: float | None = None
    latency: Ratio | None = None
    rtx: str | None = None
    seconds: float | None = None
    peak_mib: float | None = None
    mib: float | None = None
    images: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)
    device: dict[str, Any] = Field(default_factory=dict)


def path_of(model: str, tool: str, results: Path = RESULTS) -> Path:
    return results / model / f"{tool}.json"


def read(path: Path) -> Cell | None:
    """The cell in a file, or None where there is none."""
    return Cell.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(cell: Cell, results: Path = RESULTS) -> Cell:
    text = cell.model_dump_json(indent=1, exclude_none=True)
    write_atomic(path_of(cell.model, cell.tool, results), f"{text}\n".encode())
    return cell


def blank(subject: Subject, tool: str, about: str) -> Cell:
    return Cell(
        model=subject.name,
        tool=tool,
        about=about,
        fp32=sha256(subject.path("fp32.onnx")),
        device=fingerprint(),
    )


def quantized(subject: Subject, peer: Peer, python: Path) -> Cell:
    """The cell of a tool that has just quantized, not judged yet; its file lies in the subject's folder."""
    out = subject.path(f"{peer.name}.onnx")
    out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # A copy, since ModelOpt 0.47 writes what it made of its input over its input.
        fp32 = Path(shutil.copy(subject.path("fp32.onnx"), folder))
        answer = ask(_job(subject, peer, fp32, out), python)
    found = answer.model_dump(include={"seconds", "peak_mib", "versions", "notes"})
    fault = f"not installed: {answer.missing}" if answer.missing else answer.failed
    size = {} if fault else {"sha256": sha256(out), "mib": out.stat().st_size / 2**20}
    return blank(subject, peer.name, peer.about).model_copy(update={**found, **size, "fault": fault})


def _job(subject: Subject, peer: Peer, fp32: Path, out: Path) -> Job:
    return Job(
        fp32=fp32,
        calibration=subject.path("calibration.npy"),
        out=out,
        output=subject.output,
        adapter=peer.adapter,
        setting=peer.setting,
        torch=None if subject.torch is None else dict(subject.torch),
    )


def ask(job: Job, python: Path) -> Answer:
    """Do a job in a process of its own, by the interpreter of the tool."""
    command = [str(python), "-m", "benchmarks.peers.quantization.adapters"]
    done = subprocess.run(command, input=job.model_dump_json(), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it died ({done.returncode})"])[-1]
        return Answer(failed=last)
    return Answer.model_validate_json(done.stdout.strip().splitlines()[-1])


def valid(cell: Cell | None, subject: Subject, about: str) -> bool:
    """Whether a cell is of this very model, in this setting, and has numbers."""
    return (
        cell is not None
        and not cell.fault
        and (cell.fp32, cell.about)
        == (
            sha256(subject.path("fp32.onnx")),
            about,
        )
    )
