"""What would ship is judged between epochs, by the metrics of a bench, and the training does not notice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd2edge.data import InMemory, Split, normalize
from kd2edge.errors import UserError
from kd2edge.kd import net, validate
from kd2edge.kd.distill import Work
from kd2edge.kd.method import Method, Stage
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.spans import NONE, Spans
from kd2edge.kd.tasks import Task
from kd2edge.kd.train import Trainer
from kd2edge.progress import Silent
from kd2edge.run import Run
from kd2edge.schema import Preprocessing, Recipe, Train
from tests import lessons, processes, tiny

pytestmark = pytest.mark.kd

HOW = Preprocessing(size=(16, 16), channels=1, color="L", mean=(0.4,), std=(0.3,), decoder="pillow/box")
CASES: list[tuple[str, Any]] = [("plain", "classification"), ("kd", "verification"), ("sim_kd", "classification")]


def noise(count: int, classes: int = 5, seed: int = 0) -> InMemory:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 16, 16, 1)).astype(np.uint8)
    return InMemory(images, np.arange(count) % classes, {}, [f"class {number}" for number in range(classes)])


def judge_of(
    made: Method,
    data: Split,
    ranks: Ranks = Ranks(0, 1),  # noqa: B008
    every: int = 1,
    spans: Spans = NONE,
) -> validate.Validator:
    return validate.Validator(made, data, HOW, every, ranks, print, spans)


def by_numpy(made: Method, data: Split) -> dict[str, float]:
    """The figures from torch's outputs on all images at once, by definition, in float64."""
    images = torch.from_numpy(normalize(data.read(np.arange(len(data))), HOW))
    with torch.no_grad():
        out = made.deployable().eval()(images)
    if made.task.output == "logits":
        return {"val_top1": 100 * float((out.logits.argmax(1).numpy() == data.labels).mean())}
    unit = out.embedding.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    first, second = np.triu_indices(len(data), 1)
    cosines, same = (unit @ unit.T)[first, second], data.labels[first] == data.labels[second]
    thresholds = np.concatenate([[np.inf], np.sort(cosines)[::-1]])
    false = np.array([(cosines[~same] >= level).mean() for level in thresholds])
    missed = np.array([(cosines[same] < level).mean() for level in thresholds])
    best = np.argmin(np.abs(false - missed))
    allowed = int(1e-3 * np.count_nonzero(~same))
    level = np.sort(cosines[~same])[-allowed]
    tar = 100 * float((cosines[same] > level).mean())
    return {"val_tar@1e-3": tar, "val_eer": 50 * float(false[best] + missed[best])}


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_figures_are_the_metrics_of_what_ships(name: str, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "CHUNK", 16)
    made, data = lessons.make(name, task), noise(75)
    (stage,) = made.stages()
    found = judge_of(made, data)(stage, 1)
    wanted = by_numpy(made, data)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=0.1 if key == "val_eer" else 1e-9)


def test_ten_classes_have_a_top_5() -> None:
    logits = np.tile(np.arange(10, dtype=np.float32), (10, 1))  # class 9 first, and 5 to 9 among five
    found = dict(validate.figures(Task("classification"), logits, noise(10, 10)))
    assert found == {"top1": pytest.approx(0.1), "top5": pytest.approx(0.5)}


def test_only_stages_that_train_what_ships_are_judged_and_only_when_asked() -> None:
    made, data = lessons.make("sh_kd", "classification"), noise(20)
    judge = judge_of(made, data, every=2)
    seen: dict[str, list[bool]] = {}
    for stage in made.stages():
        seen[stage.name] = [bool(judge(stage, epoch)) for epoch in (1, 2, 3, 4)]
    never = [False] * 4
    assert seen == {"head_student": never, "tailored_teacher": never, "student": [False, True, False, True]}


def trained(folder: Path, judged: bool, spans: Spans = NONE) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """A net with dropout, trained for three epochs with an average of its weights."""
    made = lessons.make("plain", "classification")
    made.student.neck = nn.Sequential(made.student.neck, nn.Dropout(0.5))
    (stage,) = made.stages()
    plan = {"epochs": 3, "batch": 8, "lr": 0.05, "ema": 0.5, "precision": "fp32", "augment": {"flip": True}}
    folder.mkdir(exist_ok=True)
    judge = judge_of(made, noise(30, seed=1), spans=spans) if judged else None
    log = folder / "log.jsonl"
    trainer = Trainer(noise(32), HOW, Train.model_validate(plan), 0, folder, log, Silent(), judge=judge, spans=spans)
    trainer.run(stage)
    return made.student.state_dict(), [json.loads(line) for line in log.read_text().splitlines()]


