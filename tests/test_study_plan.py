"""What a study's YAML may say, which cells come of it and by which recipes, and how far its files say that they are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kd2edge import drawers
from kd2edge.errors import Faults, UserError
from kd2edge.report.model import Number, Row, write_json
from kd2edge.report.study import Result
from kd2edge.schema import Study
from kd2edge.verbs import cells
from kd2edge.verbs.cells import Cell, Plan, claimed, open_plan
from kd2edge.verbs.distill import anchored
from kd2edge.verbs.study import _wanted
from kd2edge.verbs.study_table import table

ROWS: dict[str, Any] = {
    "plain": {"about": "no teacher", "method": {"name": "plain"}},
    "kd": {"about": "logits", "method": {"name": "kd", "alpha": 4}, "set": {"train.lr": 1e-05}},
}
TRIALS: dict[str, Any] = {
    "plain": {**ROWS["plain"], "trials": [{"train.lr": 0.1}, {"train.lr": 0.2}, {"train.lr": 0.3}]},
    "kd": {**ROWS["kd"], "trials": [{"method.tau": 2}, {"method.tau": 4, "train.lr": 0.2}, {"method.tau": 8}]},
}
SEARCH = {"set": {"data.holdout": True, "teacher.weights": None}, "seed": 7}


def tree(**changes: Any) -> dict[str, Any]:
    return {"about": "s", "recipe": "omniglot", "metric": "eer", "seeds": [4, 5], "rows": ROWS, **changes}


def faults(path: Path, **changes: Any) -> list[str]:
    file = path / "wrong.yaml"
    file.write_text(yaml.safe_dump(tree(**changes)))
    with pytest.raises(Faults) as fault:
        drawers.read_study(file)
    return fault.value.faults


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    study = Study.model_validate(tree(rows=TRIALS, search=SEARCH, set={"train.epochs": 3}))
    return Plan("s", study, tmp_path / "runs", tmp_path / "results")


def put(plan: Plan, cell: Cell, eer: float | None, fault: str | None = None, better: str = "lower") -> Result:
    """Write the result that a cell of these settings would have."""
    recipe = plan.recipe(cell)
    assert recipe is not None
    number = Number.model_validate({"value": eer, "unit": "%", "better": better})
    row = Row(role="fp32", file="", sha256="", precision="fp32", provider="", numbers={"eer": number})
    made = Result(
        created="",
        command="",
        row=cell.row,
        seed=cell.seed,
        trial=cell.trial,
        recipe=recipe.model_dump(mode="json"),
        suite=Path(plan.suite(cell)).stem,
        target="onnx-cpu",
        rows=() if fault else (row,),
        fault=fault,
    )
    write_json(made, plan.result_path(cell))
    return made


def test_an_unequal_search_is_refused_in_one_sentence_that_says_who_has_how_many(tmp_path: Path) -> None:
    rows = {**TRIALS, "kd": {**TRIALS["kd"], "trials": [{}, {}]}, "th_kd": ROWS["kd"]}
    (told,) = faults(tmp_path, rows=rows, search={})
    assert told.startswith("search: value error, every row needs the same number of trials")
    assert "kd has 2, plain has 3, th_kd has 0" in told
    (told,) = faults(tmp_path, search={})
    assert "kd has 0, plain has 0" in told
    (told,) = faults(tmp_path, rows=TRIALS)
    assert "rows have trials, and nothing says how they are judged" in told


def test_all_faults_of_a_study_are_told_at_once(tmp_path: Path) -> None:
    rows = {"a/b": ROWS["plain"], "search": ROWS["plain"], "plain": {**ROWS["plain"], "baseline": "plane"}}
    told = "\n".join(faults(tmp_path, rows=rows, seeds=[1, 1], metrics="eer"))
    for part in ("'a/b' is no name", "'search' is no name", "there is no row 'kd'", "of plain, 'plane', is no row"):
        assert part in told
    assert "seeds are different from each other" in told
    assert "metrics: unknown key (did you mean 'metric'?)" in told
    assert any("seeds" in fault for fault in faults(tmp_path, seeds=[]))


@pytest.mark.kd
@pytest.mark.parametrize("name", drawers.names("studies"))
def test_every_cell_of_every_study_has_a_recipe_without_faults(name: str) -> None:
    from kd2edge.kd.check import plugin_faults

    plan = open_plan(name)
    for cell in (*plan.trials(), *(Cell(row, 0) for row in plan.study.rows if not plan.study.search)):
        overrides = plan.overrides(cell)
        assert overrides is not None
        drawers.read_recipe(plan.study.recipe, overrides, plugin_faults)


def test_the_study_of_the_docs_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "mine.yaml").write_text(text)
    plan = open_plan(str(tmp_path / "mine.yaml"))
    recipes = [plan.recipe(cell) for cell in plan.trials()]
    assert [(recipe.train.lr, recipe.method.name) for recipe in recipes[:2] if recipe] == [
        (0.1, "plain"),
        (0.2, "plain"),
    ]
    assert len({*plan.study.seeds}) == 3


def test_trials_come_first_and_then_all_rows_of_a_seed(plan: Plan) -> None:
    assert plan.trials() == [Cell(row, 7, trial) for row in ("plain", "kd") for trial in range(3)]
    assert plan.seeds() == [Cell("plain", 4), Cell("kd", 4), Cell("plain", 5), Cell("kd", 5)]
    paths = [plan.run_path(cell) for cell in (*plan.trials(), *plan.seeds())]
    assert len({*paths, *map(plan.result_path, (*plan.trials(), *plan.seeds()))}) == 2 * len(paths)
    assert plan.result_path(Cell("kd", 5)) == plan.results / "kd" / "seed-5.json"


def test_a_cells_recipe_is_the_studys_with_its_rows_settings_on_top(plan: Plan) -> None:
    trial = plan.recipe(Cell("kd", 7, 1))
    assert trial is not None
    assert (trial.seed, trial.train.epochs, trial.train.lr, trial.compare) == (7, 3, 0.2, ())
    assert (trial.method.name, trial.method.options) == ("kd", {"alpha": 4, "tau": 4})  # nothing of the recipe's own
    assert trial.data.options["holdout"] is True
    assert trial.teacher is not None
    assert (trial.teacher.weights, trial.teacher.seed) == (None, 4)  # one teacher for every seed and trial
    assert plan.recipe(Cell("kd", 4)) is None


def test_small_numbers_survive_the_way_through_yaml(tmp_path: Path) -> None:
    plan = Plan("s", Study.model_validate(tree()), tmp_path, tmp_path)
    recipe = plan.recipe(Cell("kd", 4))
    assert recipe is not None
    assert recipe.train.lr == 1e-05
    assert recipe.teacher is not None
    assert (recipe.teacher.weights, recipe.teacher.seed) == ("omniglot", None)


def test_the_best_trial_is_chosen_the_first_of_equals_once_all_are_done(plan: Plan) -> None:
    trials = [cell for cell in plan.trials() if cell.row == "kd"]
    for cell, eer in zip(trials[:2], (3.0, 2.0), strict=True):
        put(plan, cell, eer)
        assert plan.chosen("kd") is None
        assert plan.state(Cell("kd", 4)) == "waiting"
    put(plan, trials[2], 2.0)
    assert plan.chosen("kd") == {"method.tau": 4, "train.lr": 0.2}
    recipe = plan.recipe(Cell("kd", 5))
    assert recipe is not None
    assert (recipe.seed, recipe.train.lr, recipe.method.options) == (5, 0.2, {"alpha": 4, "tau": 4})
    assert "holdout" not in recipe.data.options
    assert plan.state(Cell("kd", 4)) == "missing"
    assert plan.chosen("plain") is None


def test_a_trial_that_diverged_has_lost_and_one_without_the_metric_too(plan: Plan) -> None:
    first, second, third = (cell for cell in plan.trials() if cell.row == "kd")
    put(plan, first, None, "The loss is not finite.")
    put(plan, second, None)
    put(plan, third, 40.0)
    assert [plan.state(cell) for cell in (first, second, third)] == ["failed", "done", "done"]
    assert plan.chosen("kd") == {"method.tau": 8}
    put(plan, third, None)
    assert plan.chosen("kd") is None


def changed(plan: Plan, **changes: Any) -> Plan:
    study = Study.model_validate({**plan.study.model_dump(mode="json"), **changes})
    return Plan(plan.name, study, plan.runs, plan.results)


def test_a_result_is_stale_once_the_study_asks_for_another_training(tmp_path: Path) -> None:
    plan = Plan("s", Study.model_validate(tree()), tmp_path, tmp_path)
    cell = Cell("kd", 4)
    put(plan, cell, 2.0)
    assert plan.state(cell) == "done"
    assert changed(plan, about="other words").state(cell) == "done"
    assert changed(plan, target="nvidia-rtx").state(cell) == "stale"
    elsewhere = {**ROWS, "kd": {**ROWS["kd"], "target": "trt-oracle"}}
    assert changed(plan, rows=elsewhere).state(cell) == "stale"
    assert changed(plan, seeds=[3, 4]).state(cell) == "done"
    assert changed(plan, set={"train.epochs": 2}).state(cell) == "stale"
    assert changed(plan, suite="quick").state(cell) == "stale"
    rows = {**ROWS, "kd": {**ROWS["kd"], "method": {"name": "kd"}}}
    assert changed(plan, rows=rows).state(cell) == "stale"
    result = plan.result(cell)
    assert result is not None
    write_json(result.model_copy(update={"recipe": {"of": "another time"}}), plan.result_path(cell))
    assert plan.state(cell) == "stale"


def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path) -> None:
    plan = Plan("s", Study.model_validate(tree()), tmp_path, tmp_path)
    path = plan.result_path(Cell("kd", 4))
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(UserError, match=r"seed-4\.json is no result of a study"):
        plan.state(Cell("kd", 4))


def test_a_cell_is_claimed_by_one_at_a_time(plan: Plan) -> None:
    cell, trial = Cell("kd", 4), Cell("kd", 7, 4)
    with claimed(plan, cell) as mine, claimed(plan, cell) as again, claimed(plan, trial) as other:
        assert (mine, again, other) == (True, False, True)
    with claimed(plan, cell) as mine:
        assert mine


def test_only_rows_and_seeds_that_there_are_can_be_asked_for(plan: Plan) -> None:
    assert _wanted(plan, ["kd"], [5]) == [*(cell for cell in plan.trials() if cell.row == "kd"), Cell("kd", 5)]
    with pytest.raises(UserError, match="no row 'kdd' \\(did you mean 'kd'\\?\\)"):
        _wanted(plan, ["kdd"], [])
    with pytest.raises(UserError, match="no seed 6"):
        _wanted(plan, [], [6])


def test_results_lie_where_the_study_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = drawers.names("studies")[0]
    root = drawers.folder("studies").resolve().parent
    assert open_plan(name).results == root / "results" / "onnx-cpu" / name
    assert open_plan(str(drawers.find("studies", name))).results == root / "results" / "onnx-cpu" / name
    Path("mine.yaml").write_text(yaml.safe_dump(tree(target="onnx-cpu")))
    mine = open_plan("mine.yaml")
    assert (mine.name, mine.results, mine.runs) == ("mine", Path("results/onnx-cpu/mine"), Path("runs/studies/mine"))
    assert open_plan("mine.yaml", Path("r"), Path("s")).results == Path("s/onnx-cpu/mine")


def test_a_table_needs_no_results(tmp_path: Path) -> None:
    for name in drawers.names("studies"):
        summary = table(name, tmp_path)
        assert all(line.missing == summary.seeds and line.fp32 is None for line in summary.lines)


def test_runs_are_compared_with_the_paths_that_they_keep(tmp_path: Path) -> None:
    recipe = drawers.read_recipe("omniglot")
    assert cells.trains_alike(recipe.model_copy(update={"about": "x", "suite": "quick"}), anchored(recipe))
    assert not cells.trains_alike(recipe.model_copy(update={"seed": 9}), recipe)
    assert not cells.trains_alike(None, recipe)
