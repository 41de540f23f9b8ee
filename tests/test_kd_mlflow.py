"""MLflow as a tracker: one run for one run directory, through kills and resumes, and nothing leaves the machine."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kd2edge.kd.trackers.mlflow import _client, flat

pytestmark = pytest.mark.kd
needs_store = pytest.mark.skipif(
    importlib.util.find_spec("sqlalchemy") is None, reason="mlflow's own store needs sqlalchemy"
)
RECIPE = {"seed": 3, "student": {"model": {"name": "resnet_cifar", "widths": [8, 8, 16]}, "weights": None}}

# One process of a training: it must not reach for the network, and ends as it is told to.
PROCESS = """
import json, os, signal, socket, sys, threading
from pathlib import Path

def refuse(*arguments):
    raise AssertionError("it calls somebody")

socket.socket.connect = socket.socket.connect_ex = refuse
from kd2edge.kd import trackers

folder, start, end, ending, recipe = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
tracker = trackers.open_tracker(["mlflow"], folder, "my-run", print, json.loads(recipe))
tracker.rewind("student", start)
for step in range(start + 1, end + 1):
    tracker.tell("student", step, {"loss": step / 3, "lr": 0.1})
if ending == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
tracker.close(finished=ending == "finished")
assert threading.active_count() == 1, threading.enumerate()
assert "torch" not in sys.modules
"""

SILENT = """
import os
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true", os.environ["MLFLOW_DISABLE_TELEMETRY"]
assert os.environ["DO_NOT_TRACK"] == "true"
class MlflowClient:
    def __init__(self, tracking_uri, registry_uri):
        raise OSError("imported in silence")
"""


def environment() -> dict[str, str]:
    """This process's, without anything that would speak to MLflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DO_NOT"))}


def run(folder: Path, start: int, end: int, ending: str) -> None:
    command = [sys.executable, "-W", "error", "-c", PROCESS, str(folder), str(start), str(end), ending]
    done = subprocess.run([*command, json.dumps(RECIPE)], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-9 if ending == "killed" else 0, ""), done.stderr
    assert done.stderr == ""


def store(folder: Path) -> tuple[Any, str]:
    return _client(f"sqlite:///{folder / 'mlflow.db'}"), (folder / "mlflow.id").read_text()


@needs_store
def test_a_killed_run_goes_on_as_the_same_one_with_every_figure_once(tmp_path: Path) -> None:
    run(tmp_path, 0, 20, "killed")
    first = (tmp_path / "mlflow.id").read_text()
    run(tmp_path, 12, 25, "interrupted")
    client, made = store(tmp_path)
    assert client.get_run(made).info.status == "KILLED"
    run(tmp_path, 25, 30, "finished")
    (found,) = client.search_runs([client.get_experiment_by_name("kd2edge").experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (first, "my-run", "FINISHED")
    history = client.get_metric_history(first, "student/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, step / 3) for step in range(1, 31)]
    assert found.data.params == {
        "seed": "3",
        "student.model.name": "resnet_cifar",
        "student.model.widths": "[8, 8, 16]",
        "student.weights": "null",
    }
    client._tracking_client.store.engine.dispose()


@needs_store
def test_a_store_that_was_thrown_away_begins_anew(tmp_path: Path) -> None:
    run(tmp_path, 0, 3, "interrupted")
    first = (tmp_path / "mlflow.id").read_text()
    (tmp_path / "mlflow.db").unlink()
    run(tmp_path, 3, 5, "finished")
    client, made = store(tmp_path)
    assert made != first
    assert [metric.step for metric in client.get_metric_history(made, "student/loss")] == [4, 5]
    client._tracking_client.store.engine.dispose()


def test_nothing_is_imported_before_telemetry_is_off(tmp_path: Path) -> None:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(SILENT if package == "mlflow" else "")
    code = "from kd2edge.kd import trackers; from pathlib import Path; import sys; assert 'mlflow' not in sys.modules\n"
    code += f"trackers.open_tracker(['mlflow'], Path({str(tmp_path / 'log')!r}), 'run', print)"
    place = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment(), "PYTHONPATH": place}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("mlflow is told nothing of this training: imported in silence.\n", "")


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_a_server_that_is_away_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from kd2edge.kd import trackers
tracker = trackers.open_tracker(["mlflow"], Path("."), "run", print)
tracker.tell("student", 1, {"loss": 1.0})
tracker.close()
"""
    settings = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    place = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**environment(), **settings, **place},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("mlflow is told nothing of this training: API request to http://127.0.0.1:9/")


def test_a_recipe_becomes_flat_parameters() -> None:
    tree = {"a": {"b": [1, 2], "c": {}}, "d": "text", "e": None, "f": 0.5}
    assert dict(flat(tree)) == {"a.b": "[1, 2]", "a.c": "{}", "d": "text", "e": "null", "f": "0.5"}
