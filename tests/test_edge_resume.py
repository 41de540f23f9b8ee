"""A bench that was killed, at any moment: it goes on where it stood, and its report is that of an unbroken one."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from kd2edge.artifact import Artifact
from kd2edge.cli import app
from kd2edge.edge import devices, kept
from kd2edge.edge.kept import CELL
from kd2edge.report.model import read_report
from kd2edge.verbs.bench import bench
from tests.machine import DEVICE, JOBS, Machine, broken_off, measured, on, sittings, told, two_nets
from tests.test_edge_bench import EACH, TARGET, Patterns, classifier, linear
from tests.test_verbs_suite_data import SIDE, lfw, made_run

Items = list[tuple[str, Artifact]]


@pytest.fixture(autouse=True)
def same_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fingerprint", lambda: DEVICE)


@pytest.fixture
def items(tmp_path: Path) -> Items:
    return two_nets(tmp_path)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "cells"


HALF_A_ROUND = (8, 10, 12)  # the jobs before which one row has been timed and the other has not


@pytest.mark.parametrize(("within", "numbers"), [(False, range(1, JOBS + 1)), (True, (1, 4, 8, 9, JOBS))])
def test_killed_at_any_job_it_ends_as_an_unbroken_one(
    within: bool, numbers: Sequence[int], items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = on(Machine(), monkeypatch)
    unbroken = measured(items)
    assert len(whole.jobs) == JOBS
    assert sittings(unbroken) == {1}
    for at in numbers:
        on(Machine(at, within), monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            measured(items, room)
        rest = on(Machine(), monkeypatch)
        report = measured(items, room)
        assert told(report) == told(unbroken)
        assert sittings(report) == {1 if at == 1 else 2}
        assert len(rest.jobs) == JOBS - (at - 1) + (at in HALF_A_ROUND)  # a broken round is taken anew by all rows
        assert not room.exists()


def test_killed_again_and_again_it_still_ends_as_an_unbroken_one(
    items: Items, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Machine(), monkeypatch)
    unbroken = measured(items)
    for at in (3, 2, 4, 3, 1, 2):
        broken_off(items, room, at, monkeypatch)
    rest = on(Machine(), monkeypatch)
    report = measured(items, room)
    assert told(report) == told(unbroken)
    assert len(rest.jobs) < JOBS
    for row in report.rows:
        rounds = row.conditions["resumed"]["rounds"]
        assert [taken["sitting"] for taken in rounds] == sorted(taken["sitting"] for taken in rounds)
        assert all(taken["at"].endswith("Z") for taken in rounds)
    first, second = (row.conditions["resumed"]["rounds"] for row in report.rows)
    assert [taken["sitting"] for taken in first] == [taken["sitting"] for taken in second]  # neighbours in time


def test_killed_while_a_job_is_put_away(items: Items, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(Machine(), monkeypatch)
    unbroken = measured(items)
    for name in ("write_atomic", "_remove"):  # when a cell is whole, and when the one that it replaces is gone
        for at in (2, 9):
            calls: list[Any] = []
            with monkeypatch.context() as patched:
                real = getattr(kept, name)

                def dying(*given: Any, real: Any = real, calls: list[Any] = calls, at: int = at) -> Any:
                    calls.append(real(*given))
                    if len(calls) == at:
                        raise KeyboardInterrupt
                    return calls[-1]

                patched.setattr(kept, name, dying)
                with pytest.raises(KeyboardInterrupt):
                    measured(items, room)
            assert told(measured(items, room)) == told(unbroken)


# From here on by the command, in processes of their own.

WAITING = """
import os, pathlib, time
from kd2edge.edge.backends.onnxruntime import OnnxRuntime

