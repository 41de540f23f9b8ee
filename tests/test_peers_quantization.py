"""Second opinions: other tools really run, a missing one is told, and the table says what the committed cells say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.quantization import cells, judge, latency, runtime, table
from benchmarks.peers.quantization.adapters.job import Answer, Job
from benchmarks.peers.quantization.cells import Cell, Difference, Ratio
from benchmarks.peers.quantization.peers import FP32, OURS, PEERS
from benchmarks.peers.quantization.subjects import EMBEDDED, Sources, Subject, prepare
from kd2edge.errors import UserError
from kd2edge.graph.fold import fold
from kd2edge.graph.load import save_model
from kd2edge.graph.parity import compare
from tests.graphs import images, residual_net

ROOT = Path(__file__).parents[1]


def subject(folder: Path) -> Subject:
    """A tiny net with logits, as `prepare` would leave it."""
    save_model(fold(residual_net()), folder / "fp32.onnx")
    np.save(folder / "calibration.npy", images(24))
    np.save(folder / "test.npy", images(40, seed=1))
    found = Subject("tiny", "logits", folder, None)
    outputs = runtime.outputs(folder / "fp32.onnx", found.images("test"))
    np.save(folder / "labels.npy", outputs.argmax(axis=1))
    return found


def asked(folder: Path, tool: str) -> Answer:
    peer = next(peer for peer in PEERS if peer.name == tool)
    job = Job(
        fp32=folder / "fp32.onnx",
        calibration=folder / "calibration.npy",
        out=folder / f"{tool}.onnx",
        output="logits",
        adapter=peer.adapter,
        setting=peer.setting,
    )
    return cells.ask(job, Path(sys.executable))


@pytest.mark.parametrize("tool", ["ort-defaults", "ort-percentile", OURS])
def test_a_tool_that_is_here_quantizes_in_a_process_of_its_own(tool: str, tmp_path: Path) -> None:
    made = subject(tmp_path)
    answer = asked(tmp_path, tool)
    assert (answer.missing, answer.failed) == (None, None)
    assert answer.seconds is not None
    assert answer.peak_mib is not None
    assert answer.peak_mib > 20
    assert "onnxruntime" in answer.versions
    test = made.images("test")
    found = compare(runtime.outputs(tmp_path / "fp32.onnx", test), runtime.outputs(tmp_path / f"{tool}.onnx", test))
    assert 0.9 < found.cosine_mean < 1 - 1e-9


@pytest.mark.skipif(importlib.util.find_spec("modelopt") is not None, reason="ModelOpt is installed")
@pytest.mark.parametrize("tool", ["modelopt-max", "modelopt-torch"])
def test_a_tool_that_is_missing_is_told_with_what_installs_it(tool: str, tmp_path: Path) -> None:
    subject(tmp_path)
    answer = asked(tmp_path, tool)
    assert answer.missing is not None
    assert "No module named 'modelopt'" in answer.missing
    assert "pip install nvidia-modelopt" in answer.missing


def test_a_tool_that_fails_is_a_row_and_no_crash(tmp_path: Path) -> None:
    subject(tmp_path)
    (tmp_path / "fp32.onnx").write_bytes(b"damaged")
    answer = asked(tmp_path, "ort-defaults")
    assert answer.failed
    assert not (tmp_path / "ort-defaults.onnx").exists()


def test_a_cell_is_judged_compared_and_kept(tmp_path: Path) -> None:
    """With FP32's own predictions as labels, top-1 is the agreement; ours differs from itself by nothing."""
    made, peer = subject(tmp_path), PEERS[0]
    cell = cells.quantized(made, peer, Path(sys.executable))
    assert cell.fault is None
    np.save(tmp_path / "fp32.outputs.npy", runtime.outputs(tmp_path / "fp32.onnx", made.images("test")))
    judged = judge.judged(cell, made)
    assert judged.metrics["top1"] == pytest.approx(judged.agreement)
    same = judge.differences(judged, judged, made).difference["top1"]
    assert (same.value, same.low, same.high, same.ours) == (0, 0, 0, judged.sha256)
    cells.write(judged, tmp_path / "results")
    assert cells.read(cells.path_of("tiny", peer.name, tmp_path / "results")) == judged
    assert cells.valid(judged, made, peer.about)
    assert not cells.valid(judged, made, "another setting")


