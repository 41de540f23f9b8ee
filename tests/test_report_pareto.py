"""What a search says: the sentence of every end, the table, the picture."""

from io import StringIO
from itertools import combinations
from pathlib import Path

import pytest
from rich.console import Console

from kd2edge.report.pareto import answer, grid, markdown, picture, search_table, write_pareto
from kd2edge.schema.search import Budget, Choice, Conditions, Point, Score, Searched, Timing

GROUPS = ("stem", "block1", "block2")
CONDITIONS = Conditions(
    model="net.onnx",
    sha256="0",
    target="onnx-cpu",
    metric="top1",
    images="500 validation images",
    quantize={},
    groups={name: (name,) for name in GROUPS},
    kept={"head": "it produces the output"},
    device={"cpu": "a processor", "load": 0.1},
    versions={},
)


def point(int8: tuple[str, ...], drop: float, ratio: float, rest: str = "fp32") -> Point:
    score = Score(value=92 - drop, drop=drop, low=drop - 0.1, high=drop + 0.1, cosine=0.99, images=500)
    timing = Timing(
        p50=0.5 * ratio, low=0.4 * ratio, high=0.6 * ratio, n=144, ratio=ratio, ratio_low=ratio, ratio_high=ratio
    )
    return Point(choice=Choice.model_validate({"int8": int8, "rest": rest}), score=score, timing=timing)


FP32, INT8 = point((), 0, 1), point(GROUPS, 1.2, 1 / 0.93)
FAST_INT8, MIX = point(GROUPS, 1.2, 0.5), point(GROUPS[1:], 0.25, 0.625)
BETTER, HALF = point(GROUPS, -0.3, 0.5), point((), 0.001, 0.5, "fp16")
REFUSED = Point(choice=Choice(int8=GROUPS), fault="the builder refuses it")


def found(
    points: list[Point],
    best: int | None,
    accurate: int | None = 0,
    fast: int | None = 0,
    max_drop: float = 0.5,
    **budget: float,
) -> Searched:
    made = Searched(
        conditions=CONDITIONS,
        budget=Budget(max_drop=max_drop, **budget),
        points=tuple(points),
        front=tuple(range(len(points))),
        best=best,
        accurate=accurate,
        fast=fast,
        answer="",
    )
    return made.model_copy(update={"answer": answer(made)})


@pytest.mark.parametrize(
    ("searched", "told"),
    [
        (found([FP32, INT8], 0), "INT8 is 0.93x the speed of FP32 here and 1.2 points worse: FP32 ships."),
        (
            found([FP32, FAST_INT8, point(("stem",), 0.7, 0.9)], 0),
            "INT8 is 2.00x the speed of FP32 here and 1.2 points worse, and no mix measured within 0.5 points is "
            "faster: FP32 ships.",
        ),
        (found([FP32, FAST_INT8], 1), "INT8 is 2.00x the speed of FP32 here and 1.2 points worse: it ships."),
        (
            found([FP32, FAST_INT8, MIX], 2),
            "INT8 in 2 of 3 groups is 1.60x the speed of FP32 here and 0.25 points worse: it ships.",
        ),
        (found([FP32, BETTER], 1), "INT8 is 2.00x the speed of FP32 here and 0.3 points better: it ships."),
        (found([FP32, HALF], 1), "FP16 is 2.00x the speed of FP32 here and as accurate: it ships."),
        (
            found([FP32, point(GROUPS[1:], 0.25, 0.625, "fp16")], 1),
            "INT8 in 2 of 3 groups and FP16 is 1.60x the speed of FP32 here and 0.25 points worse: it ships.",
        ),
        (found([FP32, REFUSED], 0), "INT8 cannot be had here (the builder refuses it): FP32 ships."),
        (
            found([FP32, FAST_INT8, MIX], None, accurate=2, fast=None, max_latency=0.2),
            "None of the 3 graphs measured meets the latency budget of 0.2 ms here: the fastest, INT8, takes 0.25 ms "
            "(0.50x FP32's) and is 1.2 points worse; within 0.5 points the fastest, INT8 in 2 of 3 groups, takes "
            "0.312 ms (0.62x FP32's).",
        ),
        (
            found([FP32, FAST_INT8], None, accurate=1, fast=None, max_drop=2, max_ratio=0.4),
            "None of the 2 graphs measured meets the latency budget of 0.4x FP32's time here: the fastest, INT8, takes "
            "0.25 ms (0.50x FP32's) and is 1.2 points worse.",
        ),
        (
            found([FP32, FAST_INT8, MIX], None, accurate=2, fast=1, max_ratio=0.55),
            "None of the 3 graphs measured meets both budgets here: within 0.5 points the fastest, INT8 in 2 of 3 "
            "groups, takes 0.312 ms (0.62x FP32's); within 0.55x FP32's time the most accurate, INT8, is 1.2 points "
            "worse.",
        ),
        (found([FP32], 0), "Nothing else was measured: FP32 ships."),
    ],
    ids=["slower", "no-mix", "int8", "mix", "better", "fp16", "both", "refused", "ms", "ratio", "together", "none"],
)
def test_every_end_has_its_sentence(searched: Searched, told: str) -> None:
    assert searched.answer == told


