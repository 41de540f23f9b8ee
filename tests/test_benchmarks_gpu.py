"""The GPU benchmark as far as a machine without a GPU can prove it: every cell runs, none has a number it has not got.

The contest itself runs in test_benchmarks_gpu_contest.py.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.gpu import cells, step, subjects, table
from benchmarks.gpu.cells import Cell, Room, plan
from kd2edge.graph.fold import fold
from kd2edge.graph.load import save_model
from kd2edge.graph.parity import compare, run_onnx
from tests.graphs import images, residual_net

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole command as on a machine without a GPU, of the smallest net in one precision."""
    out = tmp_path_factory.mktemp("dry")
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), "--nets", "student", "--precisions", "int8"]
    done = subprocess.run([*command, "--dry"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (out / "said.txt").write_text(done.stdout)
    return out


def told(out: Path) -> dict[str, Cell]:
    found = {name: cells.read(Room(out), name) for name in plan(["student"], ["int8"])}
    assert None not in found.values()
    return {name: cell for name, cell in found.items() if cell is not None}


def test_every_cell_of_a_dry_run_ends_and_none_that_needs_a_gpu_has_a_number(dry: Path) -> None:
    found = told(dry)
    assert {name: cell.state for name, cell in found.items() if name in ("machine", "make-student")} == {
        "machine": "done",
        "make-student": "done",
    }
    without = {name: cell for name, cell in found.items() if name not in ("machine", "make-student")}
    assert {cell.state for cell in without.values()} <= {"no GPU", "refused"}
    for cell in without.values():
        assert cell.reason
        assert "numbers" not in cell.model_dump_json()
    assert found["contest-student-int8"].state == "no GPU"
    entrants = [name.split(".")[2] for name in found["contest-student-int8"].result["entrants"]]
    assert entrants[-2:] == step.rivals_of("int8") == ["torch_graphed", "onnxruntime_cuda"]


def test_engines_are_built_where_tensorrt_for_rtx_is(dry: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    found = told(dry)
    assert found["engine-student-int8"].result["bytes"] > 10_000
    assert found["accepts-tensorrt_rtx"].result["build"]["profile"]["images"] == [[n, 1, 32, 32] for n in (1, 1, 32)]
    assert found["engine-student-int8"].result["build"]["profile"]["images"] == [[1, 1, 32, 32]] * 3
    for batch in cells.BATCHES:
        built = found[f"sweep-student-int8-{batch}"].result
        assert built["build"]["profile"]["images"] == [[batch, 1, 32, 32]] * 3
    entrants = found["contest-student-int8"].result["entrants"]
    assert [name.split(".")[2] for name in entrants[:2]] == ["engine", "engine_graph"]


def test_what_is_kept_names_no_path_and_is_laid_out_to_be_committed(dry: Path) -> None:
    (folder,) = dry.glob("results/*/gpu")
    names = plan(["student"], ["int8"])
    assert {path.name for path in folder.iterdir()} == {"README.md", *(f"{name}.json" for name in names)}
    for path in folder.iterdir():
        text = path.read_text()
        assert str(dry) not in text
        assert str(ROOT) not in text
    page = (folder / "README.md").read_text()
    assert page == (dry / "README.md").read_text()
    assert "| contest-student-int8 | no GPU | no GPU |" in page
    assert (dry / "said.txt").read_text().endswith(f"{page}\n")


def test_a_finished_run_is_not_done_again_and_what_was_broken_off_is(dry: Path, tmp_path: Path) -> None:
    room = Room(tmp_path, dry=True)
    stopped = cells.run(room, "make-student", seconds_left=1)
    assert (stopped.state, stopped.reason) == ("not reached", "the time was over")
    over = cells.write(room, Cell(name="machine", state="done", seconds=1, result={"seen": f"{tmp_path}/work/a"}))
    assert over.result == {"seen": "work/a"}
    assert cells.read(room, "machine") == over


def test_a_cell_that_takes_too_long_ends_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "pid"
    slow = "import subprocess as s; print('it was busy', flush=True); c = s.Popen(['sleep', '60']); "
    slow += f"open({str(note)!r}, 'w').write(str(c.pid)); c.wait()"
    monkeypatch.setattr(cells, "command", lambda room, name: [sys.executable, "-c", slow])
    monkeypatch.setitem(cells.LIMITS, "machine", 1)
    found = cells.run(Room(tmp_path), "machine", seconds_left=100)
    assert (found.state, found.reason) == ("timed out", "over 1 s: it was busy")
    status = Path(f"/proc/{note.read_text()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def says(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(cells, "command", lambda room, name: [sys.executable, "-c", code])


def test_a_cell_that_dies_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "raise ValueError('no such thing')")
    found = cells.run(Room(tmp_path), "machine", seconds_left=100)
    assert found.state == "failed"
    assert found.reason == "its process ended (1): ValueError: no such thing"
    says(monkeypatch, "")
    assert cells.run(Room(tmp_path), "machine", seconds_left=100).reason == "its process ended (0): it said nothing"


def test_what_a_cell_told_counts_whatever_a_library_does_in_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path)
    told = Cell(name="machine", state="done", result={"number": float("nan"), "where": f"{sys.prefix}/lib/a.so"})
    write = f"import os, pathlib; pathlib.Path({str(room.told('machine'))!r}).write_text({told.model_dump_json()!r})"
    says(monkeypatch, f"{write}; print('goodbye'); os.abort()")
    found = cells.run(room, "machine", seconds_left=100)
    assert (found.state, found.result) == ("done", {"number": None, "where": "lib/a.so"})
    assert found.seconds > 0
    says(monkeypatch, "raise SystemExit(3)")  # what an earlier try told does not count
    assert cells.run(room, "machine", seconds_left=100).state == "failed"


def test_the_plan_names_steps_that_exist_most_important_first() -> None:
    names = plan([*subjects.BY_NAME])
    assert len(set(names)) == len(names) == 1 + 3 + 3 + 9 * (2 + len(cells.BATCHES)) + 6
    assert {name.partition("-")[0] for name in names} == step.STEPS.keys() == cells.LIMITS.keys()
    kinds = [name.partition("-")[0] for name in names]
    assert kinds.index("accepts") < kinds.index("engine") < kinds.index("contest") < kinds.index("sweep")
    in_order = ["contest-resnet50-fp16", "engine-student-int8", "contest-resnet50-int8", "sweep-mobilefacenet-fp16-1"]
    in_order += ["sweep-mobilefacenet-fp16-32", "engine-student-fp32", "contest-resnet50-fp32", "tuned-student-fp16"]
    assert sorted(in_order, key=names.index) == in_order
    assert names.index("sweep-student-fp16-1") > names.index("tuned-resnet50-fp32")
    assert not [name for name in names if name.startswith("tuned") and name.endswith("int8")]  # torch has none


@pytest.mark.parametrize("name", ["mobilefacenet", "resnet50"])
def test_weights_are_drawn_the_same_everywhere(name: str) -> None:
    path = subjects.GRAPHS / f"{name}.onnx"
    assert path.stat().st_size < 50_000
    assert not subjects.whole(path)
    model = subjects.filled(path)
    drawn = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    first = onnx.numpy_helper.to_array(drawn[0])
    place = [tensor.name for tensor in model.graph.initializer].index(drawn[0].name)
    again = np.random.default_rng([0, place]).standard_normal(first.shape, np.float32)
    again *= np.float32(np.sqrt(2 / first[0].size))
    np.testing.assert_array_equal(first, again)
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) in (2, 4))
    # torchvision counts 25,557,032 for ResNet-50, of which 53,120 are norms' and 1,000 biases; the paper 0.99 M.
    low, high = {"mobilefacenet": (960_000, 990_000), "resnet50": (25_502_912, 25_502_912)}[name]
    assert low <= parameters <= high


