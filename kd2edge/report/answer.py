"""The answer of a search in a sentence, made of its numbers: what ships, or which budget is out of reach."""

from kd2edge.schema.search import Budget, Point, Searched


def label(found: Searched, point: Point) -> str:
    """A point's name: `FP32`, `FP16`, `INT8`, or in how many of the groups it is INT8."""
    chosen, groups = len(point.choice.int8), len(found.conditions.groups)
    if not chosen:
        return point.choice.rest.upper()
    name = "INT8" if chosen == groups else f"INT8 in {chosen} of {groups} groups"
    return name if point.choice.rest == "fp32" else f"{name} and FP16"


def answer(found: Searched) -> str:
    """One sentence for each end: a graph within the budgets, FP32 since nothing is gained, or nearest points."""
    if found.best is None:
        return _out_of_reach(found)
    if found.best == 0:
        return _nothing_gained(found)
    point = found.points[found.best]
    return f"{label(found, point)} is {_worth(point)}: it ships."


def _nothing_gained(found: Searched) -> str:
    """FP32, for what INT8 is like here."""
    groups = len(found.conditions.groups)
    int8 = next((point for point in found.points if len(point.choice.int8) == groups), None)
    if int8 is None:
        return "Nothing else was measured: FP32 ships."
    is_like = f"INT8 is {_worth(int8)}" if int8.fault is None else f"INT8 cannot be had here ({int8.fault})"
    mixes = any(0 < len(point.choice.int8) < groups for point in found.points)
    mix = "no mix" if _all_measured(found) else "no mix measured"
    none = f", and {mix} within {_points(found.budget.max_drop)} is faster" if mixes else ""
    return f"{is_like}{none}: FP32 ships."


def _out_of_reach(found: Searched) -> str:
    """Which budget is not met, by any graph or by none that was measured, and the nearest that keep to one of them."""
    limit = _limit(found.budget)
    if found.accurate is None:
        return f"Nothing keeps to {_points(found.budget.max_drop)} here: nothing ships."
    accurate = found.points[found.accurate]
    within = f"within {_points(found.budget.max_drop)} the fastest, {label(found, accurate)}, takes {_time(accurate)}"
    if found.fast is not None:
        fast = found.points[found.fast]
        neither = (
            "The two budgets cannot be met together here"
            if _all_measured(found)
            else f"None of the {len(found.points)} graphs measured meets both budgets here"
        )
        return f"{neither}: {within}; within {limit} the most accurate, {label(found, fast)}, is {_loss(fast)}."
    usable = (point for point in found.points if point.timing is not None and point.score is not None)
    fastest = min(usable, key=lambda point: point.ratio)
    also = "" if fastest == accurate else f"; {within}"
    missed = (
        f"The latency budget of {limit} cannot be met here"
        if _all_measured(found)
        else f"None of the {len(found.points)} graphs measured meets the latency budget of {limit} here"
    )
    return f"{missed}: the fastest, {label(found, fastest)}, takes {_time(fastest)} and is {_loss(fastest)}{also}."


def _all_measured(found: Searched) -> bool:
    """Whether every choice of groups was tried; beyond a handful of groups few are, and one may have been missed."""
    return len({point.choice.int8 for point in found.points}) == 1 << len(found.conditions.groups)


def _worth(point: Point) -> str:
    return f"{1 / point.ratio:.2f}x the speed of FP32 here and {_loss(point)}"


def _loss(point: Point) -> str:
    shown = f"{abs(point.drop):.2f}"
    if float(shown) == 0:
        return "as accurate"
    return f"{float(shown):g} points {'worse' if point.drop > 0 else 'better'}"


def _time(point: Point) -> str:
    return f"{point.timing.p50:.3g} ms ({point.ratio:.2f}x FP32's)" if point.timing else "no time"


def _points(drop: float) -> str:
    return f"{drop:g} points"


def _limit(budget: Budget) -> str:
    return f"{budget.max_latency:g} ms" if budget.max_latency is not None else f"{budget.max_ratio:g}x FP32's time"
