"""What surrounds the latency of a row: its start, the machine meanwhile, scenarios, other batches, threads and streams.

Rows take turns here too: each scenario, and each cell of a sweep, is measured for all rows before the next.
Unlike a round of latency, what one row has of these is kept when an interruption came before the other rows' turn.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kd2edge import stats
from kd2edge.edge import measure, scenario_numbers, second_opinion, staged, watch
from kd2edge.edge.jobs import STAGES
from kd2edge.edge.kept import is_full
from kd2edge.edge.scenarios import Ran
from kd2edge.edge.trial import Trial
from kd2edge.edge.worker import Answer
from kd2edge.errors import UserError
from kd2edge.report.model import Number
from kd2edge.schema import Latency, Scenario, Suite, Sweep

UNITS = {"latency_p50": ("ms", "lower"), "throughput": ("img/s", "higher")}
SHOWN = tuple(UNITS)


def measure_in_use(
    trials: Sequence[Trial], suite: Suite, confidence: float, cores: int, tell: Callable[[str], None]
) -> None:
    """Add to trials whose latency is summarized. What the file, the target or `cores` rule out is null, with a note.

    `tell` gets what is being done. A process that fails is its trial's fault, as ever.
    """
    for trial in trials:
        if not trial.faults:
            _surroundings(trial, suite.latency)
            second_opinion.ask(trial, suite.latency.batch)
    for scenario in suite.scenarios:
        for trial in trials:
            tell(f"{trial.role}: {scenario.kind.replace('_', ' ')}")
            _ask(trial, scenario, confidence)
    for name, batch, threads in _cells(suite.sweep, suite.latency):
        for trial in trials:
            tell(f"{trial.role}: sweep, {threads} threads" if threads else f"{trial.role}: sweep, batches of {batch}")
            _cell(trial, suite, name, batch, threads, confidence, cores)
    for streams in suite.sweep.streams if suite.sweep else ():
        for trial in trials:
            tell(f"{trial.role}: sweep, {streams} streams")
            _flooded(trial, suite, streams, confidence)


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
        stages = [answer.watched_stages for answer in answers if answer.watched_stages is not None]
        trial.conditions |= watch.conditions([*watched, *stages])
        trace = watch.trace(watched)
        trial.traces |= {"clock": trace} if trace else {}
    if latency.energy:
        images = latency.batch * sum(len(ns) for ns in trial.rounds)
        trial.numbers["energy"] = watch.energy(watched, images)


def _ask(trial: Trial, scenario: Scenario, confidence: float) -> None:
    found = trial.sampled(scenario=scenario)
    if found is None:
        return
    ns, answer, _ = found
    numbers, told = scenario_numbers.summary(scenario, Ran(ns, answer.scenario), confidence)
    trial.numbers |= numbers
    trial.conditions.setdefault("scenarios", {})[scenario.kind] = told | _seen(trial, answer)


def _seen(trial: Trial, answer: Answer) -> dict[str, bool | float]:
    """`steal` and `throttled` of one job, as far as they are told; a job that was throttled makes its row so."""
    seen = watch.conditions([one for one in (answer.watched, answer.watched_stages) if one is not None])
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
    try:
        jobs = trial.of_batch(batch) if threads is None and not why_not else None
    except UserError as error:
        if is_full(error):
            raise
        why_not = error.message
    if why_not:
        _leave_out(trial, name, SHOWN, why_not)
        return
    brief = _brief(suite, batch)
    asked: dict[str, Any] = {"latency": brief, "stages": STAGES}
    if threads:
        asked["target"] = trial.jobs.target.model_copy(update={"threads": threads})
    found = trial.sampled(jobs, **asked)
    if found is None:
        return
    numbers, told = measure.summary([found.ns], batch, confidence)
    shown = {metric: numbers[metric] for metric in SHOWN}
    cell = {"warmup": found.answer.warmup, "unstable": told["unstable"], "seconds": brief.seconds}
    if found.stages:
        numbers, told = staged.summary(found.stages, batch, trial.target.cuda_graph, found.answer.no_graph, confidence)
        shown["gpu_compute_p50"] = numbers["gpu_compute_p50"]
        cell |= told | {"profile": "static" if jobs else "the file's own"}
    trial.numbers |= {f"{metric}@{name}": number for metric, number in shown.items()}
    trial.conditions.setdefault("sweep", {})[name] = cell | _seen(trial, found.answer)


def _flooded(trial: Trial, suite: Suite, streams: int, confidence: float) -> None:
    """Throughput with several batches under way; null where the runtime or the device takes no more."""
    name, batch = f"s{streams}", suite.latency.batch
    if trial.timed and not trial.timed[0].answer.on_device:
        _leave_out(trial, name, ("throughput",), f"{trial.timed[0].answer.provider} works on one batch at a time")
        return
    brief = _brief(suite, batch)
    found = trial.sampled(latency=brief, streams=streams)
    if found is None:
        return
    if found.answer.note:
        _leave_out(trial, name, ("throughput",), found.answer.note)
        return
    numbers, told = measure.summary([found.ns], batch, confidence)
    trial.numbers[f"throughput@{name}"] = numbers["throughput"]
    cell = {"streams": streams, "unstable": told["unstable"], "seconds": brief.seconds}
    trial.conditions.setdefault("sweep", {})[name] = cell | _seen(trial, found.answer)


def _brief(suite: Suite, batch: int) -> Latency:
    seconds = suite.sweep.seconds if suite.sweep else suite.latency.seconds
    brief = {"batch": batch, "seconds": seconds, "min_samples": measure.NEEDED[50], "energy": False}
    return suite.latency.model_copy(update=brief)


def _leave_out(trial: Trial, name: str, metrics: Sequence[str], why: str) -> None:
    for metric in metrics:
        unit, better = UNITS[metric]
        trial.numbers[f"{metric}@{name}"] = Number.model_validate(
            {"value": None, "unit": unit, "better": better, "note": why}
        )


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
