"""The command `distill`: where a training's time went, told however it ends."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from kd2edge.cli import app
from kd2edge.cli.terminal import Terminal
from kd2edge.kd import torchrun
from kd2edge.run import Run
from kd2edge.verbs import distill as verb
from tests import tiny

pytestmark = pytest.mark.kd


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("profile")
    tree = tiny.recipe(tiny.image_folder(place / "images"), {"name": "kd"})
    (place / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return place / "tiny.yaml"


def test_its_help_fits_a_screen() -> None:
    lines = CliRunner().invoke(app, ["distill", "--help"], terminal_width=80).stdout.splitlines()
    assert len(lines) <= 23
    assert any("--profile" in line for line in lines)


def test_profile_is_for_one_training(tmp_path: Path) -> None:
    result = run("distill", "omniglot", "--run", tmp_path / "run", "--seeds", 2, "--profile")
    assert result.exit_code == 2
    assert "--profile looks at one training.\n  hint: leave --seeds out" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_profile_has_a_table_for_people_and_figures_for_programs(recipe: Path, tmp_path: Path) -> None:
    result = run("distill", recipe, "--run", tmp_path / "run", "--profile", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout.splitlines()[-1])
    stages: list[dict[str, Any]] = document["profile"]["stages"]
    assert [(stage["stage"], stage["steps"]) for stage in stages] == [("teacher", 9), ("fp32: student", 9)]
    for stage in stages:
        assert sum(stage["share"].values()) == pytest.approx(1)
        assert stage["images_per_second"] == pytest.approx(8 * 1000 / sum(stage["ms"].values()))
        assert stage["first_step_seconds"] > 0
    assert (stages[0]["ms"]["teacher"], stages[0]["ms"]["student"] > 0) == (0, True)
    assert stages[1]["ms"]["teacher"] > 0
    assert all(f"Try: {sentence}" in result.stderr for sentence in document["profile"]["advice"])
    for told in ("fp32: student", "waiting for images", "everything else", "images/s over 9 steps"):
        assert told in result.stderr
    assert {"run", "models", "profile"} == document.keys()

    again = run("distill", "--run", tmp_path / "run", "--resume", "--profile")
    assert again.exit_code == 0
    assert "No stage made a second step, so nothing was measured." in again.stdout
    assert "ms a step" not in again.stdout


@pytest.mark.parametrize("flags", [(), ("--profile",), ("--json",), ("--profile", "--json")])
def test_of_several_processes_the_first_one_answers(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in torchrun.TOLD:
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "1")
    asked: list[Path] = []

    def trained(recipe: str, overrides: object, run: Path, *rest: object) -> Run:
        asked.append(run)
        return Run(run)

    monkeypatch.setattr(verb, "distill", trained)
    result = run("distill", "omniglot", "--run", tmp_path, *flags)
    assert (result.exit_code, result.output, asked) == (0, "", [tmp_path])

    def interrupted(*given: object) -> Run:
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "distill", interrupted)
    told = run("distill", "omniglot", "--run", tmp_path, *flags).stderr
    assert f"continue with: torchrun … -m -- kd2edge distill --run {tmp_path} --resume" in told


def test_an_interrupted_training_tells_it_too_and_goes_on_so(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    advance = Terminal.advance

    def pressing(self: Terminal, steps: int = 1, **figures: float | str) -> None:
        nonlocal seen
        seen += 1
        if seen == 9:
            signal.raise_signal(signal.SIGINT)
        advance(self, steps, **figures)

    monkeypatch.setattr(Terminal, "advance", pressing)
    result = run("distill", recipe, "--run", tmp_path / "run", "--profile")
    assert result.exit_code == 130
    assert "ms a step" in result.stdout
    assert f"continue with: kd2edge distill --run {tmp_path / 'run'} --resume --profile" in result.stderr
    rest = run("distill", "--run", tmp_path / "run", "--resume", "--profile", "--json")
    assert rest.exit_code == 0, rest.output
    stages = json.loads(rest.stdout.splitlines()[-1])["profile"]["stages"]
    assert [stage["stage"] for stage in stages][-1] == "fp32: student"
