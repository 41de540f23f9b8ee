"""What the latencies of a scenario come to: LoadGen's metrics, each with what it may claim.

A run shorter than MLPerf's 600 s, and not submitted to it, is no MLPerf result; that stands beside every number.
"""

from typing import Any

import numpy as np

from kd2edge import stats
from kd2edge.edge.measure import MEASURING_AT_MOST, Nanoseconds
from kd2edge.edge.scenarios import LEAST, Ran, may_be_over
from kd2edge.report.model import Number
from kd2edge.schema import Scenario, Server

MLPERF_SECONDS = 600
PERCENTILES = {"single_stream": 90, "multi_stream": 99}
STRETCHES = 20
Numbers = dict[str, Number]


def summary(scenario: Scenario, ran: Ran, confidence: float = 0.95) -> tuple[Numbers, dict[str, Any]]:
    """The numbers of a scenario, with intervals of that confidence, and the conditions they were measured under.

    * `single_stream_p90`, `multi_stream_p99`: ms a query. The nearest rank, and its interval by order statistics;
      LoadGen's own estimate, which is higher, is the condition `early_stopping_ms`.
    * `server_qps`: queries a second at which the bound was met, which is its `low` too; `high` is the lowest rate at
      which it was not, or what back-to-back queries reach. `server_p99`: ms at that rate.
    * `offline_throughput`: samples a second, its interval by the bootstrap over stretches of time.

    A number is null, with a note, where there were too few queries, or the file or the target takes none such.
    """
    numbers, more = _numbers(scenario, ran, confidence)
    busy = float(ran.ns.sum()) / 1e9
    claim = f"after MLPerf's {scenario.kind.replace('_', '-')} scenario, no MLPerf result: that asks for a submission"
    if scenario.seconds < MLPERF_SECONDS:
        claim += f" and {MLPERF_SECONDS} s, this run for {scenario.seconds:g} s"
    return numbers, {"claim": claim, "queries": len(ran.ns), "busy_s": busy, **ran.told, **more}


def _numbers(scenario: Scenario, ran: Ran, confidence: float) -> tuple[Numbers, dict[str, Any]]:
    if isinstance(scenario, Server):
        return _server(scenario, ran, confidence), {}
    if scenario.kind == "offline":
        return {"offline_throughput": _throughput(ran, confidence)}, {}
    q = PERCENTILES[scenario.kind]
    estimate = stats.early_stopping_estimate(ran.ns / 1e6, q) if len(ran.ns) else None
    number = _percentile(ran, q, LEAST[scenario.kind])
    if number.usable:
        low, high = stats.percentile_interval(ran.ns / 1e6, q, confidence) or (None, None)
        number = number.model_copy(update={"low": low, "high": high})
    return {f"{scenario.kind}_p{q}": number}, {"early_stopping_ms": estimate}


def _percentile(ran: Ran, q: int, least: int) -> Number:
    n = len(ran.ns)
    if n < least:
        note = ran.told.get("note") or f"a p{q} needs {least} queries, there are {n}"
        return Number(value=None, unit="ms", n=n, better="lower", note=note)
    return Number(value=stats.percentile(ran.ns / 1e6, q), unit="ms", n=n, better="lower")


def _throughput(ran: Ran, confidence: float) -> Number:
    n = len(ran.ns)
    if not n:
        return Number(value=None, unit="img/s", n=0, better="higher", note=ran.told.get("note"))
    size = int(ran.told["samples_per_query"])
    value = 1e9 * size * n / float(ran.ns.sum())
    number = Number(value=value, unit="img/s", n=n * size, better="higher")
    return _between(number, _resampled(ran.ns, size), confidence) if n >= STRETCHES else number


def _resampled(ns: Nanoseconds, size: int) -> stats.Bootstrap:
    stretches = stats.in_stretches(ns / 1e9, STRETCHES)
    samples, seconds = np.array([size * len(part) for part in stretches]), np.array([part.sum() for part in stretches])
    return stats.bootstrap(lambda weights: (weights @ samples) / (weights @ seconds), len(stretches))


def _server(scenario: Server, ran: Ran, confidence: float) -> Numbers:
    tries = ran.told.get("tries", [])
    missed = [t["rate"] for t in tries if not t["met"]]
    met = [t["rate"] for t in tries if t["met"]]
    if not met:
        qps = Number(value=None, unit="queries/s", better="higher", note=_never(scenario, ran, tries))
    else:
        high = min(missed, default=max(ran.told["capacity"], *met))
        ends = {"low": max(met), "high": max(high, *met)}
        fate = "missed it" if missed else "is all it can"
        how = f"kept the bound of {scenario.bound_ms:g} ms; {_rate(high)} queries/s {fate}"
        qps = Number(value=max(met), unit="queries/s", n=len(ran.ns), better="higher", note=how, **ends)
    return {"server_qps": qps, "server_p99": _tail(ran, qps, confidence)}


def _never(scenario: Server, ran: Ran, tries: list[dict[str, Any]]) -> str:
    """Why no rate met the bound."""
    if "note" in ran.told:
        return str(ran.told["note"])
    longest = MEASURING_AT_MOST * scenario.seconds
    if not tries:
        return f"{_rate(ran.told['capacity'])} queries/s at most: {longest:g} s bring too few of them for a p99"
    least = min(tries, key=lambda t: float(t["rate"]))
    if may_be_over(least["asked"]) < 0:
        return f"at {_rate(least['rate'])} queries/s {least['asked']} come in {longest:g} s, too few for a p99"
    return (
        f"even {_rate(least['rate'])} queries/s break the bound of {scenario.bound_ms:g} ms: "
        f"{least['over']:,} of the {least['answered']:,} answered by its end took longer"
    )


def _tail(ran: Ran, qps: Number, confidence: float) -> Number:
    """The p99 at the rate shown. In a queue latencies go together: stretches of time are resampled, not queries."""
    n, asked = len(ran.ns), ran.told.get("asked", 0)
    if not asked:
        return Number(value=None, unit="ms", n=0, better="lower", note=qps.note)
    if n < asked:
        note = f"at {_rate(ran.told['rate'])} queries/s {asked - n:,} of {asked:,} were not answered in time"
        return Number(value=None, unit="ms", n=n, better="lower", note=note)
    number = _percentile(ran, 99, LEAST["server"])
    if not number.usable:
        return number
    parts = stats.in_stretches(ran.ns / 1e6, STRETCHES)
    drawn = stats.percentile_ratio(parts, [[1.0]] * len(parts), 99)  # over one millisecond
    return _between(number, drawn, confidence)


def _rate(queries: float) -> str:
    return f"{queries:,.0f}" if queries >= 100 else f"{queries:.3g}"


def _between(number: Number, drawn: stats.Bootstrap, confidence: float) -> Number:
    """The number with the interval of its resamples, widened to hold it should they lie to one side."""
    ends = drawn.interval(confidence)
    if ends is None or number.value is None:
        return number
    return number.model_copy(update={"low": min(ends[0], number.value), "high": max(ends[1], number.value)})
