"""The page on many processes: its tables are the formula's, its scripts are whole, and every option in them exists."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from benchmarks import plan
from kd2edge.cli import app
from kd2edge.kd.train import TELL_EVERY
from kd2edge.schema import Head, Train
from kd2edge.schema.recipe import Validation

pytestmark = pytest.mark.kd

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
IMAGENET, GLINT = (1_281_167, 100), (17_091_657, 20)
NVIDIA, INSIGHTFACE = 2470.0, 662.0  # images/s of one GPU, as the page's sources have them


def imagenet() -> str:
    each = ((1, 256), (8, 256), (64, 2048))
    return plan.table([plan.Plan(*IMAGENET, batch, gpus, NVIDIA, 0.84) for gpus, batch in each], 2.0)


def glint() -> str:
    each = ((1, 128), (8, 1024), (64, 4096))
    return plan.table([plan.Plan(*GLINT, batch, gpus, INSIGHTFACE) for gpus, batch in each], 2.0)


def memory() -> str:
    return plan.memory_table(360_232, 512, {1: 128, 8: 1024, 64: 4096}, (1.0, 0.1))


@pytest.mark.parametrize(
    ("name", "made"), [("plan imagenet", imagenet), ("plan glint", glint), ("memory glint", memory)]
)
def test_the_tables_are_the_formulas(name: str, made: Callable[[], str]) -> None:
    (shown,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert shown == made()


def test_a_plan_is_what_one_reckons_by_hand() -> None:
    alone, eight = (plan.Plan(1_000_000, 10, 250, gpus, 500.0, 0.8) for gpus in (1, 8))
    assert alone.steps == eight.steps == 40_000
    assert alone.hours == pytest.approx(10_000_000 / 500 / 3600)
    assert eight.hours == pytest.approx(alone.hours / 6.4)
    assert eight.cost(3.0) == pytest.approx(eight.hours * 24)
    assert plan.Plan(1_000_100, 10, 250, 1, 500.0).steps == 40_000
    assert plan.classifier(1000, 10, 4) == 4 * (3 * 10_000 + 2 * 10_000 + 6 * 4 * 1000)
    assert plan.classifier(1000, 10, 8, 0.5, 2, teacher=False) == 4 * (2 * 5000 + 2 * 250 * 10 + 6 * 8 * 250)


def test_the_efficiency_and_rates_are_the_published_ones() -> None:
    assert round(16_621 / (8 * NVIDIA), 2) == 0.84
    assert int(5300 / 8) == INSIGHTFACE
    tells = re.findall(
        r"gives ([\d.]+) GB of their 28\.9 GB for q = 1, and\s+([\d.]+) GB of 10\.3 GB for q = 0\.1", PAGE
    )
    told = [f"{plan.classifier(3_000_000, 512, 1024, share, 8, teacher=False) / 1e9:.1f}" for share in (1.0, 0.1)]
    assert tells == [tuple(told)]


def test_the_command_of_the_page_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [text for language, text in FENCES if language == "sh" and "benchmarks.plan" in text]
    plan.main(line.replace("\\\n", " ").split()[3:])
    assert capsys.readouterr().out.strip() == imagenet()


def launches() -> list[list[str]]:
    """What follows each `torchrun` of the page, as words."""
    scripts = [text for language, text in FENCES if language in ("sh", "bash") and "torchrun" in text]
    shells = [re.split(r"\btorchrun\b", text.replace("\\\n", " "))[1].split() for text in scripts]
    (job,) = [part for part in kubernetes() if part["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["torchrun"]
    return [*shells, [str(word) for word in container["args"]]]


def kubernetes() -> list[dict[str, Any]]:
    (text,) = [text for language, text in FENCES if language == "yaml" and "apiVersion" in text]
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("words", launches(), ids=["one machine", "slurm", "kubernetes"])
def test_torchrun_and_kd2edge_know_every_option(words: list[str]) -> None:
    given = get_args_parser().parse_args([word.replace("$SLURM_NNODES", "2").strip('"') for word in words])
    assert given.module
    command = given.training_script_args if given.training_script == "--" else [given.training_script]
    command = [word for word in (*command, *given.training_script_args) if word != "--"]
    assert command[:2] == ["kd2edge", "distill"]
    shown = CliRunner().invoke(app, ["distill", "--help"], env={"COLUMNS": "200"}).output
    for option in [word for word in command if word.startswith("--")]:
        assert option in shown
    assert int(given.max_restarts) == 3


def test_the_batch_script_is_whole(tmp_path: Path) -> None:
    (script,) = [text for language, text in FENCES if language == "bash"]
    assert script.startswith("#!/bin/bash\n#SBATCH")
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_pods_have_the_names_that_they_meet_by() -> None:
    service, job = kubernetes()
    name, pods = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert (service["kind"], service["spec"]["clusterIP"]) == ("Service", "None")
    assert service["spec"]["selector"] == {"job-name": name}
    assert pods["subdomain"] == service["metadata"]["name"]
    assert f"--rdzv-endpoint={name}-0.{pods['subdomain']}:29400" in pods["containers"][0]["args"]
    assert f"--nnodes={job['spec']['completions']}" in pods["containers"][0]["args"]
    assert job["spec"]["parallelism"] == job["spec"]["completions"]
    mounted = {mount["name"] for mount in pods["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pods["volumes"]}


def test_the_recipe_lines_are_valid() -> None:
    (text,) = [text for language, text in FENCES if language == "yaml" and "validation" in text]
    assert Validation.model_validate(yaml.safe_load(text)["validation"]).every == 1
    for words in re.findall(r"train\.(\w+)", PAGE):
        assert words in Train.model_fields
    assert f"only every {TELL_EVERY} steps" in PAGE
    (head,) = re.findall(r"`student\.head: (\{.*?\})`", PAGE)
    assert Head.model_validate(yaml.safe_load(head)).sharded
