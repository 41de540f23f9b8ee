"""The search end to end, on a device whose times are scripted: budgets, journal, kill -9, what is written."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from onnx import TensorProto
from typer.testing import CliRunner

from kd2edge.artifact import Artifact, manifest_path, open_artifact
from kd2edge.cli import quantization
from kd2edge.cli.outcome import Verb
from kd2edge.errors import Exit, UserError
from kd2edge.graph.load import load_model
from kd2edge.progress import Silent
from kd2edge.run import create
from kd2edge.schema import Recipe
from kd2edge.schema.search import Choice, Searched
from kd2edge.verbs import trials
from kd2edge.verbs.journal import FILE, locked
from kd2edge.verbs.search import search
from tests import outliers, tiny

ROOT = Path(__file__).parents[1]
GROUPS = {"Conv_2", "Conv_4", "Conv_6"}  # those that TensorRT's policy quantizes; Conv_4 reads the outlier
brief = functools.partial(search, latency=outliers.LATENCY)


@pytest.fixture(scope="module", autouse=True)
def _scripted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "time_in_turns", vars(trials)["time_in_turns"])  # what it was is put back
        outliers.script_the_clock()
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outliers.folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return outliers.device(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Artifact:
    return outliers.classifier(tmp_path_factory.mktemp("model") / "net.onnx", images)


@pytest.fixture(scope="module")
def found(model: Artifact, target: str) -> Searched:
    return brief(model.path, 2.0, target=target)


def journal_of(model: Path) -> Path:
    return model.with_name(f"{model.stem}.search-slow") / FILE


def ships(found: Searched) -> set[str]:
    assert found.best is not None
    return {*found.points[found.best].choice.int8}


def test_the_fastest_graph_within_the_budget_leaves_the_culprit_in_float(found: Searched) -> None:
    assert {*found.conditions.groups} == GROUPS
    assert len(found.points) == 2 ** len(GROUPS)
    assert ships(found) == GROUPS - {"Conv_4"}
    assert found.points[0].choice == Choice()
    assert found.points[0].ratio == 1
    assert found.answer.startswith("INT8 in 2 of 3 groups is ")
    assert found.answer.endswith("it ships.")


def test_every_number_carries_its_count_and_interval(found: Searched) -> None:
    for point in found.points:
        assert point.score is not None
        assert point.timing is not None
        assert point.score.low <= point.score.drop <= point.score.high
        assert point.score.images == 72
        assert point.timing.low <= point.timing.p50 <= point.timing.high
        assert point.timing.ratio_low <= point.timing.ratio <= point.timing.ratio_high
        assert point.timing.n >= 24
        ms = 5 - 0.5 * len(point.choice.int8)  # of five layers
        assert point.timing.p50 == pytest.approx(ms)
        assert point.timing.ratio == pytest.approx(ms / 5)


def test_what_ships_is_written_with_its_lineage_and_runs(found: Searched, model: Artifact, target: str) -> None:
    assert found.file == str(model.path.with_name("net.int8-tensorrt.onnx"))
    made = open_artifact(Path(found.file)).manifest
    assert (made.role, made.verb, made.precision, made.flavour) == ("int8", "search", "int8", "tensorrt")
    assert made.parents == (model.manifest.sha256,)
    assert made.details["float_groups"] == ["Conv_4"]
    assert made.details["kept_in_float"]["Conv_4"] == "the search left its group in float"
    assert made.details["search"]["budget"]["max_drop"] == 2.0
    assert made.parity is not None
    assert made.parity["cosine_mean"] > 0.9
    graph = load_model(found.file).graph
    constants = {tensor.name for tensor in graph.initializer}
    assert {n.name for n in graph.node if n.op_type in ("Conv", "Gemm") and n.input[1] in constants} == {
        "Conv_0",
        "Conv_4",
        "Gemm_10",
    }


def test_the_reports_tell_every_point(found: Searched, model: Artifact) -> None:
    folder = journal_of(model.path).parent
    assert Searched.model_validate_json((folder / "pareto.json").read_text()) == found
    page, table = (folder / "pareto.html").read_text(), (folder / "pareto.md").read_text()
    assert "<svg" in page
    assert found.answer in page
    assert found.answer in table
    assert len([line for line in table.splitlines() if line.startswith("| ")]) == 2 + len(found.points)


def test_the_same_search_again_measures_nothing_and_ends_alike(found: Searched, model: Artifact, target: str) -> None:
    before = journal_of(model.path).read_bytes()
    again = brief(model.path, 2.0, target=target)
    assert again.points == found.points
    assert again.best == found.best
    assert journal_of(model.path).read_bytes() == before


def test_other_budgets_use_what_is_on_record(found: Searched, model: Artifact, target: str) -> None:
    before = journal_of(model.path).read_bytes()
    kept = Path(str(found.file)).read_bytes()
    assert ships(brief(model.path, 100.0, target=target)) == GROUPS
    out_of_reach = brief(model.path, 2.0, max_ratio=0.1, target=target)
    assert out_of_reach.best is None
    assert out_of_reach.file is None
    assert "cannot be met here" in out_of_reach.answer
    together = brief(model.path, 0.0, max_ratio=found.points[1].ratio * 1.0001, target=target)
    assert together.best is None
    assert "cannot be met together" in together.answer
    assert journal_of(model.path).read_bytes() == before
    brief(model.path, 2.0, target=target)
    assert Path(str(found.file)).read_bytes() == kept


def test_the_rest_is_fp16_where_the_device_runs_that_faster(tmp_path: Path, images: Path) -> None:
    source = outliers.classifier(tmp_path / "net.onnx", images).path
    half = brief(source, 2.0, target=outliers.device(tmp_path / "device", ("fp32", "fp16", "int8")))
    assert half.points[1].choice == Choice(rest="fp16")
    assert half.points[1].ratio == pytest.approx(0.75)
    assert ships(half) == GROUPS - {"Conv_4"}
    assert half.answer.startswith("INT8 in 2 of 3 groups and FP16 is 1.54x the speed of FP32 here and ")
    assert half.file is not None
    assert open_artifact(Path(half.file)).manifest.precision == "int8"
    types = {tensor.name: tensor.data_type for tensor in load_model(half.file).graph.initializer}
    assert TensorProto.FLOAT16 in types.values()


def test_a_runs_search_is_in_its_ledger(tmp_path: Path, images: Path, target: str) -> None:
    plan = {"images": 24, "calibrator": "minmax", "correct_bias": False}
    recipe = tiny.recipe(images, {"name": "plain"}, target=target, quantize=plan)
    run = create(tmp_path / "run", Recipe.model_validate(recipe), resume=False)
    made = run.add(outliers.classifier(run.path / "fp32.onnx", images), "distill")
    benched = made.manifest.model_copy(update={"details": {"operating": {"threshold": 0.5}}})
    manifest_path(made.path).write_text(benched.model_dump_json())
    searched = brief(run.path, 2.0)
    assert searched.file == str(run.path / "student.int8-tensorrt.onnx")
    entered, last = list(run.events())[-2:]
    assert (entered["verb"], entered["role"], entered["file"]) == ("search", "int8", "student.int8-tensorrt.onnx")
    assert (last["verb"], last["event"], last["answer"]) == ("search", "finished", searched.answer)
    assert (last["target"], last["best"], last["file"]) == (target, "INT8 in 2 of 3 groups", entered["file"])
    told = open_artifact(Path(searched.file)).manifest
    assert told.parents == (made.manifest.sha256,)
    assert (told.details["calibrator"], told.details["images"]) == ("minmax", 24)
    assert told.details["operating"] == {"threshold": 0.5}
    assert (run.path / "search-slow" / "pareto.html").is_file()
    said = Told()
    held = brief(run.path, 2.0, max_ratio=0.1, progress=said)
    last = list(run.events())[-1]
    assert (last["event"], last["answer"], last["best"], last["file"]) == ("finished", held.answer, None, None)
    assert f"{searched.file} is not of this answer, and stays: bench, gate and ship --resume go on with it." in (
        said.sentences
    )
    with pytest.raises(UserError, match="--data goes with a MODEL"):
        brief(run.path, 2.0, data=images)


class Told(Silent):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_older_int8_that_an_answer_without_int8_leaves_is_named(tmp_path: Path, images: Path, target: str) -> None:
    source = outliers.classifier(tmp_path / "net.onnx", images).path
    first, second, third = Told(), Told(), Told()
    brief(source, 2.0, max_ratio=0.1, target=target, progress=first)
    assert not [sentence for sentence in first.sentences if "net.int8" in sentence]
    written = brief(source, 2.0, target=target, progress=second)
    assert not [sentence for sentence in second.sentences if "is not of this answer" in sentence]
    brief(source, 2.0, max_ratio=0.1, target=target, progress=third)
    assert f"{written.file} is not of this answer, and stays: bench and gate go on with it." in third.sentences


def test_errors_of_the_calibration_are_not_told_as_the_mixs_own(found: Searched) -> None:
    details = open_artifact(Path(str(found.file))).manifest.details
    assert "errors" not in details
    assert {*details["calibration"]["errors_of_int8_in_all_groups"]} >= {"minmax", "mse"}


def test_a_graph_that_the_device_refuses_is_a_point_with_its_fault(tmp_path: Path, images: Path) -> None:
    target = Path(outliers.device(tmp_path / "device"))
    plugin = target.with_name("scripted.py")
    opening = "    def open(self, path, target):\n"
    refusing = (
        "        if any(node.op_type == 'DequantizeLinear' for node in onnx.load(str(path)).graph.node):\n"
        "            raise UserError('It knows no INT8.')\n"
    )
    text = plugin.read_text().replace(opening, opening + refusing)
    plugin.write_text(text.replace("import onnx\n", "import onnx\n\nfrom kd2edge.errors import UserError\n", 1))
    source = outliers.classifier(tmp_path / "net.onnx", images).path
    searched = brief(source, 2.0, target=str(target))
    assert searched.best == 0
    assert searched.answer.startswith("INT8 cannot be had here (It knows no INT8.)")
    assert {point.fault for point in searched.points[1:]} == {"It knows no INT8."}
    assert not source.with_name("net.int8-tensorrt.onnx").exists()


def test_killed_at_any_moment_it_resumes_to_the_same_answer(
    found: Searched, tmp_path: Path, images: Path, target: str
) -> None:
    source = outliers.classifier(tmp_path / "net.onnx", images).path
    journal = journal_of(source)
    code = (
        "import sys; from pathlib import Path; from tests import outliers; outliers.script_the_clock(); "
        "from kd2edge.verbs.search import search; "
        "search(Path(sys.argv[1]), 2.0, target=sys.argv[2], latency=outliers.LATENCY)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    seen: list[bytes] = []
    for lines in (1, 6):
        with subprocess.Popen([sys.executable, "-c", code, str(source), target], env=environment, cwd=ROOT) as process:
            while process.poll() is None and _lines(journal) < lines:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not source.with_name("net.int8-tensorrt.onnx").exists()
        seen.append(journal.read_bytes())
        with journal.open("ab") as file:
            file.write(b'{"key": "torn by the kill')
    resumed = brief(source, 2.0, target=target)
    assert resumed.points == found.points
    assert resumed.best == found.best
    whole = journal.read_bytes()
    assert all(whole.startswith(part) for part in seen)
    keys = [json.loads(line)["key"] for line in whole.splitlines()]
    assert len({*keys}) == len(keys) == 2 * len(found.points)
    assert brief(source, 2.0, target=target).points == resumed.points


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_a_second_search_beside_the_first_is_refused(found: Searched, model: Artifact, target: str) -> None:
    with locked(journal_of(model.path).parent), pytest.raises(UserError, match="Another process is measuring"):
        brief(model.path, 2.0, target=target)


@pytest.mark.parametrize("budgets", [{"max_drop": -1.0}, {"max_drop": 1.0, "max_latency": 1.0, "max_ratio": 1.0}])
def test_budgets_that_are_none_are_refused(budgets: dict[str, Any], model: Artifact, target: str) -> None:
    with pytest.raises(UserError, match="budgets are not usable"):
        brief(model.path, **budgets, target=target)


@pytest.mark.parametrize(("limit", "code"), [("0.99", Exit.SHIP), ("0.1", Exit.HOLD)])
def test_the_command_ends_with_the_answer_and_its_code(
    limit: str, code: Exit, found: Searched, model: Artifact, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd2edge.verbs.search.search", brief)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(cls=Verb)(quantization.search)
    words = [str(model.path), "--max-drop", "2", "--max-latency-ratio", limit, "--target", target, "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, done.output
    document = json.loads(done.stdout.splitlines()[-1])
    assert (document["best"] is None) == (code == Exit.HOLD)
    assert " ".join(document["answer"].split()) in " ".join(done.output.split())