def test_a_face_nets_outputs_survive_every_precision(tmp_path: Path) -> None:
    made = subjects.make(subjects.BY_NAME["mobilefacenet"], subjects.GRAPHS, tmp_path, 4)
    x = subjects.images(subjects.BY_NAME["mobilefacenet"], 3)
    reference = run_onnx(made["fp32"], x)
    assert 1e-3 < reference.std() < 1e3
    assert compare(reference, run_onnx(made["fp16"], x)).cosine_min > 0.999
    assert compare(reference, run_onnx(made["int8"], x)).cosine_mean > 0.98


@pytest.mark.kd
@pytest.mark.parametrize("half", [False, True])
def test_torch_computes_what_onnxruntime_computes(half: bool, tmp_path: Path) -> None:
    from benchmarks.gpu.torch_session import TorchSession

    save_model(fold(residual_net()), tmp_path / "net.onnx")
    x = images(5)
    with TorchSession(tmp_path / "net.onnx", half, None, "cpu") as session:
        found = compare(run_onnx(tmp_path / "net.onnx", x), session.infer(x))
        assert session.infer(x[:1]).shape == (1, 10)
    assert found.max_abs_relative < (0.02 if half else 1e-5)


@pytest.mark.kd
@pytest.mark.parametrize("name", [name for name in step.RIVALS if name != "onnxruntime_cpu"])
def test_a_rival_says_why_it_cannot_run_here(name: str) -> None:
    from kd2edge.edge.session import open_backend

    reason = open_backend(step.RIVALS[name]).available()
    if reason is None:
        pytest.skip("it can")
    assert "no GPU" in reason or "not installed" in reason or "no CUDA provider" in reason


