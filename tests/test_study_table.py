"""A study's figures against numpy, and its table from results written by hand: what counts, what is named missing."""

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kd2edge.report.model import Number, Row
from kd2edge.report.spread import Spread, distance, gap_closed, pooled_std, spread
from kd2edge.report.study import Found, Result, Summary
from kd2edge.report.study_table import markdown, study_table
from kd2edge.report.summary import summarize
from kd2edge.schema import Study

FIGURE = st.floats(-1e3, 1e3)
SAMPLES = st.lists(FIGURE, min_size=2, max_size=9)


def some(values: list[float]) -> Spread:
    found = spread(values)
    assert found is not None
    return found


@given(SAMPLES)
def test_mean_and_deviation_are_those_of_a_sample(values: list[float]) -> None:
    found = some(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_one_value_has_no_deviation_and_none_no_mean() -> None:
    assert spread([3.0]) == Spread(mean=3, std=None, n=1)
    assert spread([]) is None


@given(SAMPLES, SAMPLES)
def test_the_pooled_deviation_is_that_of_all_values_about_their_own_means(one: list[float], other: list[float]) -> None:
    centred = np.concatenate([np.subtract(one, np.mean(one)), np.subtract(other, np.mean(other))])
    expected = math.sqrt((centred**2).sum() / (len(centred) - 2))
    assert pooled_std(some(one), some(other)) == pytest.approx(expected, abs=1e-6)


def test_two_single_values_have_nothing_to_count_in() -> None:
    assert pooled_std(some([1.0]), some([2.0])) is None
    assert distance(some([1.0]), some([2.0])) is None
    assert distance(some([1.0, 1.0]), some([2.0, 2.0])) is None
    assert distance(some([5.0]), some([1.0, 2.0, 3.0])) == pytest.approx(3.0)


@given(FIGURE, st.floats(1, 100), st.floats(-2, 3))
def test_the_gap_closed_is_the_share_of_the_way_to_the_teacher(plain: float, gap: float, share: float) -> None:
    for sign, better in ((1, "higher"), (-1, "lower")):
        found = gap_closed(plain + sign * share * gap, plain, plain + sign * gap, better)
        assert found == pytest.approx(100 * share, abs=1e-6)
        assert gap_closed(plain, plain, plain - sign * gap, better) is None
    assert gap_closed(plain, plain, plain) is None


def study(**changes: Any) -> Study:
    rows: dict[str, Any] = {
        name: {"about": f"{name}, described", "method": {"name": "kd"}} for name in ("plain", "kd", "th_kd")
    }
    return Study.model_validate(
        {"about": "a study", "recipe": "omniglot", "metric": "top1", "rows": rows, "seeds": [0, 1, 2], **changes}
    )


def result(row: str, seed: int, fp32: float, better: str = "higher", **changes: Any) -> Result:
    roles = ("teacher",) if row == "teacher" else ("fp32", "int8")
    rows = [
        Row(
            role=role,
            file=f"{role}.onnx",
            sha256=f"{row}{seed}{role}",
            precision="int8" if role == "int8" else "fp32",
            provider="CPU",
            numbers={
                "top1": Number.model_validate({"value": fp32 - (role == "int8"), "unit": "%", "better": better}),
                "parameters": Number(value=85_088, unit=""),
                "macs": Number(value=12_214_272, unit=""),
            },
            conditions={"data": {"images": 13180, "split": "test"}, "genuine_pairs": 5, "impostor_pairs": 7_000},
        )
        for role in roles
    ]
    known = {"created": "", "command": "", "recipe": {"train": {"epochs": 10}}, "suite": "study", "target": "onnx-cpu"}
    machine = {"device": {"cpu": "a processor"}, "versions": {"onnxruntime": "1.2"}}
    return Result.model_validate({"row": row, "seed": seed, "rows": rows, **known, **machine, **changes})


FIGURES = {"plain": [60.0, 61.0, 62.0], "kd": [64.0, 65.0, 66.0], "th_kd": [68.0, 66.0]}


def found(**changes: Any) -> Found:
    results = {row: tuple(result(row, seed, value) for seed, value in enumerate(FIGURES[row])) for row in FIGURES}
    return Found(**{"results": results, "teacher": result("teacher", 0, 71.0), **changes})


def rendered(summary: Summary, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(study_table(summary))
    return console.export_text()


def test_a_row_is_held_against_plain_kd_and_the_teacher() -> None:
    summary = summarize("s", study(), found())
    plain, kd, th_kd = summary.lines
    assert th_kd.fp32 == some([68, 66])
    assert th_kd.int8 is not None
    assert th_kd.int8.mean == pytest.approx(66)
    assert [plain.gap_closed, kd.over] == [None, None]
    assert [kd.gap_closed, th_kd.gap_closed] == [pytest.approx(40), pytest.approx(60)]
    assert plain.over == pytest.approx(-4)
    assert th_kd.over == pytest.approx(2 / math.sqrt((2 * 1 + 1 * 2) / 3))
    assert [line.best for line in summary.lines] == [False, False, True]
    assert (th_kd.done, th_kd.missing, summary.unit) == ((0, 1), (2,), "%")
    assert summary.missing == ("th_kd: seed 2 missing",)


def test_a_metric_that_is_better_low_has_its_best_row_at_the_bottom() -> None:
    figures = {"plain": 9.0, "kd": 5.0, "th_kd": 6.0}
    results = {row: (result(row, 0, value, "lower"),) for row, value in figures.items()}
    summary = summarize("s", study(), found(results=results, teacher=result("teacher", 0, 4.0, "lower")))
    assert [line.best for line in summary.lines] == [False, True, False]
    assert summary.line("kd").gap_closed == pytest.approx(80.0)


def test_a_row_of_another_net_has_its_own_plain_student_and_no_distance_from_kd() -> None:
    rows = study().model_dump()["rows"]
    rows["wide"] = {**rows["plain"]}
    rows["wide_kd"] = {**rows["kd"], "baseline": "wide"}
    more = {"wide": (result("wide", 0, 66.0),), "wide_kd": (result("wide_kd", 0, 68.5),)}
    summary = summarize("s", study(rows=rows), found(results={**found().results, **more}))
    assert summary.line("wide").gap_closed is None
    assert summary.line("wide_kd").gap_closed == pytest.approx(50.0)
    assert summary.line("wide_kd").over is None
    assert [line.row for line in summary.lines if line.best] == ["th_kd", "wide_kd"]  # one for each student
    assert "The plain student of wide_kd is wide." in summary.conditions


def test_without_a_teacher_better_than_plain_there_is_no_gap() -> None:
    for teacher in (None, result("teacher", 0, 50.0)):
        summary = summarize("s", study(), found(teacher=teacher))
        assert {line.gap_closed for line in summary.lines} == {None}


def test_what_is_stale_or_failed_counts_for_nothing_and_is_named() -> None:
    results = {"kd": (result("kd", 0, 65.0), result("kd", 1, 0.0, rows=(), fault="The loss is not finite."))}
    summary = summarize("s", study(), found(results=results, stale={"kd": (2,), "plain": (0,)}))
    kd = summary.line("kd")
    assert (kd.done, kd.failed, kd.stale, kd.missing) == ((0,), (1,), (2,), ())
    assert kd.fp32 == Spread(mean=65, std=None, n=1)
    assert "2 stale, 1 failed" in markdown(summary)
    assert summary.missing[0] == "plain: seeds 1, 2 missing"
    assert {"plain: seed 0 stale", "kd: seed 2 stale", "kd: seed 1 failed"} <= set(summary.missing)


def test_a_study_without_any_result_is_a_table_of_gaps() -> None:
    summary = summarize("s", study(), Found(results={}))
    assert [line.missing for line in summary.lines] == [(0, 1, 2)] * 3
    assert "Mean" not in rendered(summary)
    assert "* Not there: 9 of 9 cells.\n" in markdown(summary)
    assert "| 0/3 | 0, 1, 2 |" in markdown(summary)
    assert summary.missing[0] == "plain: seeds 0, 1, 2 missing"


def test_the_search_is_counted_under_the_table() -> None:
    rows = study().model_dump()["rows"]
    rows = {name: {**row, "trials": [{"train.lr": 0.1}, {"train.lr": 0.2}]} for name, row in rows.items()}
    searched = study(rows=rows, search={"seed": 5})
    summary = summarize(
        "s", searched, found(trials=4, settings={"kd": {"method.first": {"name": "kd", "tau": 2}}, "plain": {}})
    )
    told = " ".join(summary.conditions)
    assert "Each row had 2 trials, judged by the suite selection at seed 5 and chosen by top1" in told
    assert "plain and kd as many as every other" in told
    assert "Chosen: kd: method.first {name: kd, tau: 2}." in told
    assert "* Not there: 2 of 6 trials, 1 of 9 cells.\n" in markdown(summary)
    assert "No search" in " ".join(summarize("s", study(), found()).conditions)


def test_the_table_fits_80_columns_with_long_names_too() -> None:
    rows = study().model_dump()["rows"]
    rows = {f"{name}_of_a_long_name" if name == "th_kd" else name: row for name, row in rows.items()}
    results = {**found().results, "th_kd_of_a_long_name": found().results["th_kd"]}
    terminal = rendered(summarize("s", study(rows=rows, metric="top1"), found(results=results, stale={"kd": (3, 4)})))
    assert max(map(len, terminal.splitlines())) <= 80
    assert "…" not in terminal
    assert "67.00 ± 1.41" in terminal


def test_the_table_is_one_for_the_terminal_markdown_and_programs() -> None:
    p50 = {"kd": {"fp32": 0.1326, "int8": 0.0861}, "teacher": {"fp32": 0.9}}
    summary = summarize("s", study(), found(p50=p50, p50_conditions="Latency: in quiet."))
    terminal, text = rendered(summary), markdown(summary)
    assert max(map(len, terminal.splitlines())) <= 80
    for told in ("65.00 ± 1.00", "71.00", "0.133", "0.086", "12,214,272", "85,088", "2/3", "60", "Latency: in quiet."):
        assert told in terminal, told
        assert told in text, told
    assert "13,180 images of the split test, 5 genuine and 7,000 impostor pairs, a processor, onnxruntime 1.2" in text
    assert "10 epochs" in text
    assert "Made by: kd2edge study s" in text
    (best,) = [line for line in text.splitlines() if line.startswith("| **")]
    assert best.startswith("| **th_kd** | th_kd, described | **67.00 ± 1.41** |")
    rows = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) == 1
    assert Summary.model_validate(json.loads(summary.model_dump_json())) == summary


def test_what_training_took_is_told_where_it_is_known() -> None:
    """180 s for 36,000 images and 300 s for 36,000: four minutes, and 150 images a second; the third seed is older."""
    both = {"images": 36_000, "threads": 2}
    took = [{**both, "seconds": 180, "load": 0.5}, {**both, "seconds": 300, "load": 3}]
    kd = [result("kd", seed, 65.0, training=training) for seed, training in enumerate([*took, None])]
    summary = summarize("s", study(), found(results={**found().results, "kd": tuple(kd)}))
    line = summary.line("kd")
    assert [line.minutes, line.images_per_second] == pytest.approx([4, 150])
    assert summary.line("plain").minutes is None
    assert any("2 threads, load 0.50 to 3.00 as it began" in told for told in summary.conditions)
    (cells,) = [told for told in markdown(summary).splitlines() if told.startswith("| kd |")]
    assert cells.endswith("| 4.0 | 150 |")
    (cells,) = [told for told in markdown(summary).splitlines() if told.startswith("| plain |")]
    assert cells.endswith("| – | – |")
    assert max(map(len, rendered(summary).splitlines())) <= 80


def test_processors_of_one_name_are_told_apart_by_what_int8_is_computed_with() -> None:
    kinds = [["avx2", "avx512_vnni"], ["avx2", "avx512_vnni", "avx_vnni"], []]
    training = {"images": 36_000, "threads": 2, "seconds": 180, "load": 0.5}
    devices = [{"cpu": "EPYC", "flags": flags} for flags in kinds]
    kd = [result("kd", seed, 65.0, device=device, training=training) for seed, device in enumerate(devices)]
    told = summarize("s", study(), found(results={"kd": tuple(kd)})).conditions
    assert any("EPYC, EPYC (avx512_vnni), EPYC (avx512_vnni, avx_vnni), onnx" in line for line in told)
    assert any("as it began, on 3 kinds of processor." in line for line in told)


def test_an_old_result_that_knows_nothing_of_times_is_read_as_it_was() -> None:
    old = {key: value for key, value in result("kd", 0, 65.0).model_dump(mode="json").items() if key != "training"}
    read = Result.model_validate(old)
    assert read.training is None
    assert not any("Training" in told for told in summarize("s", study(), found()).conditions)


def test_further_metrics_stand_in_a_table_of_their_own() -> None:
    def measured(row: str, seed: int, value: float) -> Result:
        made = result(row, seed, value)
        eer = Number(value=100 - value, unit="%", better="lower")
        return made.model_copy(
            update={
                "rows": tuple(each.model_copy(update={"numbers": {**each.numbers, "eer": eer}}) for each in made.rows)
            }
        )

    results = {row: tuple(measured(row, seed, value) for seed, value in enumerate(FIGURES[row])) for row in FIGURES}
    summary = summarize("s", study(also=["eer"]), found(results=results, teacher=measured("teacher", 0, 71.0)))
    for told in (rendered(summary), markdown(summary)):
        assert "35.00 ± 1.00" in told
        assert "29.00" in told
    assert "| row | EER % FP32 | EER % INT8 |" in markdown(summary)
    assert "| kd | 35.00 ± 1.00 | 35.00 ± 1.00 |" in markdown(summary)
    assert max(map(len, rendered(summary).splitlines())) <= 80