def test_judging_does_not_change_a_bit_of_the_training(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "plain", judged=False)
    measured = Spans()
    judged, lines = trained(tmp_path / "judged", judged=True, spans=measured)
    assert measured.table()[0].ms["validation"] > 0
    assert [name for name, values in plain.items() if not torch.equal(values, judged[name])] == []
    assert [line["epoch"] for line in lines if "val_top1" in line] == [1, 2, 3]
    made = lessons.make("plain", "classification")
    made.student.load_state_dict({name: values for name, values in judged.items()})
    assert lines[-1]["val_top1"] == by_numpy(made, noise(30, seed=1))["val_top1"]  # of the average, which ships


def test_a_net_without_embeddings_is_said_and_trains_on(capsys: pytest.CaptureFixture[str]) -> None:
    made = lessons.make("plain", "verification")
    for parameter in made.student.neck.parameters():
        parameter.data.zero_()
    (stage,) = made.stages()
    assert judge_of(made, noise(20))(stage, 3) == {}
    assert "not judged on the validation split after epoch 3" in capsys.readouterr().out


def on_a_rank(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Figures and outputs on one rank, whose running statistics are its own; what it left of the net."""
    validate.CHUNK = 4
    found: dict[str, Any] = {}
    for name, task in CASES:
        made = lessons.make(name, task)
        (stage,) = made.stages()
        made.deployable().train()
        own = {key: 1.0 + ranks.number for key in made.deployable().state_dict() if key.endswith("running_var")}
        for key, buffer in made.deployable().named_buffers():
            if key in own:
                buffer.fill_(own[key])
        for count in (22, 3):  # six chunks, and one, so that a rank has none
            judge = judge_of(made, noise(count, 3), ranks)
            found[f"{name} {count}"] = judge(stage, 1), judge._outputs(made.deployable())
        modes = {module.training for module in made.deployable().modules()}
        variances = {float(buffer.mean()) for key, buffer in made.deployable().named_buffers() if key in own}
        found[f"{name} left"] = modes, variances
    return found


def test_two_processes_judge_as_one_does_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "CHUNK", 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = on_a_rank(Ranks(0, 1), tmp_path)
    torch.set_num_threads(threads)
    two = processes.on_ranks(2, on_a_rank, tmp_path / "two")
    for name, _ in CASES:
        for count in (22, 3):
            (figures, outputs), (none, nothing) = (rank[f"{name} {count}"] for rank in two)
            assert figures == alone[f"{name} {count}"][0]
            assert np.array_equal(outputs, alone[f"{name} {count}"][1])
            assert (none, nothing) == ({}, None)
        assert [rank[f"{name} left"][1] for rank in two] == [{1.0}, {2.0}]
        assert two[1][f"{name} left"] == (alone[f"{name} left"][0], {2.0})


def test_a_data_set_without_that_split_is_told_when_the_run_is_opened(tmp_path: Path) -> None:
    tree = tiny.recipe(tiny.image_folder(tmp_path / "images", per_class=2), {"name": "plain"})
    tree["data"]["val_fraction"] = 0
    Work.open(Recipe.model_validate(tree), Run(tmp_path / "run"), Silent())
    with pytest.raises(UserError, match="has no split 'val'"):
        Work.open(Recipe.model_validate(tree | {"validation": {"every": 1}}), Run(tmp_path / "run"), Silent())
    assert not (tmp_path / "run" / "train").exists()


def test_a_split_that_cannot_be_judged_is_told() -> None:
    few, train = noise(5), noise(20)
    assert validate.required(train, train, Task("verification")) is train
    with pytest.raises(UserError, match="too few images"):
        validate.required(few, train, Task("verification"))
    with pytest.raises(UserError, match="other classes"):
        validate.required(noise(20, 4), train, Task("classification"))


def test_a_stage_is_not_taken_from_a_run_that_was_not_judged_so() -> None:
    made = lessons.make("plain", "classification")
    (stage,) = made.stages()
    words = {judge_of(made, noise(20, seed=seed), every=n).named(stage).minimises for seed in (0, 1) for n in (1, 2)}
    assert len(words | {stage.minimises}) == 5
    unnamed: Stage = replace(stage, minimises=None)
    assert judge_of(made, noise(20)).named(unnamed) is unnamed


def test_an_embedding_is_taken_without_its_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lessons.make("plain", "verification")

    def refused(embedding: Tensor) -> Tensor:
        raise AssertionError("the classifier was asked")

    monkeypatch.setattr(made.student.head, "forward", refused)
    (stage,) = made.stages()
    assert judge_of(made, noise(20))(stage, 1).keys() == {"val_eer"}  # 150 impostors: too few for a FAR of 1e-3
    assert isinstance(made.student, net.Net)