def test_the_page_shows_numbers_faults_and_what_was_not_reached(tmp_path: Path) -> None:
    room = Room(tmp_path)
    number = {"value": 0.5, "unit": "ms", "low": 0.4, "high": 0.6, "better": "lower"}
    sound = {
        "numbers": {"latency_p50": number, "latency_p99": {**number, "value": 0.75}, "gpu_compute_p50": number},
        "ratio_to": {"first": "engine", "latency_p50": [1.25, 1.2, 1.3], "gpu_compute_p50": [2.0, None, None]},
        "conditions": {"cuda_graph": True},
        "parity": {"onnxruntime fp16": {"cosine_min": 0.9999, "cosine_apart_min": 0.99}},
    }
    contenders = {"student.fp16.engine.b1": sound, "student.fp16.torch_tuned.b1": {"fault": "no answer within 90 s"}}
    cells.write(room, Cell(name="contest-student-fp16", state="done", result={"contenders": contenders}))
    result = {"contenders": {"student.fp16.engine.b1": {**sound, "parity": {}}}}
    cells.write(room, Cell(name="sweep-student-fp16-1", state="done", result=result))
    cells.write(room, Cell(name="sweep-student-fp16-2", state="failed", reason="a | b"))
    refused = Cell(name="accepts-tensorrt_rtx", state="refused", reason="no kernels for SM 9.0")
    cells.write(room, refused)
    page = table.page(room, plan(["student"], ["fp16"]))
    assert "| tensorrt_rtx | refused | no kernels for SM 9.0 |" in page
    assert "| engine | 0.5 [0.4, 0.6] | 0.75 [0.4, 0.6] | 1.25 | 0.5 [0.4, 0.6] | 2.00 | 0.999900 | 0.990000 |" in page
    assert "| torch.compile max-autotune | no answer within 90 s | | | | | | |" in page
    assert "| 1 | 0.5 [0.4, 0.6] | - | 0.5 [0.4, 0.6] | - | - |" in page
    assert "| sweep-student-fp16-2 | failed | a / b |" in page
    assert "| machine | not reached | the run ended before |" in page
