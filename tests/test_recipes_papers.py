"""The recipes of the literature's pairs are what they say: nets, sizes, schedules; and their published figures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kd2edge import drawers
from kd2edge.errors import MissingExtra
from kd2edge.kd import foreign, method, net
from kd2edge.kd.check import plugin_faults
from kd2edge.kd.method import Lesson
from kd2edge.kd.tasks import Task
from kd2edge.schema import NetSpec, Plugin, Recipe
from tests import published

pytestmark = pytest.mark.kd

PAPERS = [name for name in drawers.names("recipes") if name.startswith("papers/")]
CIFAR = [name for name in PAPERS if "/cifar100_" in name]
COUNTS = {  # at 100 classes, as the distillation suites' own code counts them
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet50": 23_705_252,
    "wrn16-2": 703_284,
    "wrn40-1": 569_780,
    "wrn40-2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
    "shufflenet_v2_x1_5": 2_580_548,
}
SHAPE = net.Shape(3, (32, 32), 100)


def made(spec: NetSpec, shape: net.Shape) -> net.Net:
    with torch.device("meta"):
        return net.build(spec, shape)


def count(found: net.Net) -> int:
    return sum(p.numel() for p in found.parameters())


def nets(recipe: Recipe) -> tuple[NetSpec, NetSpec]:
    assert recipe.teacher is not None
    return recipe.teacher, recipe.student


def lines(name: str) -> list[str]:
    """What a recipe's comments offer to `--set`."""
    text = drawers.find("recipes", name).read_text(encoding="utf-8")
    return re.findall(r"^#.*--set '?([^'\n]+?)'?$", text, re.MULTILINE)


@pytest.mark.parametrize("name", PAPERS)
def test_every_plugin_takes_its_options_and_the_file_its_own_name(name: str) -> None:
    drawers.read_recipe(name, (), plugin_faults)
    text = drawers.find("recipes", name).read_text(encoding="utf-8")
    assert re.search(rf"^#   kd2edge (ship|distill) {re.escape(name)}( |$)", text, re.MULTILINE)


def test_the_lines_for_other_methods_are_valid() -> None:
    found = lines("papers/cifar100_resnet32x4_resnet8x4")
    names = [drawers.read_recipe(CIFAR[0], (line,), plugin_faults).method.name for line in found if "method=" in line]
    assert names == ["plain", "kd", "kd", "th_kd", "th_kd", "sh_kd", "sim_kd"]


@pytest.mark.parametrize("name", CIFAR)
def test_a_cifar_recipe_has_the_papers_nets_and_schedule(name: str) -> None:
    recipe = drawers.read_recipe(name)
    ((first, last),) = [(one, two) for one in COUNTS for two in COUNTS if name == f"papers/cifar100_{one}_{two}"]
    assert [count(made(spec, SHAPE)) for spec in nets(recipe)] == [COUNTS[first], COUNTS[last]]
    train = recipe.train
    assert (train.epochs, train.batch, train.momentum, train.weight_decay) == (240, 64, 0.9, 5e-4)
    assert (train.schedule, train.milestones, train.gamma) == ("step", (150, 180, 210), 0.1)
    assert train.lr == (0.01 if last.startswith(("mobile", "shuffle")) else 0.05)
    assert (train.augment.crop_padding, train.augment.flip, train.nesterov) == (4, True, False)
    assert recipe.teacher is not None
    assert recipe.teacher.train == train.model_copy(update={"lr": 0.05})
    assert recipe.method.options == {"gamma": 0.1, "alpha": 0.9, "tau": 4}


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("papers/imagenet_resnet34_resnet18", 1000, [21_797_672, 11_689_512]),
        ("papers/imagenet_resnet50_mobilenet_v1", 1000, [25_557_032, 4_231_976]),
        ("papers/tiny_imagenet_resnet18_mobilenet_v2", 200, None),
        ("papers/tiny_imagenet_resnet18_shufflenet_v2", 200, None),
    ],
)
def test_the_larger_pairs_build_as_published(name: str, classes: int, parameters: list[int] | None) -> None:
    """Without the weights that a training would fetch."""
    recipe = drawers.read_recipe(name)
    if parameters is not None:
        try:
            foreign.torchvision_models("A test")
            pytest.importorskip("timm")
        except MissingExtra:
            pytest.skip("torchvision is not installed")
    offline = [spec.model_copy(update={"model": _offline(spec.model)}) for spec in nets(recipe)]
    size = 224 if parameters else 64
    found = [net.build(spec, net.Shape(3, (size, size), classes)) for spec in offline]
    assert parameters is None or [count(each) for each in found] == parameters
    assert {each.head.weight.shape[0] for each in found} == {classes}


def _offline(model: Plugin) -> Plugin:
    options = {key: value for key, value in model.options.items() if key != "pretrained"}
    return Plugin.model_validate({"name": model.name, **options})