def test_fp32_is_run_again_where_only_its_cell_came_with_the_checkout(tmp_path: Path) -> None:
    """Its latency, which is not measured anew, stays; where both are there, nothing is run."""
    made, results = subject(tmp_path), tmp_path / "results"
    judge.plain(made, results)
    path = cells.path_of("tiny", FP32, results)
    first = cells.read(path)
    assert first is not None
    timed = first.model_copy(update={"latency": Ratio(p50_ms=1, value=1, low=1, high=1, turns=40)})
    cells.write(timed, results)
    outputs = tmp_path / f"{FP32}.outputs.npy"
    outputs.unlink()
    judge.plain(made, results)
    assert outputs.is_file()
    assert cells.read(path) == timed
    path.write_text(timed.model_copy(update={"metrics": {"top1": 1.0}}).model_dump_json(), encoding="utf-8")
    judge.plain(made, results)
    kept = cells.read(path)
    assert kept is not None
    assert kept.metrics == {"top1": 1.0}


def test_latencies_are_taken_in_turns_over_that_of_fp32(tmp_path: Path) -> None:
    made = subject(tmp_path)
    models = {name: tmp_path / "fp32.onnx" for name in ("fp32", "again")}
    found = latency.in_turns(models, np.array(made.images("test")[:4]), turns=8, calls=2)
    assert (found["fp32"].value, found["fp32"].low, found["fp32"].high) == (1, 1, 1)
    assert found["again"].low <= found["again"].value <= found["again"].high
    assert found["again"].turns == 8


def row(tool: str, sha256: str, ours: str | None = None, fault: str | None = None) -> Cell:
    difference = {} if ours is None else {"top1": Difference(value=-1.5, low=-2, high=-1, ours=ours)}
    ratio = None if fault else Ratio(p50_ms=2, value=0.5, low=0.4, high=0.6, turns=40)
    metrics = {} if fault else {"top1": 90.0}
    return Cell(
        model="tiny",
        tool=tool,
        about=f"about {tool}",
        fp32="f",
        sha256=sha256,
        fault=fault,
        metrics=metrics,
        difference=difference,
        latency=ratio,
        images=40,
        rtx="its Pad is refused" if tool == "ort-defaults" else "yes",
    )


def test_the_table_tells_differences_refusals_and_faults(tmp_path: Path) -> None:
    for cell in (
        row(FP32, "f"),
        row(OURS, "o"),
        row("ort-defaults", "d", ours="o"),
        row("ort-minmax", "m", ours="an older one"),
        row("modelopt-max", "", fault="not installed: pip install it"),
    ):
        cells.write(cell, tmp_path)
    lines = {line.split(" | ")[0]: line for line in table.markdown(tmp_path).splitlines() if line.startswith("| ")}
    assert "**-1.50** (-2.00 to -1.00)" in lines["| about ort-defaults"]
    assert "**no**" in lines["| about ort-defaults"]
    assert "of an older file of ours" in lines["| about ort-minmax"]
    assert "not installed: pip install it" in lines["| about modelopt-max"]
    assert "* Refused, about ort-defaults: its Pad is refused" in table.markdown(tmp_path)


def test_the_readmes_table_is_that_of_the_committed_cells() -> None:
    text = table.README.read_text(encoding="utf-8")
    assert table.put(text) == text, "run `python -m benchmarks.peers.quantization --table`"


def test_what_the_front_page_says_of_the_published_face_net_is_what_was_measured() -> None:
    folder = ROOT / "benchmarks" / "results" / "onnx-cpu" / "peers-quantization" / "facexzoo-mobilefacenet"
    tar = {path.stem: json.loads(path.read_text())["metrics"]["tar@1e-4"] for path in folder.glob("*.json")}
    others = {tool: [tar[name] for name in tar if name.startswith(tool)] for tool in ("ort-", "modelopt-")}
    spread = [f"{bound(figures):.1f}" for figures in others.values() for bound in (min, max)]
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"keeps {tar[OURS]:.2f} of its {tar[FP32]:.2f} %" in said
    assert f"leaves {spread[0]} to {spread[1]} % and ModelOpt {spread[2]} to {spread[3]} %" in said


def test_what_cannot_be_shipped_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs CIFAR-10"):
        prepare("resnet20", Sources(), tmp_path)
    with pytest.raises(UserError, match="no model 'resnet21'"):
        prepare("resnet21", Sources(), tmp_path)
    assert all(path.is_file() for path in EMBEDDED.values())


@pytest.mark.kd
def test_a_net_for_bgr_is_turned_round_exactly() -> None:
    import torch

    from benchmarks.peers.quantization.published import turn_round
    from kd2edge.kd import net
    from kd2edge.schema import NetSpec

    spec = {"model": {"name": "mobilefacenet", "multiplier": 0.125}, "neck": "gdc", "embedding": 16}
    made = net.build(NetSpec.model_validate(spec), net.Shape(3, (32, 32), 2)).eval()
    rgb = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = made(rgb.flip(1)).embedding
        turn_round(made)
        assert torch.allclose(made(rgb).embedding, before, atol=1e-5)
