"""Scenarios: how a model is asked in use, after MLPerf LoadGen (arXiv 1911.02549); sweeps over batches and threads.

Metrics and percentiles are LoadGen's. It asks for 600 seconds, which a suite may shorten: the report then says so.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from kd2edge.schema.section import Section


class _Asked(Section):
    """What all scenarios have: `seconds` is how long queries are asked at least, after a warm-up."""

    seconds: float = Field(10.0, gt=0)
    warmup_ms: float = Field(200.0, ge=0)


class SingleStream(_Asked):
    """A sample, and the next when it is answered: the 90th percentile of the latencies."""

    kind: Literal["single_stream"]


class MultiStream(_Asked):
    """`samples` together, and the next when all are answered: the 99th percentile of the latencies of such queries."""

    kind: Literal["multi_stream"]
    samples: int = Field(8, ge=1)


class Server(_Asked):
    """Single samples that come as a Poisson process: the most a second at which the p99 keeps `bound_ms`.

    A stated `rate`, in queries/s, is tried alone; without one the highest is searched by so many `tries`, each of
    which lasts `seconds`.
    """

    kind: Literal["server"]
    bound_ms: float = Field(gt=0)
    rate: float | None = Field(None, gt=0)
    tries: int = Field(6, ge=1)
    seed: int = Field(0, ge=0)


class Offline(_Asked):
    """All samples are there at once and go in batches of the largest size: samples a second."""

    kind: Literal["offline"]


Scenario: TypeAlias = Annotated[SingleStream | MultiStream | Server | Offline, Field(discriminator="kind")]


def _each_once(scenarios: tuple[Scenario, ...]) -> tuple[Scenario, ...]:
    kinds = [scenario.kind for scenario in scenarios]
    if len(set(kinds)) < len(kinds):
        raise ValueError("a suite has each kind of scenario once, since its numbers are named after it")
    return scenarios


Scenarios: TypeAlias = Annotated[tuple[Scenario, ...], AfterValidator(_each_once)]


class Sweep(Section):
    """Latency and throughput again at other batches and other numbers of threads, one brief process each.

    Where engines are built, those of other batches are of that batch alone. `streams` are batches under way at once, on
    a device that works on several: of these there is the throughput.
    """

    batches: tuple[Annotated[int, Field(ge=1)], ...] = ()
    threads: tuple[Annotated[int, Field(ge=1)], ...] = ()
    streams: tuple[Annotated[int, Field(ge=1)], ...] = ()
    seconds: float = Field(2.0, gt=0)
