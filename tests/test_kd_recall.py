"""Where nothing is augmented the teacher is asked once an image: the same bits as if it were asked, and never stale."""

import errno
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd2edge.data import InMemory, open_source
from kd2edge.errors import UserError
from kd2edge.kd import checkpoint, method, net, recall
from kd2edge.kd.method import Lesson
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Trainer
from kd2edge.kd.way import Way
from kd2edge.schema import NetSpec, Plugin, Train
from tests import tiny
from tests.test_kd_store import Telling, equal

pytestmark = pytest.mark.kd
CPU = torch.device("cpu")
PLAN = {"epochs": 2, "batch": 8, "lr": 0.02, "precision": "fp32"}
SHAPE = net.Shape(3, (16, 16), 3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.image_folder(tmp_path_factory.mktemp("photos"))


def learn(
    photos: Path, out: Path, name: str, remember: bool, after: int = 0, **plan: Any
) -> tuple[dict[str, torch.Tensor], str]:
    """One stage of a method's training; the weights that ship, and all that was said."""
    parts, spec = given(photos), NetSpec.model_validate(tiny.net())
    plans = Train.model_validate({**PLAN, **plan})
    lesson = Lesson(Task("classification"), SHAPE, spec, parts["teacher"], None, plans, seed=3)
    learning, telling, folder = method.make(Plugin(name=name), lesson), Telling(after), out / name
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        parts["data"], parts["how"], plans, 0, folder, folder / "log.jsonl", telling, out / "shared", remember
    )
    for stage in learning.stages():
        trainer.run(replace(stage, minimises=None))
    return learning.deployable().state_dict(), "\n".join(telling.told)


def kept(out: Path) -> list[Path]:
    return sorted((out / "shared" / "embeddings").glob("*.safetensors"))


@pytest.mark.parametrize(("precision", "accumulate"), [("fp32", 1), ("bf16", 1), ("fp32", 2)])
def test_a_run_that_recalls_is_the_run_that_asks(photos: Path, tmp_path: Path, precision: str, accumulate: int) -> None:
    how: dict[str, Any] = {"precision": precision, "accumulate": accumulate}
    asked, said = learn(photos, tmp_path / "asking", "kd", False, **how)
    assert "asked once" not in said
    found, said = learn(photos, tmp_path / "recalling", "kd", True, **how)
    assert "the teacher is asked once for all 44 images" in said
    _, said = learn(photos, tmp_path / "recalling", "th_kd", True, **how)
    assert "asked once" not in said
    assert len(kept(tmp_path / "recalling")) == 1
    assert equal(asked, found)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_stopped_run_goes_on_to_the_same_bits(photos: Path, tmp_path: Path, after: int) -> None:
    straight, _ = learn(photos, tmp_path / "straight", "kd", True)
    with pytest.raises(KeyboardInterrupt):
        learn(photos, tmp_path / "stopped", "kd", True, after)
    resumed, said = learn(photos, tmp_path / "stopped", "kd", True)
    assert "asked once" not in said
    assert equal(straight, resumed)


def test_a_method_that_needs_the_map_asks_the_teacher(photos: Path, tmp_path: Path) -> None:
    asked, _ = learn(photos, tmp_path / "asking", "sim_kd", False)
    found, said = learn(photos, tmp_path / "recalling", "sim_kd", True)
    assert "asked once" not in said
    assert not kept(tmp_path / "recalling")
    assert equal(asked, found)


def test_where_images_are_moved_they_are_asked_by_step(photos: Path, tmp_path: Path) -> None:
    _, said = learn(photos, tmp_path, "kd", True, augment={"flip": True})
    assert "asked once" not in said
    assert not kept(tmp_path)
    assert list((tmp_path / "shared" / "embeddings").glob("*/epoch-1.safetensors"))


def given(photos: Path, seed: int = 0) -> dict[str, Any]:
    source = open_source({"name": "imagefolder", "path": str(photos), "size": 16})
    torch.manual_seed(seed)
    teacher = net.freeze(net.build(NetSpec.model_validate(tiny.net()), SHAPE))
    way = Way(8, CPU, "fp32", "off")
    return {"teacher": teacher, "data": source.split("train"), "how": source.preprocessing(), "way": way, "part": 8}


