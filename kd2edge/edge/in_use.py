"""What surrounds the latency of a row: how it starts, the machine meanwhile, scenarios, other batches and threads.

Rows take turns here too: each scenario, and each cell of a sweep, is measured for all rows before the next.
Unlike a round of latency, what one row has of these is kept when an interruption came before the other rows' turn.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kd2edge import stats
from kd2edge.edge import measure, scenario_numbers, watch
from kd2edge.edge.scenarios import Ran
from kd2edge.edge.trial import Trial
from kd2edge.edge.worker import Answer
from kd2edge.report.model import Number
from kd2edge.schema import Latency, Scenario, Suite, Sweep

SHOWN = ("latency_p50", "throughput")


def measure_in_use(
    trials: Sequence[Trial], suite: Suite, confidence: float, cores: int, tell: Callable[[str], None]
) -> None:
    """Add to trials whose latency is summarized. What the file, the target or `cores` rule out is null, with a note.

    `tell` gets what is being done. A process that fails is its trial's fault, as ever.
    """
    for trial in trials:
        if not trial.faults:
            _surroundings(trial, suite.latency)
    for scenario in suite.scenarios:
        for trial in trials:
            tell(f"{trial.role}: {scenario.kind.replace('_', ' ')}")
            _ask(trial, scenario, confidence)
    for name, batch, threads in _cells(suite.sweep, suite.latency):
        for trial in trials:
            tell(f"{trial.role}: sweep, {threads} threads" if threads else f"{trial.role}: sweep, batches of {batch}")
            _cell(trial, suite, name, batch, threads, confidence, cores)


def _surroundings(trial: Trial, latency: Latency) -> None:
    """How long fresh processes took to their first answer, and what was watched while they measured."""
    answers = [cell.answer for cell in trial.timed]
    starts = [answer.start for answer in answers if answer.start is not None]
    taken = {
        "cold_start": [start.runtime_load + start.session_open + start.first_inference for start in starts],
        "session_open": [start.session_open for start in starts],
        "first_inference": [start.first_inference for start in starts],
    }
    for name, ms in taken.items():
        if ms:
            trial.numbers[name] = Number(value=stats.median(ms), unit="ms", n=len(ms), better="lower")
    watched = [answer.watched for answer in answers if answer.watched is not None]
    if watched:
        trial.conditions |= watch.conditions(watched)
        trace = watch.trace(watched)
        trial.traces |= {"clock": trace} if trace else {}
    if latency.energy:
        images = latency.batch * sum(len(ns) for ns in trial.rounds)
        trial.numbers["energy"] = watch.energy(watched, images)


def _ask(trial: Trial, scenario: Scenario, confidence: float) -> None:
    found = trial.sampled(scenario=scenario)
    if found is None:
        return
    ns, answer = found
    numbers, told = scenario_numbers.summary(scenario, Ran(ns, answer.scenario), confidence)
    trial.numbers |= numbers
    trial.conditions.setdefault("scenarios", {})[scenario.kind] = told | _seen(trial, answer)


def _seen(trial: Trial, answer: Answer) -> dict[str, bool | float]:
    """`steal` and `throttled` of one job, as far as they are told; a job that was throttled makes its row so."""
    seen = watch.conditions([answer.watched] if answer.watched else [])
    if seen.get("throttled"):
        trial.conditions["throttled"] = True
    return {name: seen[name] for name in ("steal", "throttled") if name in seen}


def _cells(sweep: Sweep | None, latency: Latency) -> Iterator[tuple[str, int, int | None]]:
    """Name, batch and, where it is not the target's, number of threads of each cell."""
    if sweep is not None:
        yield from ((f"b{batch}", batch, None) for batch in sweep.batches)
        yield from ((f"t{threads}", latency.batch, threads) for threads in sweep.threads)


def _cell(
    trial: Trial, suite: Suite, name: str, batch: int, threads: int | None, confidence: float, cores: int
) -> None:
    why_not = _ruled_out(trial, batch, threads, cores)
    if why_not:
        units = {"latency_p50": ("ms", "lower"), "throughput": ("img/s", "higher")}
        for shown, (unit, better) in units.items():
            trial.numbers[f"{shown}@{name}"] = Number.model_validate(
                {"value": None, "unit": unit, "better": better, "note": why_not}
            )
        return
    seconds = suite.sweep.seconds if suite.sweep else suite.latency.seconds
    brief = {"batch": batch, "seconds": seconds, "min_samples": measure.NEEDED[50], "energy": False}
    asked: dict[str, Any] = {"latency": suite.latency.model_copy(update=brief)}
    if threads:
        asked["target"] = trial.target.model_copy(update={"threads": threads})
    found = trial.sampled(**asked)
    if found is not None:
        numbers, told = measure.summary([found[0]], batch, confidence)
        trial.numbers |= {f"{shown}@{name}": numbers[shown] for shown in SHOWN}
        cell = {"warmup": found[1].warmup, "unstable": told["unstable"], "seconds": seconds}
        trial.conditions.setdefault("sweep", {})[name] = cell | _seen(trial, found[1])


def _ruled_out(trial: Trial, batch: int, threads: int | None, cores: int) -> str | None:
    fixed = trial.timed[0].answer.fixed_batch if trial.timed else None
    profile = trial.target.batch
    if not profile.min <= batch <= profile.max:
        return f"the target takes batches of {profile.min} to {profile.max}"
    if fixed and fixed != batch:
        return f"the file takes batches of {fixed}"
    if threads and threads > cores:
        return f"this machine has {cores} cores for it"
    return None
