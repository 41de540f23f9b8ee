"""The contest for real, on sessions of a processor: turns, ratios, parity, time, and what becomes of those who fail."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from benchmarks.gpu import cells, step, table
from benchmarks.gpu.cells import Room
from benchmarks.gpu.contender import Asked
from benchmarks.gpu.contest import ROUNDS, Contender, _parity, contest
from kd2edge.graph.fold import fold
from kd2edge.graph.load import save_model
from kd2edge.graph.parity import run_onnx
from kd2edge.schema import Latency, Target
from tests.graphs import images, residual_net

BRIEF = Latency(warmup_ms=1, seconds=0.05, min_samples=30)

STAGED = '''
"""onnxruntime's CPU session with scripted stages: computing takes 3 us with a graph and 4 us without."""
from kd2edge.edge.backends.onnxruntime import OnnxRuntime as Base, OnnxRuntimeSession
from kd2edge.edge.session import Stages

class Session(OnnxRuntimeSession):
    calls = 0
    def stages(self, x, graph):
        self.calls += 1
        return Stages(1000, (3000 if graph else 4000) + self.calls % 2, 500, 2000)

class Staged(Base):
    def open(self, path, target):
        opened = super().open(path, target)
        opened.__class__ = Session
        return opened
'''


def asked(folder: Path, name: str, backend: str = "onnxruntime", model: str = "net.onnx") -> Asked:
    return Asked(
        name=f"tiny.fp32.{name}.b1",
        model=folder / model,
        target=Target(about=name, backend=backend, flavour="tensorrt", precisions=("fp32",)),
        images=folder / "images.npy",
        outputs=folder / f"{name}.outputs.npy",
        folder=folder,
        latency=BRIEF,
    )


def test_contenders_take_turns_and_those_that_fail_leave_the_others_alone(tmp_path: Path) -> None:
    save_model(fold(residual_net()), tmp_path / "net.onnx")
    np.save(tmp_path / "images.npy", images(6))
    (tmp_path / "staged.py").write_text(STAGED)
    (tmp_path / "dies.py").write_text(
        STAGED.replace("opened = ", "import os; os.write(1, b'no such kernel\\n'); os._exit(7)\n        opened = ")
    )
    wanted = [asked(tmp_path, "plain"), asked(tmp_path, "staged", str(tmp_path / "staged.py"))]
    wanted += [asked(tmp_path, "gone", model="gone.onnx"), asked(tmp_path, "dead", str(tmp_path / "dies.py"))]
    reference = run_onnx(tmp_path / "net.onnx", images(6))
    found = contest(wanted, time.monotonic() + 60, {"onnxruntime fp32": reference})
    plain, staged, gone, dead = found.values()
    assert gone["fault"].startswith("There is no model file")
    assert dead["fault"] == "its process ended (7): no such kernel"
    assert plain["ratio_to"]["latency_p50"][0] == 1
    assert staged["ratio_to"]["first"] == "tiny.fp32.plain.b1"
    assert plain["numbers"]["latency_p50"]["n"] >= ROUNDS * BRIEF.min_samples
    assert "gpu_compute_p50" not in plain["numbers"]
    assert staged["numbers"]["gpu_compute_p50"]["value"] == pytest.approx(3e-3, rel=1e-3)
    assert staged["numbers"]["gpu_compute_p50_no_graph"]["value"] == pytest.approx(4e-3, rel=1e-3)
    for one in (plain, staged):
        assert one["parity"]["onnxruntime fp32"]["reaches"] == ["fp32", "fp16", "int8"]
        assert one["parity"]["onnxruntime fp32"]["cosine_apart_min"] > 0.9999
        assert len(one["conditions"]["warmups"]) == len(one["watched"]) == ROUNDS
    assert staged["ratio_to"].keys() == {"first", "latency_p50"}  # the first computes on no device
    json.dumps(found)


def test_a_contest_ends_in_time_and_those_that_were_measured_are_told(tmp_path: Path) -> None:
    save_model(fold(residual_net()), tmp_path / "net.onnx")
    np.save(tmp_path / "images.npy", images(6))
    (tmp_path / "hangs.py").write_text(STAGED.replace("opened = ", "import time; time.sleep(60)\n        opened = "))
    wanted = [asked(tmp_path, "plain"), asked(tmp_path, "hung", str(tmp_path / "hangs.py"))]
    plain, hung = contest(wanted, time.monotonic() + 12, {}).values()
    assert hung["fault"].startswith("no answer after ")
    assert plain["numbers"]["latency_p50"]["n"] >= ROUNDS * BRIEF.min_samples
    (late,) = contest(wanted[:1], time.monotonic() - 1, {}).values()
    assert late["fault"].startswith("no answer after ")


def test_parity_tells_apart_what_random_weights_answer_alike(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    outputs = (np.ones((8, 16)) + 0.01 * random.standard_normal((8, 16))).astype(np.float32)
    np.save(tmp_path / "other.outputs.npy", np.roll(outputs, 1, axis=0))  # each image has its neighbour's answer
    one = cast(Contender, SimpleNamespace(asked=asked(tmp_path, "other")))
    found = _parity(one, outputs)
    assert found is not None
    assert found["cosine_min"] > 0.999
    assert found["cosine_apart_min"] < 0.5


def test_a_whole_run_with_a_gpu_goes_from_the_cells_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in for the GPU's runtimes is onnxruntime; engines are refused, as they may be on a new GPU."""
    staged = tmp_path / "staged.py"
    staged.write_text(STAGED)
    monkeypatch.setattr(step, "no_gpu", lambda room: False)
    monkeypatch.setattr(step, "LATENCY", BRIEF)
    for rival in step.RIVALS:
        monkeypatch.setitem(step.RIVALS, rival, str(staged) if rival == "torch_graphed" else "onnxruntime")
    room = Room(tmp_path / "out", ends=time.monotonic() + 60)
    names = ["make-student", "accepts-tensorrt", "engine-student-fp32", "contest-student-fp32", "tuned-student-fp32"]
    for name in names:
        cells.write(room, step.outcome(room, name))
    states = {name: cell.state for name in names if (cell := cells.read(room, name)) is not None}
    assert [*states.values()] == ["done", "refused", "refused", "done", "done"]
    table.kept(room, names)
    page = (tmp_path / "out" / "results" / "nvidia-dgpu" / "gpu" / "README.md").read_text()
    assert (
        "| engine-student-fp32 | refused | No kind of TensorRT engine can be had here; see the cells accepts-*. |"
        in page
    )
    contest_of, tuned_of = page.split("## student, fp32, batch 1")[1:]
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:] for line in contest_of.splitlines() if line.startswith("| ")
    }
    assert [*rows] == ["", *(table.NAMES[name] for name in step.rivals_of("fp32"))]
    graphed, eager = rows["torch.compile reduce-overhead"], rows["torch eager"]
    assert float(graphed[3].split()[0]) == pytest.approx(0.003, rel=1e-3)  # ms, with the graph that it ships with
    assert (eager[2], eager[3]) == (" 1.00 ", " - ")
    assert float(graphed[6]) > 0.9999
    assert tuned_of.startswith(", torch.compile tuned")


def test_a_contest_that_nobody_survives_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "no_gpu", lambda room: False)
    wanted = [asked(tmp_path, "gone", model="gone.onnx")]
    np.save(tmp_path / "images.npy", images(6))
    monkeypatch.setitem(step.STEPS, "tuned", lambda room: step._contest(room, wanted, {}))
    found = step.outcome(Room(tmp_path, ends=time.monotonic() + 30), "tuned")
    assert found.state == "failed"
    assert "tiny.fp32.gone.b1: There is no model file" in (found.reason or "")
