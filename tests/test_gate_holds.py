"""The gate is not decoration: a good run ships by the default suite, and each way of spoiling it holds, for its reason.

The models are those of the committed default recipe (tests/data says how they were made), quantized and measured here
in onnxruntime over the whole test set; only the seconds of latency are cut.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kd2edge import artifact, drawers
from kd2edge import run as runs
from kd2edge.artifact import Artifact
from kd2edge.data import open_source
from kd2edge.edge.bench import bench
from kd2edge.edge.gate import judge
from kd2edge.graph.load import load_model, save_model
from kd2edge.kd import net, to_onnx, weights
from kd2edge.report.model import Report, Verdict
from kd2edge.run import Run
from kd2edge.verbs.bench import run_items
from kd2edge.verbs.inspection import inspected
from kd2edge.verbs.quantize import quantize
from tests.tables import ROOT

pytestmark = [pytest.mark.kd, pytest.mark.slow]

MODELS = ROOT / "tests" / "data" / "omniglot"
TARGET = drawers.read_target("onnx-cpu")
SUITE = drawers.read_suite("default")
SHORT = SUITE.model_copy(update={"latency": SUITE.latency.model_copy(update={"seconds": 0.3, "warmup_ms": 20.0})})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = runs.create(tmp_path_factory.mktemp("run"), drawers.read_recipe("omniglot"), resume=False)
    for file in MODELS.iterdir():
        shutil.copy(file, made.path)
    student = artifact.open_artifact(made.path / "fp32.onnx")
    made.add(teacher(made, student), "distill")
    for role in ("plain", "fp32"):
        made.add(artifact.open_artifact(made.path / f"{role}.onnx"), "distill")
    quantize(made.path, "onnx-cpu")
    return made


def teacher(made: Run, student: Artifact) -> Artifact:
    """The embedded teacher as ONNX, described like the student."""
    spec = made.recipe.teacher
    assert spec is not None
    assert spec.weights is not None
    built = net.build(spec, net.Shape(1, (32, 32), 964))
    weights.load_into(built, spec.weights)
    samples = np.load(made.path / "fp32.probe.npz")["inputs"]
    to_onnx.export(net.freeze(built), "embedding", samples, made.path / "teacher.onnx")
    kept = student.manifest.model_dump(exclude={"manifest", "file", "sha256", "bytes", "role"})
    return artifact.describe(made.path / "teacher.onnx", role="teacher", **kept)


def measured(run: Run, *roles: str) -> Report:
    items = [(role, item) for role, item in run_items(run, TARGET) if role in roles or not roles]
    source = open_source(run.recipe.data.model_dump())
    extra = dict(inspected(items, source, "test"))
    return steady(bench(items, TARGET, "onnx-cpu", SHORT, "default", source, extra_numbers=extra))


def steady(report: Report) -> Report:
    """The report as of a machine that nothing else keeps busy: on such a one alone do timings decide."""
    quiet = {"unstable": False, "throttled": False}
    rows = (row.model_copy(update={"conditions": {**row.conditions, **quiet}}) for row in report.rows)
    return report.model_copy(update={"rows": tuple(rows)})


@pytest.fixture(scope="module")
def good(run: Run) -> Report:
    return measured(run)


def with_rows(report: Report, anew: Report) -> Report:
    rows = tuple(anew.row(row.role) or row for row in report.rows)
    return report.model_copy(update={"rows": rows})


def holds(verdict: Verdict, metric: str, of: str) -> str:
    """The reason why the rule on this metric holds."""
    assert verdict.verdict == "hold"
    found = [f for f in verdict.findings if f.says == "hold" and (f.rule.metric, f.rule.of) == (metric, of)]
    assert found, [finding.reason for finding in verdict.findings]
    return " ".join(finding.reason for finding in found)


@pytest.fixture
def spoiled(run: Run, tmp_path: Path) -> Run:
    """A copy of the run that may be spoiled."""
    return Run(shutil.copytree(run.path, tmp_path / "run"))


def replace(run: Run, role: str, model: onnx.ModelProto, old: Artifact) -> None:
    """Put another model in an artefact's place, with a manifest that vouches for it: only its numbers can tell."""
    save_model(model, old.path)
    kept = old.manifest.model_dump(exclude={"manifest", "file", "sha256", "bytes"})
    run.add(artifact.describe(old.path, **kept), "test")


def test_the_untouched_run_passes_every_rule(good: Report) -> None:
    verdict = judge(good)
    assert verdict.verdict == "ship", [f.reason for f in verdict.findings if f.says != "ship"]


def test_shuffled_student_weights_hold_for_accuracy(spoiled: Run, good: Report) -> None:
    student = dict(run_items(spoiled, TARGET))["fp32"]
    model = load_model(student.path)
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            shuffled = generator.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    replace(spoiled, "fp32", model, student)
    verdict = judge(with_rows(good, measured(spoiled, "fp32")))
    assert "at least" in holds(verdict, "tar@1e-3", "fp32")


def test_one_activation_scale_times_four_holds_for_int8(spoiled: Run, good: Report) -> None:
    """Six bits instead of eight in one tensor cost a tenth of a point of TAR; what shows it is the integers unused."""
    quantized = dict(run_items(spoiled, TARGET))["int8"]
    model = load_model(quantized.path)
    inputs = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    scales = [t for t in model.graph.initializer if t.name in inputs and numpy_helper.to_array(t).ndim == 0]
    middle = scales[len(scales) // 2]
    middle.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(middle) * np.float32(4), middle.name))
    replace(spoiled, "int8", model, quantized)
    verdict = judge(with_rows(good, measured(spoiled, "fp32", "int8")))
    assert "at least 60" in holds(verdict, "integer_range", "int8")
    assert verdict.recommend != "int8"


def test_a_missing_int8_file_holds_and_is_named(spoiled: Run, good: Report) -> None:
    path = dict(run_items(spoiled, TARGET))["int8"].path
    path.unlink()
    verdict = judge(with_rows(good, measured(spoiled, "int8")))
    assert path.name in holds(verdict, "tar@1e-3", "int8")


def test_a_file_that_is_not_the_one_that_was_made_holds(spoiled: Run, good: Report) -> None:
    path = dict(run_items(spoiled, TARGET))["int8"].path
    path.write_bytes(path.read_bytes() + b"\0")
    assert "sha256" in holds(judge(with_rows(good, measured(spoiled, "int8"))), "tar@1e-3", "int8")


def test_int8_for_tensorrt_loses_at_most_half_a_point_too(spoiled: Run, good: Report) -> None:
    """The other flavour, S8S8 with skip-branch residuals, over the whole test set in onnxruntime."""
    oracle = drawers.read_target("trt-oracle")
    quantize(spoiled.path, "trt-oracle")
    items = [(role, item) for role, item in run_items(spoiled, oracle) if role in ("fp32", "int8")]
    assert [item.manifest.flavour for _, item in items] == [None, "tensorrt"]
    report = bench(items, oracle, "trt-oracle", SHORT, "default", open_source(spoiled.recipe.data.model_dump()))
    finding = next(f for f in judge(report).findings if (f.rule.metric, f.rule.of) == ("tar@1e-3", "int8"))
    assert finding.says == "ship", finding.reason