@pytest.mark.parametrize("pair", ["vgg13_mobilenet_v2", "resnet50_vgg8", "wrn40-2_shufflenet_v1", "wrn40-2_wrn40-1"])
@pytest.mark.parametrize("other", ["th_kd", "sim_kd"])
def test_nets_of_any_two_widths_go_together(pair: str, other: str) -> None:
    """The released TH-KD fails on each of these."""
    recipe = drawers.read_recipe(f"papers/cifar100_{pair}", (f"method={{name: {other}}}",))
    assert recipe.teacher is not None
    teacher = net.freeze(net.build(recipe.teacher, SHAPE))
    lesson = Lesson(Task("classification"), SHAPE, recipe.student, teacher, recipe.teacher, recipe.train, seed=0)
    taught = method.make(recipe.method, lesson)
    (stage,) = taught.stages()
    batch = method.Batch(torch.randn(2, 3, 32, 32), torch.tensor([3, 99]))
    total = torch.stack(list(stage.losses(batch).values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    grown = [p for p in stage.learner.parameters() if p.requires_grad and p.grad is not None]
    assert torch.isfinite(total)
    assert len(grown) > 20


def test_the_page_of_published_figures_is_made_of_its_facts() -> None:
    page = Path(published.FACTS).parents[1] / "docs" / "published.md"
    text = page.read_text(encoding="utf-8")
    assert published.put(text) == text, "run `make tables`"


def test_every_pair_has_a_recipe_and_every_papers_recipe_its_figures() -> None:
    columns = {column.recipe for family in published.facts().families for column in family.columns}
    assert columns <= {*drawers.names("recipes")}
    assert {*PAPERS} == {column for column in columns if column.startswith("papers/")}


@pytest.mark.parametrize("family", published.facts().families, ids=lambda family: family.title)
def test_figures_are_complete_sourced_and_their_notes_there(family: published.Family) -> None:
    sources = published.facts().sources
    assert [row.method for row in family.rows if len(row.figures) != len(family.columns)] == []
    assert [row.method for row in family.rows if row.source not in sources] == []
    figures = [str(value) for row in family.rows for value in row.figures if value is not None]
    assert all(re.fullmatch(rf"\d\d\.\d+( [{published.NOTES}])?", value) for value in figures)
    unknown = [row for row in family.rows if row.source == "?"]
    assert all(value is None for row in unknown for value in row.figures)
    told = " ".join([*figures, *(row.method for row in family.rows), *(column.name for column in family.columns)])
    marks = {mark for mark in published.NOTES if mark in told}
    assert marks == {note[0] for note in family.notes if note[0] in published.NOTES}


@pytest.fixture(scope="module")
def done() -> dict[str, published.Done]:
    return {each.plan.name: each for each in published.studies()}


def test_a_study_of_a_columns_recipe_fills_its_line_and_tells_of_fewer_epochs(done: dict[str, published.Done]) -> None:
    study = done["cifar10-budget"]
    spread = study.summary.line("kd").fp32
    assert spread is not None
    column = published.Column(name="ResNet-56 → 20", recipe="cifar10")
    told = published.measured(column, "kd", [study])
    assert told == f"{spread.mean:.2f} ± {spread.std:.2f} (n 3, 2 of 240 epochs, `cifar10-budget`)"
    assert published.measured(column, "crd", [study]) == "–"
    assert published.measured(column.model_copy(update={"metric": "top5"}), "kd", [study]) == "–"
    assert published.measured(column.model_copy(update={"recipe": "my_images"}), "kd", [study]) == "–"


def test_a_study_on_fewer_images_is_no_measurement_of_the_pair(done: dict[str, published.Done]) -> None:
    study, wanted = done["cifar10-budget"], drawers.read_recipe("cifar10")
    plan = replace(study.plan, read={})
    cell = next(cell for cell in plan.seeds() if cell.row == "kd")
    overrides, used = plan.overrides(cell), plan.recipe(cell)
    assert overrides is not None
    assert used is not None
    plan.read[overrides] = used.model_copy(
        update={"data": Plugin.model_validate({**wanted.data.model_dump(), "train_images": 5000})}
    )
    column = published.Column(name="", recipe="cifar10")
    assert published.measured(column, "kd", [replace(study, plan=plan)]) == "–"


def test_a_study_with_another_student_is_no_measurement_of_the_pair(done: dict[str, published.Done]) -> None:
    """`int8-resnet20` is of the recipe cifar10 too, and done, but its student comes trained."""
    study = done["int8-resnet20"]
    line = study.summary.line("calibrated")
    assert (study.plan.study.recipe, study.summary.metric, line.missing) == ("cifar10", "top1", ())
    assert line.fp32 is not None
    assert published.measured(published.Column(name="", recipe="cifar10"), "calibrated", [study]) == "–"