class Waiting(OnnxRuntime):
    name = "waiting"
    def open(self, path, target):
        here = pathlib.Path(__file__).parent
        with (here / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\\n")
        if len((here / "pids").read_text().split()) == 3:
            time.sleep(600)
        return super().open(path, target)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`bench` of a small net, each process of which writes down its number, and the third never ends."""
    for place, image in enumerate(Patterns().images):
        path = tmp_path / "images" / "test" / f"class{place // EACH:02}" / f"{place % EACH}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    (tmp_path / "waiting.py").write_text(WAITING)
    target = TARGET.model_dump(mode="json") | {"backend": str(tmp_path / "waiting.py")}
    (tmp_path / "waiting.yaml").write_text(yaml.safe_dump(target))
    latency = {"batch": 1, "warmup_ms": 1, "seconds": 0.01, "min_samples": 30}
    (tmp_path / "brief.yaml").write_text(yaml.safe_dump({"about": "brief", "latency": latency, "rules": []}))
    data = {"name": "imagefolder", "path": str(tmp_path / "images"), "size": 8, "color": "L"}
    model = linear(tmp_path / "net.onnx", classifier(), data=data)
    options = ["--suite", str(tmp_path / "brief.yaml"), "--target", str(tmp_path / "waiting.yaml")]
    return ["bench", str(model.path), *options, "--out", str(tmp_path / "report.json")]


def test_the_cells_of_a_run_lie_in_it_until_its_report_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lfw(tmp_path / "faces")
    data = {"name": "insightface_bin", "path": str(folder / "lfw.bin"), "size": SIDE, "flip": True}
    run = made_run(tmp_path / "run", data)
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"about": "brief", "rules": []}))
    on(Machine(dies_at=4), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        bench([run.path], str(brief), "onnx-cpu")
    assert len(list((run.path / "bench" / "brief-onnx-cpu").glob(f"*/{CELL}"))) == 3
    rest = on(Machine(), monkeypatch)
    report = bench([run.path], str(brief), "onnx-cpu")
    assert sittings(report) == {2}
    assert len(rest.jobs) == 2 * (1 + 3) - 3 + 1
    assert not (run.path / "bench").exists()
    again = on(Machine(), monkeypatch)
    assert sittings(bench([run.path], str(brief), "onnx-cpu")) == {1}
    assert len(again.jobs) == 8  # what is finished is measured anew when it is asked for again


def wait(until: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def lives(process: int) -> bool:
    """Whether it still runs: one that has ended and was not fetched by anyone does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="that a worker dies with its bench is Linux's")
def test_a_bench_that_is_killed_takes_its_worker_along_and_goes_on_later(command: list[str], tmp_path: Path) -> None:
    pids, room = tmp_path / "pids", tmp_path / ".report.json.cells"
    process = subprocess.Popen(
        [sys.executable, "-m", "kd2edge", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait(lambda: pids.is_file() and len(pids.read_text().split()) == 3)
    process.kill()
    process.wait()
    worker = int(pids.read_text().split()[2])
    wait(lambda: not lives(worker))
    (first_round,) = room.glob("*/samples.npy")
    median = float(np.median(np.load(first_round))) / 1e6
    done = subprocess.run([sys.executable, "-m", "kd2edge", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "An interrupted bench left 2 measurements" in done.stdout
    (row,) = read_report(tmp_path / "report.json").rows
    assert row.faults == ()
    assert row.conditions["round_medians_ms"][0] == median
    assert row.conditions["resumed"]["sittings"] == 2
    assert [taken["sitting"] for taken in row.conditions["resumed"]["rounds"]] == [1, 2, 2]
    assert row.numbers["top1"].value == 100.0
    assert len(pids.read_text().split()) == 3 + 2
    assert not room.exists()


def test_an_interruption_tells_the_command_that_goes_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Machine(dies_at=3), monkeypatch)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 130
    assert f"continue with: kd2edge {' '.join(command[:2])} --suite" in result.stderr
    on(Machine(), monkeypatch)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "An interrupted bench left 2 measurements; to begin anew, remove" in result.stdout
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith((".", "report"))} == {
        "report.json",
        "report.html",
    }
