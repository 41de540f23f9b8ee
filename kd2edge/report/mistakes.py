"""Where rows are right and wrong: ROC and reliability as pictures, classes and what they are taken for as tables."""

import re
from typing import NamedTuple

from kd2edge.report import figures, plot
from kd2edge.report.model import Number, Report, Row
from kd2edge.report.traces import (
    CLASSES,
    CONFUSED,
    CONFUSION,
    RELIABILITY,
    ROC,
    Classes,
    Confusion,
    Reliability,
    Roc,
    trace,
)

RATE = re.compile(r"tar@(\d+(?:\.\d+)?(?:e-\d+)?)")
REFERENCE = "fp32"
COMPRESSED = ("int8", "fp16")
WORST = 12  # lines of a table of classes


def roc(report: Report) -> str | None:
    """True over false accept rate in %, FAR logarithmic, with the TARs that have an interval; None without traces."""
    curves = {row.role: (row, found) for row in report.rows if (found := trace(row, "roc", ROC))}
    if not curves:
        return None
    figure, axes = plot.canvas()
    for role, (row, curve) in curves.items():
        points = [(far, 100 * tar) for far, tar in zip(curve.far, curve.tar, strict=True) if far > 0]
        if points:
            axes.plot(*zip(*points, strict=True), label=plot.label(report, role), **plot.styled(report, row))
        for far, number in _operating(row):
            axes.errorbar(far, number.value or 0.0, yerr=plot.whisker(number), linewidth=1.2, capsize=3,
                          color=plot.styled(report, row)["color"], marker="o", markersize=3)  # fmt: skip
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlabel("false accept rate")
    axes.set_ylabel("true accept rate (%)")
    plot.legend(axes)
    return plot.svg(figure, f"ROC: {', '.join(_roc_told(report, row, curve) for row, curve in curves.values())}")


def _operating(row: Row) -> list[tuple[float, Number]]:
    found = [(RATE.fullmatch(name), number) for name, number in row.numbers.items()]
    return [(float(far[1]), number) for far, number in found if far and number.usable and number.low is not None]


def _roc_told(report: Report, row: Row, curve: Roc) -> str:
    named = [name for name in row.numbers if RATE.fullmatch(name) and row.numbers[name].usable]
    said = " ".join(f"{figures.name(name)} {figures.told(row.numbers[name])}" for name in named)
    return f"{plot.label(report, row.role)} {said or f'of {len(curve.far)} points'}"


def reliability(report: Report) -> str | None:
    """Accuracy over confidence in %, a calibrated model on the diagonal; None without traces."""
    found = {row.role: (row, bins) for row in report.rows if (bins := trace(row, "reliability", RELIABILITY))}
    if not found:
        return None
    figure, axes = plot.canvas()
    axes.plot([0, 100], [0, 100], color=plot.GRID, linewidth=1.5)
    for role, (row, bins) in found.items():
        axes.plot([100 * x for x in bins.confidence], [100 * y for y in bins.accuracy], marker="o", markersize=3,
                  label=plot.label(report, role), **plot.styled(report, row))  # fmt: skip
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("accuracy (%)")
    plot.legend(axes)
    said = [f"{plot.label(report, role)} {_gap(bins):+.1f} points" for role, (_, bins) in found.items()]
    return plot.svg(figure, f"reliability, mean confidence less accuracy: {', '.join(said)}")


def _gap(bins: Reliability) -> float:
    """Mean confidence less accuracy in points: above 0 the model is surer than it is right."""
    images = sum(bins.n) or 1
    return 100 * sum(n * (c - a) for c, a, n in zip(bins.confidence, bins.accuracy, bins.n, strict=True)) / images


def confusions(report: Report) -> dict[str, Confusion]:
    """The confusion matrix of each row that has one, the last row's first: it is the furthest from the reference."""
    found = {row.role: trace(row, "confusion", CONFUSION) for row in reversed(report.rows)}
    return {role: matrix for role, matrix in found.items() if matrix}


class Confused(NamedTuple):
    """A true class, what it was taken for, and how often by each row; None where it is not among a row's worst."""

    true: str
    predicted: str
    counts: list[int | None]


def confused(report: Report) -> tuple[list[str], list[Confused]]:
    """The rows that tell their most confused classes, and these, the most frequent by any row first."""
    rows = {row.role: found for row in report.rows if (found := trace(row, "confused", CONFUSED))}
    counts = {role: {(true, predicted): n for true, predicted, n in found} for role, found in rows.items()}
    pairs = sorted({pair for of in counts.values() for pair in of})
    pairs.sort(key=lambda pair: -max(of.get(pair, 0) for of in counts.values()))
    return list(rows), [Confused(*pair, [of.get(pair) for of in counts.values()]) for pair in pairs[:WORST]]


class ClassLine(NamedTuple):
    """A class, its images, the reference's recall in %, and of the other rows recall and change in points, or None."""

    name: str
    n: int
    reference: float
    others: tuple[tuple[float, float] | None, ...]


def classes(report: Report) -> tuple[list[str], list[ClassLine]]:
    """The rows beside fp32 that tell their recall by class, and the classes of which the compressed lose most."""
    reference = report.row(REFERENCE)
    base = trace(reference, "per_class", CLASSES) if reference else None
    found = {row.role: f for row in report.rows if row is not reference and (f := trace(row, "per_class", CLASSES))}
    if base is None or not found:
        return [], []
    recalls = [dict(zip(of.classes, of.recall, strict=True)) for of in found.values()]
    lines = [_class_line(base, place, recalls) for place in range(len(base.classes))]
    judged = [place for place, role in enumerate(found) if role in COMPRESSED] or list(range(len(found)))
    lost = {line: [other[1] for place in judged if (other := line.others[place])] for line in lines}
    return list(found), sorted((line for line in lines if lost[line]), key=lambda line: min(lost[line]))[:WORST]


def cut(report: Report) -> int | None:
    """How many classes the rows tell of where they do not tell of the same ones, each of its worst; else None."""
    found = [of.classes for row in report.rows if (of := trace(row, "per_class", CLASSES))]
    return max(map(len, found)) if len(set(map(frozenset, found))) > 1 else None


def _class_line(base: Classes, place: int, recalls: list[dict[str, float]]) -> ClassLine:
    name, recall = base.classes[place], base.recall[place]
    others = tuple((of[name], of[name] - recall) if name in of else None for of in recalls)
    return ClassLine(name, base.n[place], recall, others)
