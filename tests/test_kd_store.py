"""What one run has trained another takes over, if and only if it would train the very same; recalled is as if asked."""

import importlib
import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kd2edge.kd import net, recall, store
from kd2edge.run import Run
from kd2edge.verbs.distill import distill
from tests import tiny
from tests.test_kd_train import Interrupting

pytestmark = pytest.mark.kd

SH_KD = {"name": "sh_kd", "teacher": "tuned", "tune_epochs": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.image_folder(tmp_path_factory.mktemp("photos"))


class Telling(Interrupting):
    """Keeps what it is told, and presses Ctrl-C after so many steps if asked to."""

    def __init__(self, after: int = 0) -> None:
        super().__init__(after)
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


def run(root: Path, name: str, photos: Path, method: dict[str, Any], after: int = 0, **changes: Any) -> tuple[Run, str]:
    """A run of the tiny recipe, or its continuation, and all that it said."""
    recipe = root / f"{name}.yaml"
    recipe.parent.mkdir(exist_ok=True)
    tree = {**tiny.recipe(photos, method), **changes}
    recipe.write_text(yaml.safe_dump(tree))
    telling = Telling(after)
    made = distill(str(recipe), (), root / name, (root / name).exists(), telling)
    return made, "\n".join(telling.told)


def weights(made: Run, role: str = "fp32") -> dict[str, torch.Tensor]:
    return load_file(made.path / f"{role}.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


def log(made: Run, role: str = "fp32") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (made.path / "log" / f"{role}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_claim_removes_what_a_kill_left_of_its_writes(tmp_path: Path) -> None:
    kept = store.Store(tmp_path)
    torn = [tmp_path / f".{key}.safetensors.x.part" for key in ("mine", "theirs")]
    for path in torn:
        path.touch()
    with kept.claim("mine", lambda: None):
        assert [path.exists() for path in torn] == [False, True]


def test_the_first_student_of_sh_kd_is_the_plain_one_and_is_found(photos: Path, tmp_path: Path) -> None:
    plain, _ = run(tmp_path, "plain", photos, {"name": "plain"})
    made, told = run(tmp_path, "sh", photos, SH_KD)
    assert "stage teacher: trained by an earlier run" in told  # the recipe's teacher
    assert "stage head_student: trained by an earlier run" in told
    assert [line["stage"] for line in log(made)] == ["head_student"] * 2 + ["tailored_teacher"] + ["student"] * 2
    assert "tailored_teacher" in made.files("onnx")
    shared = weights(made, "tailored_teacher")["head.weight"]
    assert torch.equal(shared, weights(plain)["head.weight"])
    alone, said = run(tmp_path / "elsewhere", "sh", photos, SH_KD)
    assert "earlier run" not in said
    assert equal(weights(alone), weights(made))
    assert log(alone) == log(made)


def test_another_seed_schedule_or_loss_is_not_found(photos: Path, tmp_path: Path) -> None:
    run(tmp_path, "a", photos, {"name": "plain"}, teacher=None)
    assert "earlier run" in run(tmp_path, "same", photos, {"name": "plain"}, teacher=None)[1]
    assert "earlier run" not in run(tmp_path, "b", photos, {"name": "plain"}, teacher=None, seed=1)[1]
    train = {**tiny.recipe(photos, {})["train"], "lr": 0.03}
    assert "earlier run" not in run(tmp_path, "c", photos, {"name": "plain"}, teacher=None, train=train)[1]
    assert "stage student: trained" not in run(tmp_path, "d", photos, {"name": "kd"})[1]


@pytest.mark.parametrize("after", [3, 13, 22, 30])
def test_a_killed_sh_kd_continues_in_its_stage(photos: Path, tmp_path: Path, after: int) -> None:
    straight, _ = run(tmp_path / "straight", "sh", photos, SH_KD)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", "sh", photos, SH_KD, after)
    resumed, _ = run(tmp_path / "killed", "sh", photos, SH_KD)
    assert equal(weights(straight), weights(resumed))
    assert log(straight) == log(resumed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_recalls_the_teachers_embeddings_is_the_run_that_asks(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    teacher = {**tiny.recipe(photos, {})["teacher"], "remember": True}
    train = {**tiny.recipe(photos, {})["train"], "precision": precision}
    asked, _ = run(tmp_path / "asked", "kd", photos, {"name": "kd"}, train=train)
    run(tmp_path, "first", photos, {"name": "th_kd"}, teacher=teacher, train=train)
    assert list((tmp_path / ".shared" / "embeddings").rglob("epoch-1.safetensors"))

    def never(self: recall.Recall, step: int, embedding: torch.Tensor) -> None:
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(recall.Recall, "keep", never)
    recalled, _ = run(tmp_path, "second", photos, {"name": "kd"}, teacher=teacher, train=train)
    assert equal(weights(asked), weights(recalled))
    assert log(asked) == log(recalled)


def test_without_remember_no_embeddings_are_kept(photos: Path, tmp_path: Path) -> None:
    run(tmp_path, "first", photos, {"name": "kd"})
    assert not (tmp_path / ".shared" / "embeddings").exists()


def test_a_digest_sees_every_part() -> None:
    torch.manual_seed(0)
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    found = {store.digest(*parts) for parts in ([], ["a"], ["b"], [one], [other], [one, "a"], [one, other], [{"k": 1}])}
    assert len(found) == 8
    assert store.digest(net.freeze(one)) == store.digest(one)


def test_who_wants_a_stage_that_is_being_trained_waits_for_it(tmp_path: Path) -> None:
    found, told = store.Store(tmp_path / "store"), list[str]()
    waiting, done = threading.Event(), threading.Event()

    def wanted() -> None:
        with found.claim("k", waiting.set):
            told.append("second")
            done.set()

    with found.claim("k", lambda: told.append("never")):
        other = threading.Thread(target=wanted)
        other.start()
        assert waiting.wait(10)
        told.append("first")
        assert not done.is_set()
    other.join(10)
    assert told == ["first", "second"]


def test_a_stage_found_after_a_part_of_it_was_trained_has_one_line_an_epoch(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "a", photos, {"name": "plain"}, 7, teacher=None)
    with (tmp_path / "a" / "log" / "fp32.jsonl").open("a") as file:
        file.write('{"stage": "stud')
    whole, _ = run(tmp_path, "b", photos, {"name": "plain"}, teacher=None)
    made, told = run(tmp_path, "a", photos, {"name": "plain"}, teacher=None)
    assert "trained by an earlier run" in told
    assert log(made) == log(whole)
    assert equal(weights(made), weights(whole))


def test_another_margin_or_image_is_not_found(tmp_path: Path) -> None:
    photos = tiny.image_folder(tmp_path / "photos")
    for number, margin in enumerate((0.2, 0.3)):
        student = {**tiny.net(), "head": {"name": "cosface", "margin": margin}}
        said = run(tmp_path, str(number), photos, {"name": "plain"}, teacher=None, student=student)[1]
        assert "earlier run" not in said
    tiny.repaint(photos / "train" / "red")
    assert "earlier run" not in run(tmp_path, "2", photos, {"name": "plain"}, teacher=None, student=student)[1]


def test_the_kd_stage_is_found_by_its_options(photos: Path, tmp_path: Path) -> None:
    run(tmp_path, "a", photos, {"name": "kd"})
    assert (
        "stage head_student: trained by an earlier run"
        in run(tmp_path, "b", photos, {**SH_KD, "first": {"name": "kd"}})[1]
    )
    assert "stage student: trained" not in run(tmp_path, "c", photos, {"name": "kd", "alpha": 0.8})[1]


def test_a_place_that_cannot_be_written_shares_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    run(tmp_path, "a", photos, {"name": "plain"}, teacher=None)
    assert not (tmp_path / ".shared").exists()


def test_a_stage_trained_by_other_code_is_not_found(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = {**tiny.recipe(photos, {})["teacher"], "remember": True}
    run(tmp_path, "a", photos, {"name": "kd"}, teacher=teacher)
    assert "stage student: trained" in run(tmp_path, "b", photos, {"name": "kd"}, teacher=teacher)[1]
    monkeypatch.setattr(store, "code", lambda: "changed")
    assert "earlier run" not in run(tmp_path, "c", photos, {"name": "kd"}, teacher=teacher)[1]
    assert len(list((tmp_path / ".shared" / "embeddings").iterdir())) == 2


@pytest.mark.parametrize("changed", ["kd/rows.py", "kd/models/resnet.py", "data/imagefolder.py"])
def test_code_is_what_reads_data_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    package, copied = Path(store.__file__).parents[1], tmp_path / "kd2edge"
    for folder in ("data", "kd"):
        shutil.copytree(package / folder, copied / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(store, "__file__", str(copied / "kd" / "store.py"))
    assert store.code.__wrapped__() == store.code()
    (copied / changed).write_text((copied / changed).read_text() + "\n# another\n")
    assert store.code.__wrapped__() != store.code()


def test_a_plugged_in_net_is_another_when_its_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for activation in ("relu", "tanh", "relu"):
        text = f"import torch\nclass Squash(torch.nn.Module):\n    def forward(self, x): return torch.{activation}(x)\n"
        (tmp_path / "squashing.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "squashing", raising=False)
        found.append(store.digest(torch.nn.Sequential(importlib.import_module("squashing").Squash())))
    assert found[0] == found[2] != found[1]
