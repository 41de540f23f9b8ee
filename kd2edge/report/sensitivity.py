"""The sensitivity of groups of layers in the terminal, the most harmed first, and the culprit in a sentence."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd2edge.report.figures import name as metric_name
from kd2edge.schema.search import Harm, Score, Sensitivity

NONE = "–"


def harm(found: Harm) -> float:
    """How far the outputs move when INT8 is in one group only: finer than any metric of right and wrong."""
    return 1 - found.alone.cosine


def answer(whole: Score, harms: Sequence[Harm]) -> str:
    """The culprit: the most harmed group whose loss is beyond its interval; `harms` are in that order."""
    quantized = [one for one in harms if one.kept is None]
    told = [_culprit(whole, quantized)] if quantized else []
    told += [
        f"{one.group} stays in float ({one.kept}): quantized it would lose {one.alone.drop:.2f} points."
        for one in harms
        if one.kept is not None and one.alone.low > 0
    ]
    return " ".join(told)


def _culprit(whole: Score, harms: Sequence[Harm]) -> str:
    losing = [one for one in harms if one.alone.low > 0]
    if not losing:
        farthest = harms[0]
        return (
            f"No group loses accuracy alone beyond the 95 % interval; {farthest.group} is farthest from FP32 "
            f"(cosine {farthest.alone.cosine:.4f})."
        )
    worst = losing[0]
    left = f"; all but it lose {worst.without.drop:.2f} of {whole.drop:.2f}" if worst.without else ""
    return f"The culprit is {worst.group}: in INT8 alone it loses {worst.alone.drop:.2f} points{left}."


def sensitivity_table(found: Sensitivity) -> RenderableType:
    """A line for each group; beneath, the policy's INT8, what was judged by, and the answer."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("group", overflow="fold")
    for name in ("MACs\n%", "alone\npoints", "\n95 %", "\ncosine", "all but it\npoints", "\ncosine"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.harms:
        table.add_row(*_cells(one), style="" if one.kept is None else "dim")
    whole = found.whole
    metric = metric_name(found.conditions.metric)
    kept = [f"{one.group}: dim, for it stays in float: {one.kept}" for one in found.harms if one.kept is not None]
    told = [
        f"INT8 by the target's policy: {metric} {whole.value:.2f} %, {whole.drop:.2f} points below FP32 "
        f"({whole.low:.2f} to {whole.high:.2f}), cosine {whole.cosine:.4f}; judged by {found.conditions.images}.",
        *kept,
    ]
    return Group(table, Text(""), *(Text(line, style="dim") for line in told), Text(found.answer, style="bold"))


def _cells(one: Harm) -> list[str]:
    alone, without = one.alone, one.without
    return [
        one.group,
        f"{one.macs:.1f}",
        f"{alone.drop:.2f}",
        f"{alone.low:.2f} to {alone.high:.2f}",
        f"{alone.cosine:.5f}",
        f"{without.drop:.2f}" if without else NONE,
        f"{without.cosine:.5f}" if without else NONE,
    ]
