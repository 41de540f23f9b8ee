"""Which groups of layers to run in INT8, so that a graph is the fastest within an accuracy and a latency budget.

Greedy with revert, from all that may be INT8: return to float the group that wins most accuracy for the time it costs,
keep the return if it helped, and go on until the accuracy budget is met; then change any one group that makes the graph
faster within it, and a few at once where that is not fast enough. Every step is measured, for neither errors nor times
of groups add up. A handful of groups is searched whole; of more, a graph within both budgets may be missed. The
functions only ask `measure`, so that a journal of its answers resumes them anywhere to the same end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from kd2edge.schema.search import Budget, Choice, Point, Rest

WHOLE = 5  # groups: 32 points, no more than the greedy way asks of a dozen groups
UNTOLD = 0.005  # of FP32's latency: costs below it cannot be told apart, and count as this much
TOGETHER = (2, 3)  # groups changed at once where single changes do not reach a budget
EXCHANGES = 2  # such changes measured at most, for each group

Measure = Callable[[Choice], Point]


@dataclass(frozen=True)
class Decision:
    """Positions in the list of measured points; see `kd2edge.schema.search.Searched`."""

    best: int | None
    accurate: int | None
    fast: int | None
    front: tuple[int, ...]


def search(groups: Sequence[str], measure: Measure, budget: Budget, fp16: bool = False) -> list[Point]:
    """All points that the way to the answer measured, each once: FP32 first, then FP16 if wanted, then INT8.

    `groups` are names in the graph's order. What is not INT8 is FP16 where that is faster than FP32 within the budget.
    """
    tried = _Tried(groups, measure)
    tried(Choice())
    rest: Rest = "fp32"
    if fp16:
        half = tried(Choice(rest="fp16"))
        rest = "fp16" if budget.accurate(half) and half.ratio < 1 else "fp32"
    if len(groups) <= WHOLE:
        for size in range(len(groups), -1, -1):
            for chosen in combinations(groups, size):
                tried(Choice(int8=chosen, rest=rest))
    else:
        _return_until_accurate(tried, Choice(int8=tuple(groups), rest=rest), budget)
        _faster(tried, budget)
        _exchange(tried, budget)
    return tried.points


def decide(points: Sequence[Point], budget: Budget) -> Decision:
    """The answer among measured points, FP32 the first of them.

    FP32 is the best, too, where it keeps to the budgets and no other is faster beyond the interval of measurement.
    """
    usable = [index for index, point in enumerate(points) if point.ratio < float("inf")]
    faster = [i for i in usable if budget.met(points[i]) and _surely_faster(points[i])]
    within = [0] if 0 in usable and budget.met(points[0]) else [i for i in usable if budget.met(points[i])]
    return Decision(
        best=min(faster or within, key=lambda i: (points[i].ratio, points[i].drop), default=None),
        accurate=min((i for i in usable if budget.accurate(points[i])), key=lambda i: points[i].ratio, default=None),
        fast=min((i for i in usable if budget.fast(points[i])), key=lambda i: points[i].drop, default=None),
        front=tuple(_front(points, usable)),
    )


def _surely_faster(point: Point) -> bool:
    return point.timing is not None and point.timing.ratio_high < 1


def _front(points: Sequence[Point], usable: list[int]) -> Iterator[int]:
    """The positions of the points that no other beats in both, the fastest first."""
    least = float("inf")
    for index in sorted(usable, key=lambda i: (points[i].ratio, points[i].drop)):
        if points[index].drop < least:
            least = points[index].drop
            yield index


class _Tried:
    """Measures each choice once, and remembers the order."""

    def __init__(self, groups: Sequence[str], measure: Measure) -> None:
        self.groups = tuple(groups)
        self._measure = measure
        self._found: dict[Choice, Point] = {}

    def __call__(self, choice: Choice) -> Point:
        if choice not in self._found:
            self._found[choice] = self._measure(choice)
        return self._found[choice]

    @property
    def points(self) -> list[Point]:
        return list(self._found.values())

    def __contains__(self, choice: Choice) -> bool:
        return choice in self._found

    def changed(self, choice: Choice, *groups: str) -> Choice:
        """The same choice but for some groups."""
        chosen = {*choice.int8} ^ {*groups}
        return Choice(int8=tuple(name for name in self.groups if name in chosen), rest=choice.rest)


def _return_until_accurate(tried: _Tried, current: Choice, budget: Budget) -> None:
    """Return groups to float until the accuracy budget is met, as it is at the latest when none is left."""
    if budget.accurate(tried(current)):
        return
    order = sorted(tried.groups, key=lambda group: _worth(tried, current, group), reverse=True)
    while current.int8 and not budget.accurate(tried(current)):
        returns = [tried.changed(current, group) for group in order if group in current.int8]
        # Where no return helps, the first is kept all the same: two may help only together.
        current = next((choice for choice in returns if _harm(tried(choice)) < _harm(tried(current))), returns[0])


def _worth(tried: _Tried, current: Choice, group: str) -> float:
    """Points that a group's return to float wins, for each share of FP32's latency that it costs."""
    before, after = tried(current), tried(tried.changed(current, group))
    if after.ratio == float("inf"):
        return -float("inf")
    if before.ratio == float("inf"):
        return float("inf")
    return (before.drop - after.drop) / max(after.ratio - before.ratio, UNTOLD)


def _harm(point: Point) -> tuple[float, float]:
    """What tells two points of one metric apart is how far their outputs lie from FP32's."""
    return point.drop, 1 - point.score.cosine if point.score is not None else 1.0


