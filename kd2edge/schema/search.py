"""What a search for mixed precision asks, measures and answers, as documents that a journal and a report hold."""

from typing import Literal

from pydantic import Field, model_validator

from kd2edge.schema.section import Section

Rest = Literal["fp32", "fp16"]


class Choice(Section):
    """Which groups are INT8, by name in the graph's order, and the precision of everything else."""

    int8: tuple[str, ...] = ()
    rest: Rest = "fp32"


class Score(Section):
    """Accuracy of a choice on `images` images: the task's metric in %, and its `drop` below FP32 in points.

    `low`..`high` is the drop's paired 95 % interval. `cosine` is the mean over images of the cosine to FP32's outputs;
    `agreement`, of classifiers only, the share of equal predictions in %.
    """

    value: float
    drop: float
    low: float
    high: float
    cosine: float
    agreement: float | None = None
    images: int


class Timing(Section):
    """Latency of a choice: the median ms of `n` calls, and `ratio`, its median over FP32's in turns of one process.

    `low`..`high` and `ratio_low`..`ratio_high` are 95 % intervals; where there are too few samples, the extremes.
    """

    p50: float = Field(gt=0)
    low: float
    high: float
    n: int
    ratio: float = Field(gt=0)
    ratio_low: float
    ratio_high: float


class Point(Section):
    """A choice and what was measured of it; a `fault` is why it cannot be had."""

    choice: Choice
    score: Score | None = None
    timing: Timing | None = None
    fault: str | None = None

    @property
    def drop(self) -> float:
        """Points below FP32; infinite for what cannot be had."""
        return self.score.drop if self.score is not None and self.timing is not None else float("inf")

    @property
    def ratio(self) -> float:
        """Latency over FP32's; infinite for what cannot be had."""
        return self.timing.ratio if self.score is not None and self.timing is not None else float("inf")


class Budget(Section):
    """What a graph may lose in points of the task's metric, and take: in ms, or as a share of FP32's latency."""

    max_drop: float = Field(ge=0)
    max_latency: float | None = Field(None, gt=0)
    max_ratio: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_of_latency(self) -> "Budget":
        if self.max_latency is not None and self.max_ratio is not None:
            raise ValueError("a latency budget is in ms or as a ratio, not both")
        return self

    def accurate(self, point: Point) -> bool:
        """Whether a point loses no more than allowed."""
        return point.drop <= self.max_drop

    def fast(self, point: Point) -> bool:
        """Whether a point takes no longer than allowed."""
        if point.timing is None:
            return False
        in_ms = self.max_latency is None or point.timing.p50 <= self.max_latency
        return in_ms and (self.max_ratio is None or point.timing.ratio <= self.max_ratio)

    def met(self, point: Point) -> bool:
        """Whether a point keeps to both budgets."""
        return self.accurate(point) and self.fast(point)


class Conditions(Section):
    """Under which every number of a sensitivity report or a search was taken; `quantize` as in a recipe."""

    model: str
    sha256: str
    target: str
    metric: str
    images: str
    quantize: dict[str, object]
    groups: dict[str, tuple[str, ...]]
    kept: dict[str, str]
    device: dict[str, object]
    versions: dict[str, str]


class Searched(Section):
    """The answer of a search: every point measured, FP32 first; the others are positions in `points`.

    `best` keeps to both budgets, and is null where none does. `accurate` is the fastest within the accuracy budget,
    `fast` the most accurate within that of latency. `front` are the points that no other beats in both.
    """

    searched: Literal[1] = 1
    conditions: Conditions
    budget: Budget
    points: tuple[Point, ...]
    front: tuple[int, ...]
    best: int | None
    accurate: int | None
    fast: int | None
    answer: str
    file: str | None = None


class Harm(Section):
    """What INT8 in one group costs: `alone` it is the only one, in `without` all but it are; `kept` says why it is not.

    A group that the policy keeps in float is quantized for `alone` nevertheless; it has no `without`.
    """

    group: str
    layers: tuple[str, ...]
    macs: float
    alone: Score
    without: Score | None = None
    kept: str | None = None


class Sensitivity(Section):
    """The groups by the harm that INT8 does them, the most harmful first, beside `whole`: the policy's own INT8."""

    sensitivity: Literal[1] = 1
    conditions: Conditions
    whole: Score
    harms: tuple[Harm, ...]
    answer: str
