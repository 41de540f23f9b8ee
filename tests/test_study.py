"""A study for real and in small: two processes share its cells, what is done stays done, what changes is done again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from kd2edge import run as runs
from kd2edge.cli import app
from kd2edge.errors import Faults, UserError
from kd2edge.report.model import read_report
from kd2edge.run import Run
from kd2edge.verbs import study_cell
from kd2edge.verbs.cells import Cell, Plan, claimed, open_plan
from kd2edge.verbs.distill import anchored
from kd2edge.verbs.study import study
from kd2edge.verbs.study_latency import latency
from kd2edge.verbs.study_table import table
from tests import tiny

pytestmark = [pytest.mark.kd, pytest.mark.slow]

SHORT = {"about": "short", "latency": {"warmup_ms": 1, "seconds": 0.01, "min_samples": 3}, "rules": []}
DIVERGING = {"train.lr": 1.0e30, "train.clip": None}
CELLS = 6


def write(folder: Path, **changes: Any) -> Path:
    """A study of two rows, two trials each and one seed, with its recipe, suites and images."""
    train = {"epochs": 1, "batch": 16, "lr": 0.02, "precision": "fp32"}
    images = tiny.image_folder(folder / "photos", per_class=20)
    base = tiny.recipe(images, {"name": "kd"}, train={**train}, suite=str(folder / "short.yaml"))
    base["teacher"]["train"] = {**train}
    for split in ("test", "val"):
        (folder / f"{'short' if split == 'test' else split}.yaml").write_text(yaml.safe_dump({**SHORT, "split": split}))
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    tree = {
        "about": "a small study",
        "recipe": str(folder / "base.yaml"),
        "seeds": [0],
        "metric": "top1",
        "suite": str(folder / "short.yaml"),
        "rows": {
            "plain": {"about": "alone", "method": {"name": "plain"}, "trials": [DIVERGING, {"train.lr": 0.05}]},
            "kd": {"about": "taught", "method": {"name": "kd"}, "trials": [{"method.tau": 2}, {"method.tau": 4}]},
        },
        "search": {"suite": str(folder / "val.yaml"), "seed": 3},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump({**tree, **changes}, sort_keys=False))
    return folder / "small.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that two processes have done together."""
    folder = tmp_path_factory.mktemp("study")
    write(folder)
    command = [sys.executable, "-m", "kd2edge", "study", "small.yaml"]
    started = [
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def copy(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study with its results, and without its runs."""
    shutil.copytree(place, tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def plan() -> Plan:
    return open_plan("small.yaml")


def change(**changes: Any) -> None:
    path = Path("small.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))


def forbidden(*arguments: object) -> None:
    raise AssertionError("a cell that is done was worked on")


def test_two_processes_do_every_cell_once(here: Path) -> None:
    cells = [*plan().trials(), *plan().seeds()]
    assert len(cells) == CELLS
    for cell in cells:
        events = [(event["verb"], event["event"]) for event in Run(plan().run_path(cell)).events()]
        diverged = plan().state(cell) == "failed"
        assert events.count(("run", "created")) == 1
        assert events.count(("distill", "finished")) == events.count(("bench", "finished")) == (not diverged)


def test_a_cell_keeps_what_its_training_took(here: Path) -> None:
    """One epoch of 60 images in batches of 16: three steps."""
    for cell in plan().seeds():
        result = plan().result(cell)
        assert result is not None
        training = result.training
        assert training is not None
        lines = (plan().run_path(cell) / "log" / "fp32.jsonl").read_text().splitlines()
        assert training.images == 48
        assert training.seconds == pytest.approx(sum(json.loads(line)["seconds"] for line in lines), abs=1e-3)
        assert training.threads >= 1
        assert training.load >= 0


def test_the_table_has_every_figure_and_says_how_it_was_searched(here: Path) -> None:
    summary = table("small.yaml")
    assert summary.missing == ()
    assert summary.teacher is not None
    assert summary.teacher.fp32 is not None
    for line in summary.lines:
        assert line.fp32 is not None
        assert line.int8 is not None
        assert (line.done, line.fp32.n, line.parameters) == ((0,), 1, 6315)
        assert line.macs == 485_424
    assert summary.line("plain").settings == {"train.lr": 0.05}
    assert "Each row had 2 trials" in " ".join(summary.conditions)


def test_a_result_is_small_knows_its_recipe_and_quotes_no_latency(here: Path) -> None:
    files = sorted(plan().results.rglob("*.json"))
    assert len(files) == CELLS + 1  # and the teacher's
    assert max(path.stat().st_size for path in files) < 15_000
    assert not any(str(here / "runs") in path.read_text() or "latency" in path.read_text() for path in files)
    result = plan().result(Cell("kd", 0))
    assert result is not None
    assert result.made_by() == plan().recipe(Cell("kd", 0))
    assert [row.role for row in result.rows] == ["fp32", "int8"]


def test_a_trial_that_diverged_is_a_result_that_loses(here: Path) -> None:
    result = plan().result(Cell("plain", 3, 0))
    assert result is not None
    assert result.fault is not None
    assert result.fault.startswith("The loss is not finite")
    assert plan().chosen("plain") == {"train.lr": 0.05}


def test_a_finished_cell_is_not_done_again_even_where_its_run_is_gone(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_cell, "train", forbidden)
    monkeypatch.setattr(study_cell, "bench_run", forbidden)
    before = table("small.yaml")
    assert study("small.yaml") == before
    assert not (copy / "runs").exists() or not list((copy / "runs").rglob(runs.RECIPE))


def test_a_row_that_is_missing_or_changed_is_named_and_done_again(copy: Path) -> None:
    rows = yaml.safe_load(Path("small.yaml").read_text())["rows"]
    rows = {name: {key: value for key, value in row.items() if key != "trials"} for name, row in rows.items()}
    change(rows=rows, search=None, seeds=[0, 1])
    assert table("small.yaml").missing == (
        "plain: seed 1 missing", "plain: seed 0 stale", "kd: seed 1 missing", "kd: seed 0 stale",
    )  # fmt: skip
    summary = study("small.yaml", ["plain"], [0])
    assert summary.line("plain").done == (0,)
    assert summary.missing == ("plain: seed 1 missing", "kd: seed 1 missing", "kd: seed 0 stale")


def test_a_run_of_other_settings_is_kept_if_it_is_finished_and_else_not_gone_on_with(copy: Path) -> None:
    cell = Cell("kd", 0)
    recipe = plan().recipe(cell)
    assert recipe is not None
    path = plan().run_path(cell)
    runs.create(path, anchored(recipe.model_copy(update={"seed": 8})), resume=False)
    plan().result_path(cell).unlink()
    with pytest.raises(Faults, match="begun with other settings than the study has now"):
        study("small.yaml")
    assert table("small.yaml").missing == ("kd: seed 0 missing",)


def test_what_another_process_is_at_is_left_to_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_cell, "train", forbidden)
    plan().result_path(Cell("kd", 0)).unlink()
    with claimed(plan(), Cell("kd", 0)):
        assert study("small.yaml").missing == ("kd: seed 0 missing",)


def test_latency_is_measured_for_all_rows_together_and_dropped_when_files_change(here: Path) -> None:
    summary = latency("small.yaml")
    assert {line.row: set(line.p50) for line in summary.lines} == {"plain": {"fp32", "int8"}, "kd": {"fp32", "int8"}}
    assert summary.teacher is not None
    assert set(summary.teacher.p50) == {"fp32"}
    assert any(
        condition.startswith("Latency: all files in turn, batch 1, 1 thread") for condition in summary.conditions
    )
    report = read_report(plan().latency_path)
    assert not any(name.startswith("top") for row in report.rows for name in row.numbers)  # only time was measured
    altered = report.model_copy(update={"rows": tuple(row.model_copy(update={"sha256": ""}) for row in report.rows)})
    plan().latency_path.write_text(altered.model_dump_json())
    assert all(not line.p50 for line in table("small.yaml").lines)


def test_the_command_shows_the_table_and_answers_with_it(here: Path) -> None:
    shown = CliRunner().invoke(app, ["study", "small.yaml", "--table"])
    assert shown.exit_code == 0
    assert "a small study" in shown.stdout
    assert "Made by: kd2edge study small" in shown.stdout
    asked = CliRunner().invoke(app, ["study", "small.yaml", "--row", "kd", "--json"])
    assert asked.exit_code == 0
    assert '"study":"small"' in asked.stdout.splitlines()[-1]
    assert CliRunner().invoke(app, ["study", "small.yaml", "--row", "th_kd"]).exit_code == 2


def test_without_runs_there_is_no_latency_to_measure(copy: Path) -> None:
    with pytest.raises(UserError, match="No row of small has a finished run"):
        latency("small.yaml")
