"""Sensitivity on a net with one outlier channel: who is named, and by which images."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from kd2edge.artifact import Artifact
from kd2edge.cli import quantization
from kd2edge.cli.outcome import Verb
from kd2edge.edge.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from kd2edge.errors import UserError
from kd2edge.graph.load import save_model
from kd2edge.schema import Target
from kd2edge.schema.search import Sensitivity
from kd2edge.verbs.images import open_data
from kd2edge.verbs.judge import Judge
from kd2edge.verbs.search import search
from kd2edge.verbs.sensitivity import FILE, sensitivity
from tests import graphs, outliers, tiny


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outliers.folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Artifact:
    return outliers.classifier(tmp_path_factory.mktemp("model") / "net.onnx", images)


@pytest.fixture(scope="module")
def found(model: Artifact) -> Sensitivity:
    return sensitivity(model.path, "trt-oracle")


def test_the_culprit_is_the_group_that_reads_the_outlier(found: Sensitivity) -> None:
    worst = found.harms[0]
    assert worst.group == "Conv_4"
    assert worst.alone.low > 0
    assert worst.without is not None
    assert worst.without.drop < worst.alone.drop / 4
    assert worst.without.drop < found.whole.drop
    assert found.answer.startswith("The culprit is Conv_4: in INT8 alone it loses ")
    others = [harm for harm in found.harms if harm.group != "Conv_4"]
    assert all(harm.alone.cosine > 0.99 for harm in others)
    assert all(harm.without is None or harm.without.drop > worst.alone.drop / 2 for harm in others)


def test_what_the_policy_keeps_is_quantized_once_to_see_what_it_spares(found: Sensitivity) -> None:
    kept = {harm.group: harm.kept for harm in found.harms if harm.kept is not None}
    assert kept == {"Conv_0": "it has few channels", "Gemm_10": "it produces the output"}
    assert sum(harm.macs for harm in found.harms) == pytest.approx(100)


def test_without_the_outlier_nobody_is_the_culprit(tmp_path: Path, images: Path) -> None:
    fine = outliers.classifier(tmp_path / "fine.onnx", images, outlier=0.0)
    found = sensitivity(fine.path, "trt-oracle")
    assert found.answer.startswith("No group loses accuracy alone")
    assert found.whole.cosine > 0.99


def test_it_is_judged_by_validation_images_and_says_so(found: Sensitivity, model: Artifact) -> None:
    assert found.conditions.images == "72 validation images"
    assert found.whole.images == 72
    report = Sensitivity.model_validate_json((model.path.parent / "net.search-trt-oracle" / FILE).read_text())
    assert report == found
    again = sensitivity(model.path, "trt-oracle")
    assert again.harms == found.harms


def test_without_remedies_the_net_is_as_it_came(found: Sensitivity, tmp_path: Path, images: Path) -> None:
    model = outliers.classifier(tmp_path / "net.onnx", images)
    bare = sensitivity(model.path, "trt-oracle", remedies=False)
    assert (bare.conditions.quantize["equalize"], bare.conditions.quantize["correct_bias"]) == (False, False)
    assert found.conditions.quantize["equalize"] is True
    assert bare.harms[0].group == "Conv_4"


def judge(folder: Path, splits: tuple[str, ...], used: int, images: int = 1000, seed: int = 0, task: str = "") -> Judge:
    """A judge by images of some splits only, none of `train` set aside."""
    root = tiny.image_folder(folder, per_class=12, size=outliers.SIDE, splits=splits)
    made = outliers.classifier(folder / "net.onnx", outliers.folder(folder / "other"))
    manifest = made.manifest.model_copy(update={"output": "embedding", "task": "verification"} if task else {})
    options = {"name": "imagefolder", "path": str(root), "size": outliers.SIDE, "val_fraction": 0.0}
    source = open_data(type(made.manifest.data).model_validate(options))  # type: ignore[union-attr]
    return Judge(Artifact(made.path, manifest), source, images, used, seed)


def test_without_validation_images_training_ones_that_did_not_calibrate_judge(tmp_path: Path) -> None:
    found = judge(tmp_path, ("train", "test"), used=20, seed=3)
    assert found.told == "16 training images that did not calibrate"
    assert found.seen
    order = np.random.default_rng(3).permutation(36)  # as calibration draws
    labels = np.repeat(np.arange(3), 12)
    assert found.labels.tolist() == labels[order[20:]].tolist()


def test_no_images_left_and_test_images_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="All 36 training images calibrate"):
        judge(tmp_path / "a", ("train", "test"), used=512)
    with pytest.raises(UserError, match="no split 'val'"):
        judge(tmp_path / "b", ("test",), used=0)


def test_embeddings_are_judged_by_whole_identities(tmp_path: Path) -> None:
    found = judge(tmp_path, ("train", "val"), used=0, images=25, task="verification")
    assert found.metric == "tar@1e-3"
    assert np.unique(found.labels, return_counts=True)[1].tolist() == [12, 12]


def test_outputs_that_are_not_finite_are_no_score(model: Artifact) -> None:
    assert model.manifest.data is not None
    made = Judge(model, open_data(model.manifest.data), 10, 0, 0)
    good = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    with pytest.raises(UserError, match="NaN"):
        made.score(np.full_like(good, np.nan), good)


def test_a_fault_of_fp32_is_not_put_on_record_as_int8s(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = outliers.classifier(tmp_path / "net.onnx", images)
    opening = OnnxRuntime.open

    def refuse(self: OnnxRuntime, path: Path, target: Target) -> OnnxRuntimeSession:
        if path == made.path:
            raise UserError("The device ran out of memory.")
        return opening(self, path, target)

    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntime, "open", refuse)
        with pytest.raises(UserError, match="out of memory"):
            sensitivity(made.path, "trt-oracle")
    assert sensitivity(made.path, "trt-oracle").harms[0].group == "Conv_4"


def test_a_search_that_failed_on_fp32_goes_on_the_next_time(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = outliers.classifier(tmp_path / "net.onnx", images).path

    def full(*_: object, **__: object) -> None:
        raise UserError("The device ran out of memory.")

    for broken in ("kd2edge.verbs.judge.Judge.outputs", "kd2edge.verbs.trials.time_in_turns"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            with pytest.raises(UserError, match="out of memory"):
                search(source, 2.0, target="trt-oracle", latency=outliers.LATENCY)
    found = search(source, 2.0, target="trt-oracle", latency=outliers.LATENCY)
    assert all(point.fault is None for point in found.points)


def test_a_fault_of_fp32_that_is_on_record_is_raised_and_says_where(tmp_path: Path, images: Path) -> None:
    source = outliers.classifier(tmp_path / "net.onnx", images).path
    search(source, 2.0, target="trt-oracle", latency=outliers.LATENCY)
    journal = tmp_path / "net.search-trt-oracle" / "journal.jsonl"
    first, *others = map(json.loads, journal.read_text().splitlines())
    del first["answer"]
    lines = [{**first, "fault": "The device ran out of memory."}, *others]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="out of memory") as raised:
        search(source, 2.0, target="trt-oracle", latency=outliers.LATENCY)
    assert str(journal) in str(raised.value.hint)


def test_the_command_prints_the_groups_and_the_culprit(model: Artifact) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(cls=Verb)(quantization.sensitivity)
    done = CliRunner().invoke(app, [str(model.path), "--target", "trt-oracle", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["harms"][0]["group"] == "Conv_4"
    assert "The culprit is Conv_4" in done.output
    assert "it stays in float" in " ".join(done.output.split())


def test_a_net_of_the_shelf_of_graphs_has_a_line_for_each_group(tmp_path: Path, images: Path) -> None:
    path = tmp_path / "face.onnx"
    save_model(graphs.face_net(), path)
    found = sensitivity(path, "onnx-cpu", images, images=72, task="verification", preprocess="minus-one-one")
    assert {harm.group for harm in found.harms} >= {"Conv_0", "Conv_3", "Conv_8", "Conv_17"}
    assert found.conditions.metric == "tar@1e-3"
    assert all(harm.alone.agreement is None for harm in found.harms)
