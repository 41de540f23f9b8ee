"""Models that take a fixed number of images at once: calibrated, judged and timed in whole groups of that size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kd2edge.artifact import describe, manifest_path, open_artifact
from kd2edge.data import Images, Ints, Split
from kd2edge.errors import UserError
from kd2edge.graph.load import load_model, save_model
from kd2edge.schema import Preprocessing
from kd2edge.verbs import trials
from kd2edge.verbs.images import Batches
from kd2edge.verbs.quantize import quantize
from kd2edge.verbs.search import search
from kd2edge.verbs.sensitivity import sensitivity
from tests import outliers, tiny


@pytest.fixture(autouse=True)
def _scripted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "time_in_turns", trials.__dict__["time_in_turns"])  # what it was is put back
        outliers.script_the_clock()
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outliers.folder(tmp_path_factory.mktemp("images"))


def fixed(path: Path, images: Path, batch: int) -> Path:
    """The classifier, but taking so many images at once."""
    made = outliers.classifier(path, images)
    model = load_model(path)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    save_model(model, path)
    told = made.manifest.model_dump(include={"task", "output", "classes", "preprocessing", "data"})
    describe(path, kind="onnx", role="fp32", verb="distill", **told)
    return path


def test_a_model_of_a_fixed_batch_is_calibrated_judged_and_timed_in_its_batch(tmp_path: Path, images: Path) -> None:
    source = fixed(tmp_path / "net.onnx", images, 5)
    searched = search(source, 2.0, target=outliers.device(tmp_path / "device"), latency=outliers.LATENCY)
    assert searched.best is not None
    assert "Conv_4" not in searched.points[searched.best].choice.int8
    told = open_artifact(Path(str(searched.file))).manifest
    assert told.details["search"]["latency"]["batch"] == 5
    assert told.details["images"] == 70  # of 72
    assert told.parity is not None
    assert told.parity["images"] == 70
    assert sensitivity(source, "trt-oracle").harms[0].group == "Conv_4"
    assert quantize(source, "onnx-cpu").manifest.details["images"] == 70


def test_a_file_of_a_fixed_batch_without_a_manifest_is_read(tmp_path: Path, images: Path) -> None:
    source = fixed(tmp_path / "net.onnx", images, 5)
    manifest_path(source).unlink()
    made = quantize(source, "onnx-cpu", data=images, preprocess="minus-one-one")
    assert made.manifest.classes == tuple(sorted(tiny.COLOURS))


def test_a_batch_that_the_images_do_not_fill_is_told(tmp_path: Path, images: Path) -> None:
    source = fixed(tmp_path / "net.onnx", images, 100)
    with pytest.raises(UserError, match=r"net\.onnx takes 100 images at once, and there are only 72\."):
        quantize(source, "onnx-cpu")


class Black(Split):
    def read(self, index: Ints) -> Images:
        return np.zeros((len(index), 4, 4, 3), np.uint8)


@pytest.mark.parametrize(("group", "images_read"), [(1, [32, 32, 6]), (5, [30, 30, 10]), (40, [40]), (32, [32, 32])])
def test_batches_are_whole_groups_and_as_many_images_as_they_say(group: int, images_read: list[int]) -> None:
    preprocessing = Preprocessing(size=(4, 4), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.5,) * 3, decoder="-")
    batches = Batches(Black(), np.arange(70), preprocessing, group)
    assert [len(batch) for batch in batches] == images_read
    assert len(batches) == sum(images_read)
