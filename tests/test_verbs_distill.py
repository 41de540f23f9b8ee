"""Before anything is trained: what can never end well is refused, and a recipe's paths are made to hold anywhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kd2edge import drawers
from kd2edge.errors import MissingExtra, UserError, install_command
from kd2edge.progress import Progress
from kd2edge.run import Run
from kd2edge.verbs import distill as module
from kd2edge.verbs import shelf
from kd2edge.verbs.distill import begin, directory, distill, distill_seeds
from kd2edge.verbs.ship import ship
from tests import tiny

pytestmark = pytest.mark.kd

ABSENT = """
from kd2edge.edge.fake import FakeBackend

class Absent(FakeBackend):
    def available(self):
        return "There is no driver here."
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with images, weights, a method, a suite, a target and a recipe that names them all."""
    monkeypatch.chdir(tmp_path)
    tiny.image_folder(tmp_path / "photos", per_class=4)
    shelf.copy("methods", "kd", Path("mine.py"))
    shelf.copy("suites", "quick", Path("brief.yaml"))
    target = drawers.read_target("onnx-cpu").model_dump(mode="json")
    Path("board.yaml").write_text(yaml.safe_dump({**target, "backend": "absent.py"}))
    Path("absent.py").write_text(ABSENT)
    Path("teacher.pt").touch()
    tree: dict[str, Any] = tiny.recipe(Path("photos"), {"name": "mine.py"}, suite="brief.yaml")
    tree["teacher"] = {**tiny.net(), "weights": "teacher.pt"}
    Path("own.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def test_a_run_holds_wherever_it_is_worked_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "run"
    recipe = begin("own.yaml", (), path, False).recipe
    assert recipe.teacher is not None
    assert recipe.teacher.weights == str(place / "teacher.pt")
    assert recipe.data.options["path"] == str(place / "photos")
    assert recipe.method.name == str(place / "mine.py")
    assert recipe.suite == str(place / "brief.yaml")
    assert (recipe.data.name, recipe.student.model.name, recipe.target) == ("imagefolder", "resnet_cifar", "onnx-cpu")
    assert begin("own.yaml", (), path, True).recipe == recipe
    with pytest.raises(UserError, match="another recipe"):
        begin("own.yaml", ("seed=5",), path, True)
    monkeypatch.chdir(path)
    assert begin(None, (), path, True).recipe == recipe


def test_names_are_no_paths_whatever_lies_about(place: Path) -> None:
    for name in ("onnx-cpu", "quick", "resnet_cifar", "kd", "omniglot"):
        Path(name).touch()
    changes = ("method.name=kd", "suite=quick", "teacher.weights=omniglot")
    recipe = begin("own.yaml", changes, place / "run", False).recipe
    assert recipe.teacher is not None
    assert (recipe.method.name, recipe.suite, recipe.teacher.weights) == ("kd", "quick", "omniglot")
    assert (recipe.target, recipe.student.model.name) == ("onnx-cpu", "resnet_cifar")


@pytest.mark.parametrize(("change", "says"), [("suite=quik", "'quik' among the suites"), ("target=x", "'x' among the")])
def test_unknown_names_are_told_before_a_directory_is_made(place: Path, change: str, says: str) -> None:
    for verb in (distill, ship):
        with pytest.raises(UserError, match=says):
            verb("own.yaml", (change,), place / "run")
    with pytest.raises(UserError, match="'quik' among the suites"):
        ship("own.yaml", (), place / "run", suite="quik")
    assert not (place / "run").exists()


def test_ship_trains_nothing_that_cannot_be_benched_here(place: Path) -> None:
    with pytest.raises(UserError, match=r"board\.yaml cannot be benched here: There is no driver here\."):
        ship("own.yaml", (), place / "run", target="board.yaml")
    assert not (place / "run").exists()
    begin("own.yaml", ("target=board.yaml",), place / "run", False)
    with pytest.raises(UserError, match="cannot be benched here"):
        ship(run=place / "run", resume=True)
    assert [event["event"] for event in Run(place / "run").events()] == ["created"]


def test_seeds_are_whole_runs_that_go_on_as_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tiny.recipe(Path("photos"), {"name": "plain"}, teacher=None, train={"epochs": 1, "batch": 8, "lr": 0.02})
    Path("plain.yaml").write_text(yaml.safe_dump(tree))
    run = directory("plain.yaml", None, False)
    trained: list[str] = []

    def train(made: Run, progress: Progress) -> None:
        if not trained:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append(made.path.name)

    monkeypatch.setattr(module, "train", train)
    with pytest.raises(KeyboardInterrupt):
        distill_seeds("plain.yaml", ("seed=9",), run, False, 2)
    assert directory("plain", None, True, seeds=True) == run
    with pytest.raises(UserError, match="no run of plain"):
        directory("plain", None, True)
    made = distill_seeds(None, (), run, True, 2)
    assert trained == ["interrupted", "seed-9", "seed-10"]
    assert [one.recipe.seed for one in made] == [9, 10]
    assert {one.recipe.model_copy(update={"seed": 0}).model_dump_json() for one in made} == {
        made[0].recipe.model_copy(update={"seed": 0}).model_dump_json()
    }
    with pytest.raises(UserError, match="already holds a run"):
        distill_seeds("plain.yaml", ("seed=9",), run, False, 2)


def test_an_extra_is_installed_from_where_the_package_came(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = place / "a checkout" / "kd2edge"
    package.mkdir(parents=True)
    monkeypatch.setattr("kd2edge.errors.__file__", str(package / "errors.py"))
    assert install_command("train") == "pip install 'kd2edge[train]'"
    (package.parent / "pyproject.toml").touch()
    assert install_command("train") == f"pip install -e '{package.parent}[train]'"
    monkeypatch.chdir(package.parent)
    assert install_command("rtx") == "pip install -e '.[rtx]'"
    assert MissingExtra("torch", "train", "distill").hint == "pip install -e '.[train]'"