def test_whatever_changes_the_answers_changes_the_key(photos: Path, tmp_path: Path) -> None:
    start = given(photos)
    data = start["data"]
    other = InMemory(data.read(np.arange(len(data))), data.labels, {}, data.classes)
    other.images[5, 3, 3, 0] ^= 1
    shifted = start["how"].model_copy(update={"mean": (0.1, 0.1, 0.1)})
    changes: list[dict[str, Any]] = [
        {},
        {"teacher": given(photos, 1)["teacher"]},
        {"data": other},
        {"how": shifted},
        {"way": replace(start["way"], precision="bf16")},
        {"way": replace(start["way"], mode="on")},
        {"part": 4},
    ]
    keys = [recall.Whole(tmp_path, **{**start, **change}).key for change in changes]
    assert len(set(keys)) == len(changes)
    assert recall.Whole(tmp_path, **given(photos)).key == keys[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_holds_every_images_embedding_as_a_step_would_ask_for_it(
    photos: Path, tmp_path: Path, precision: str
) -> None:
    parts = {**given(photos), "way": Way(7, CPU, precision, "off"), "part": 7}  # 44 images make no whole parts
    whole = recall.Whole(tmp_path, **parts)
    whole.fill(lambda text: None)
    index = np.random.default_rng(0).permutation(44)[:7]
    images = torch.from_numpy(parts["data"].read(index)).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(parts["how"].mean).view(3, 1, 1)) / torch.tensor(parts["how"].std).view(3, 1, 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        wanted = parts["teacher"](images).embedding
    found = whole.embedding(3, 1, index)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    assert torch.equal(checkpoint_rows(whole.file)[index], found)


def checkpoint_rows(path: Path) -> torch.Tensor:
    """By the library that defines the format."""
    from safetensors.torch import load_file

    return load_file(path)["embeddings"]


def test_a_full_disk_is_told_and_nothing_is_left(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = recall.Whole(tmp_path, **given(photos))
    monkeypatch.setattr(recall, "_write", full)
    with pytest.raises(UserError, match="disk is full"):
        whole.fill(lambda text: None)
    assert [path.name for path in tmp_path.iterdir()] == [f".{whole.key}.lock"]


def dying(photos: Path, folder: Path) -> None:
    """Asks the teacher, and is killed after the third part."""
    whole = recall.Whole(folder, **given(photos))
    ask, count = whole.data.read, 0

    def read(index: Any) -> Any:
        nonlocal count
        count += 1
        if count > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(index)

    whole.data.read = read  # type: ignore[method-assign]
    whole.fill(lambda text: None)


def test_what_a_kill_left_half_written_is_neither_read_nor_kept(photos: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=dying, args=(photos, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob(".*.part"))
    whole, told = recall.Whole(tmp_path, **given(photos)), list[str]()
    whole.fill(told.append)
    assert len(told) == 1
    assert not list(tmp_path.glob(".*.part"))
    assert checkpoint_rows(whole.file).shape == (44, 16)


@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_a_damaged_file_is_told(photos: Path, tmp_path: Path, left: int) -> None:
    whole = recall.Whole(tmp_path, **given(photos))
    whole.fill(lambda text: None)
    whole.file.write_bytes(whole.file.read_bytes()[:left])
    with pytest.raises(UserError, match="damaged"):
        recall.Whole(tmp_path, **given(photos)).fill(lambda text: None)


def test_an_epoch_that_was_not_finished_is_asked_again(tmp_path: Path) -> None:
    stream, index = recall.Recall(tmp_path, 2), np.arange(3)
    assert stream.embedding(0, 0, index) is None
    stream.keep(0, torch.ones(3, 4))
    assert recall.Recall(tmp_path, 2).embedding(0, 0, index) is None
    stream.keep(1, torch.zeros(3, 4))
    again = recall.Recall(tmp_path, 2).embedding(0, 0, index)
    assert again is not None
    assert torch.equal(again, torch.ones(3, 4))
    assert checkpoint.read(tmp_path / "epoch-0.safetensors")["embeddings"].shape == (2, 3, 4)


def test_what_a_kill_left_of_an_epoch_is_removed_when_it_is_written_again(tmp_path: Path) -> None:
    torn = [tmp_path / f".epoch-{epoch}.safetensors.x.part" for epoch in (1, 10)]
    for path in torn:
        path.touch()
    stream = recall.Recall(tmp_path, 1)
    stream.embedding(1, 0, np.arange(3))
    stream.keep(0, torch.ones(3, 4))
    assert [path.exists() for path in torn] == [False, True]
