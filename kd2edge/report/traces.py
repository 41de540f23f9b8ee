"""The series of a row as they are drawn: what each must hold. One that does not hold it is left out, never guessed."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from kd2edge.report.model import Row

T = TypeVar("T")
MOST = 10**12  # beyond which no clock, latency or count lies, and axes overflow
Real = Annotated[float, Field(allow_inf_nan=False, ge=-MOST, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Series = tuple[Real, ...]
Positive = tuple[Annotated[Real, Field(ge=0)], ...]
Shares = tuple[Annotated[float, Field(ge=0, le=1)], ...]
Counts = tuple[Count, ...]


class Trace(BaseModel):
    """Columns of equal length; keys that nobody draws are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="after")
    def _equally_long(self) -> "Trace":
        columns = [value for _, value in self if value is not None]
        if not columns[0] or len({len(column) for column in columns}) > 1:
            raise ValueError("the columns of a trace are equally long, and not empty")
        return self


class Clock(Trace):
    """Core clock in MHz and temperature in °C over the seconds since the row's measurement began."""

    seconds: Series
    mhz: Positive | None = None
    celsius: Series | None = None


class Roc(Trace):
    """True accept rate over false accept rate, both 0..1."""

    far: Shares
    tar: Shares


class Confusion(Trace):
    """How often the class of a row of `counts` was taken for that of a column."""

    classes: tuple[str, ...]
    counts: tuple[Counts, ...]

    @model_validator(mode="after")
    def _square(self) -> "Confusion":
        if any(len(line) != len(self.classes) for line in self.counts):
            raise ValueError("a confusion matrix is square")
        return self


class Classes(Trace):
    """Recall in % of each class, and on how many images."""

    classes: tuple[str, ...]
    n: Counts
    recall: tuple[Annotated[float, Field(ge=0, le=100)], ...]


class Reliability(Trace):
    """Mean confidence and accuracy, both 0..1, of bins by confidence, and the images in each."""

    confidence: Shares
    accuracy: Shares
    n: Counts


LATENCY = TypeAdapter(Annotated[Positive, Field(min_length=101, max_length=101)])
CLOCK, ROC, CONFUSION = TypeAdapter(Clock), TypeAdapter(Roc), TypeAdapter(Confusion)
CLASSES, RELIABILITY = TypeAdapter(Classes), TypeAdapter(Reliability)
CONFUSED = TypeAdapter(Annotated[tuple[tuple[str, str, Count], ...], Field(min_length=1)])


def trace(row: Row, name: str, kind: "TypeAdapter[T]") -> T | None:
    """The series `name` of a row; None where it has none, or not one of that kind."""
    found: Any = row.traces.get(name)
    try:
        return kind.validate_python(found)
    except ValidationError:
        return None