def test_only_where_all_graphs_were_measured_is_a_budget_said_to_be_out_of_reach() -> None:
    others = [point(c, 1.5, 0.9) for n in (1, 2) for c in combinations(GROUPS, n) if c != GROUPS[1:]]
    every = [FP32, FAST_INT8, MIX, *others]
    together = found(every, None, accurate=2, fast=1, max_ratio=0.55)
    assert together.answer.startswith("The two budgets cannot be met together here: within 0.5 points the fastest")
    latency = found(every, None, accurate=2, fast=None, max_latency=0.2)
    assert latency.answer.startswith("The latency budget of 0.2 ms cannot be met here: the fastest, INT8, takes 0.25")
    lossy = [FP32, FAST_INT8, point(GROUPS[1:], 0.9, 0.7), *others]
    assert ", and no mix within 0.5 points is faster: FP32 ships." in found(lossy, 0).answer
    assert found(every[:-1], None, accurate=2, fast=None, max_latency=0.2).answer.startswith("None of the 7 graphs")


def test_the_table_is_ordered_by_time_and_marks_the_front_and_what_ships() -> None:
    rows = grid(found([FP32, FAST_INT8, MIX], 2))
    assert [row["graph"] for row in rows] == ["INT8", "INT8 in 2 of 3 groups", "FP32"]
    assert [row[""] for row in rows] == ["*", "→", "*"]
    assert [row["within"] for row in rows] == ["time", "both", "both"]
    assert rows[1]["in float"] == "stem"
    assert rows[1]["points lost"] == "0.25 (0.15 to 0.35)"
    assert rows[1]["of FP32's"] == "0.625 (0.625 to 0.625)"
    text = markdown(found([FP32, FAST_INT8, MIX], 2))
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {11}


def test_a_point_that_cannot_be_had_is_told_and_not_drawn(tmp_path: Path) -> None:
    searched = found([FP32, REFUSED], 0).model_copy(update={"front": (0,)})
    assert "INT8: the builder refuses it" in markdown(searched)
    page = write_pareto(searched, tmp_path).read_text()
    assert "the builder refuses it" in page


def test_the_picture_has_the_pages_colours_and_is_the_same_each_time() -> None:
    searched = found([FP32, FAST_INT8, MIX], 2, max_latency=0.4)
    drawing = picture(searched)
    assert drawing is not None
    assert drawing == picture(searched)
    assert "var(--series-2)" in drawing
    assert "#03" not in drawing
    assert "INT8 in 2 of 3 groups" in drawing


def test_the_page_needs_nothing_else_and_has_styles_for_dark_and_light(tmp_path: Path) -> None:
    text = write_pareto(found([FP32, FAST_INT8, MIX], 2), tmp_path).read_text()
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "it produces the output" in text


def test_the_terminal_shows_the_front_within_80_columns() -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(search_table(found([FP32, FAST_INT8, MIX], 2)))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert "it ships." in " ".join(shown.split())