def _faster(tried: _Tried, budget: Budget) -> None:
    """Change one group of the fastest graph within the accuracy budget, to INT8 or to float, until that gains nothing.

    To float as well, since INT8 slows some layers down. It ends, for the latency falls each time.
    """
    seen: Choice | None = None
    while (current := _fastest(tried, budget)) != seen:
        seen = current
        enough = tried(current).ratio - UNTOLD
        for group in sorted(tried.groups, key=lambda name: name in current.int8):
            changed = tried(tried.changed(current, group))
            if budget.accurate(changed) and changed.ratio < enough:
                break  # it is now the fastest, or nearly, and the rest can wait


def _exchange(tried: _Tried, budget: Budget) -> None:
    """Where no one change helps, and no graph keeps to both budgets, change a few groups at once, the likeliest first.

    Costs at most `EXCHANGES` measurements for each group, and single changes of what they find.
    """
    left = EXCHANGES * len(tried.groups)
    seen: Choice | None = None
    while (current := _fastest(tried, budget)) != seen and not any(map(budget.met, tried.points)):
        seen = current
        for choice in _likely(tried, current, budget)[:left]:
            left -= 1
            found = tried(choice)
            if budget.accurate(found) and found.ratio < tried(current).ratio:
                _faster(tried, budget)
                break


def _likely(tried: _Tried, current: Choice, budget: Budget) -> list[Choice]:
    """Changes of two or three groups that should be faster, the least over the accuracy budget first.

    Should: if what each of these groups changes alone, which is measured, added up.
    """
    here = tried(current)
    alone = {group: tried(tried.changed(current, group)) for group in tried.groups}
    ranked = []
    for groups in (groups for size in TOGETHER for groups in combinations(tried.groups, size)):
        drop = here.drop + sum(alone[group].drop - here.drop for group in groups)
        ratio = here.ratio + sum(alone[group].ratio - here.ratio for group in groups)
        if ratio < here.ratio:
            ranked.append((max(0.0, drop - budget.max_drop), ratio, groups))
    choices = [tried.changed(current, *groups) for _, _, groups in sorted(ranked)]
    return [choice for choice in choices if choice not in tried]


def _fastest(tried: _Tried, budget: Budget) -> Choice:
    return min((point for point in tried.points if budget.accurate(point)), key=lambda point: point.ratio).choice
