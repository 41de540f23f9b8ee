"""The table of a study from its results: for each row mean, deviation and n, held against plain, kd and the teacher.

What is missing, or was made by other settings, is named and not guessed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd2edge.report import figures
from kd2edge.report.spread import Spread, distance, gap_closed, spread
from kd2edge.report.study import Found, Line, Result, Summary
from kd2edge.schema import Overrides, Study, StudyRow


def summarize(name: str, study: Study, found: Found) -> Summary:
    """The table of a study from what there is of it."""
    lines = {row: _line(study, row, found) for row in study.rows}
    unit, better = _unit(study, found)
    teacher = _teacher(study, found)
    compared = [_compared(line, study, lines, teacher, better) for line in lines.values()]
    return Summary(
        study=name,
        about=study.about,
        metric=study.metric,
        unit=unit,
        target=Path(study.target).stem,
        against=study.against,
        seeds=study.seeds,
        lines=tuple(_marked(line, study, lines, better) for line in compared),
        teacher=teacher,
        conditions=tuple(_conditions(study, found)),
        trials=(found.trials, sum(len(row.trials) for row in study.rows.values())),
        missing=tuple(_missing(compared)),
        command=f"kd2edge study {name}",
    )


def _counted(found: Found) -> list[Result]:
    """All results that figures are made of."""
    return [result for results in found.results.values() for result in results if result.fault is None]


def _unit(study: Study, found: Found) -> tuple[str, str]:
    """The unit of the study's metric, and which way it is better."""
    numbers = [result.number("fp32", study.metric) for result in _counted(found)]
    number = next(filter(None, numbers), None)
    return (number.unit, number.better or "higher") if number else ("", "higher")


def _values(results: Sequence[Result], role: str, metric: str) -> list[float]:
    numbers = [result.number(role, metric) for result in results]
    return [number.value for number in numbers if number and number.value is not None]


def _figures(results: Sequence[Result], role: str, metric: str) -> dict[str, Any]:
    """What every line has: cost on paper, and the metric of the FP32 files."""
    return {
        "parameters": next(iter(_values(results, role, "parameters")), None),
        "macs": next(iter(_values(results, role, "macs")), None),
        "fp32": spread(_values(results, role, metric)),
        "done": tuple(result.seed for result in results),
    }


def _also(study: Study, results: Sequence[Result], role: str) -> dict[str, tuple[Spread | None, Spread | None]]:
    """The further metrics of a role and of the INT8 made of it, by the names that people read, units included."""
    found = {}
    for metric in study.also:
        units = {number.unit for result in results if (number := result.number(role, metric))}
        told = " ".join([figures.name(metric), *units])
        found[told] = (spread(_values(results, role, metric)), spread(_values(results, "int8", metric)))
    return found


def _line(study: Study, row: str, found: Found) -> Line:
    results, stale = found.results.get(row, ()), found.stale.get(row, ())
    whole = [result for result in results if result.fault is None]
    there = {*stale, *(result.seed for result in results)}
    return Line(
        row=row,
        about=study.rows[row].about,
        settings=found.settings.get(row, {}),
        p50=found.p50.get(row, {}),
        int8=spread(_values(whole, "int8", study.metric)),
        also=_also(study, whole, "fp32"),
        failed=tuple(result.seed for result in results if result.fault),
        stale=stale,
        missing=tuple(seed for seed in study.seeds if seed not in there),
        **_took(whole),
        **_figures(whole, "fp32", study.metric),
    )


def _took(results: Sequence[Result]) -> dict[str, float]:
    """Minutes of a seed's training and images a second, where that is known."""
    known = [result.training for result in results if result.training is not None]
    seconds = sum(training.seconds for training in known)
    if not seconds:
        return {}
    images = sum(training.images for training in known)
    return {"minutes": seconds / len(known) / 60, "images_per_second": images / seconds}


def _teacher(study: Study, found: Found) -> Line | None:
    if found.teacher is None:
        return None
    own = _figures([found.teacher], "teacher", study.metric)
    also = _also(study, [found.teacher], "teacher")
    return Line(row="teacher", about="the teacher", p50=found.p50.get("teacher", {}), also=also, **own)


def _compared(line: Line, study: Study, lines: Mapping[str, Line], teacher: Line | None, better: str) -> Line:
    """The line held against its baseline and the teacher, and against the study's row that trains the same student."""
    baseline, other = _baseline(study, line.row), study.against
    plain, reference, judged = lines[baseline].fp32, lines[other].fp32, _judged(study, line)
    changes: dict[str, Any] = {}
    if study.judged == "fp32" and judged and plain and teacher and teacher.fp32 and line.row != baseline:
        changes["gap_closed"] = gap_closed(judged.mean, plain.mean, teacher.fp32.mean, better)
    if judged and reference and baseline == _baseline(study, other) and (study.judged, line.row) != ("fp32", other):
        changes["over"] = distance(judged, reference)
    return line.model_copy(update=changes)


def _judged(study: Study, line: Line) -> Spread | None:
    return line.fp32 if study.judged == "fp32" else line.int8


def _baseline(study: Study, row: str) -> str:
    """The row that trains the row's student without a teacher; such a row is its own."""
    baselines = {each.baseline for each in study.rows.values()}
    return row if row in baselines else study.rows[row].baseline


def _marked(line: Line, study: Study, lines: Mapping[str, Line], better: str) -> Line:
    """The line, marked where no other row of the same student is better."""
    baseline = _baseline(study, line.row)
    same = [_judged(study, lines[name]) for name in study.rows if _baseline(study, name) == baseline]
    means = [each.mean for each in same if each]
    best, own = (max if better == "higher" else min)(means, default=None), _judged(study, line)
    return line.model_copy(update={"best": len(means) > 1 and own is not None and own.mean == best})


def _conditions(study: Study, found: Found) -> Iterator[str]:
    """How the numbers were come by, a sentence each."""
    results = _counted(found)
    if results:
        yield f"{_measured(results)}; {_trained(results)}."
        yield "Mean ± standard deviation over seeds; the teacher is one net."
        yield f"{_held(study)} Bold: the best of its student."
        yield from _machine(results)
    default = StudyRow.model_fields["baseline"].default
    for name in study.rows:
        if _baseline(study, name) not in (default, name) and study.judged == "fp32":
            yield f"The plain student of {name} is {_baseline(study, name)}."
    for name, row in study.rows.items():
        if row.target is not None:
            yield f"The INT8 of {name} is made for the target {row.target}."
    yield _searched(study)
    chosen = [f"{row}: {_told(settings)}" for row, settings in found.settings.items() if settings]
    if chosen:
        yield f"Chosen: {'; '.join(chosen)}."
    yield found.p50_conditions or "Latency has not been measured yet."


def _held(study: Study) -> str:
    """What the figures beside the metric mean."""
    if study.judged == "int8":
        return f"σ: pooled standard deviations of INT8 from {study.against} in FP32."
    return (
        f"Gap closed: (row - plain) / (teacher - plain); σ: pooled standard deviations from {study.against}; "
        "both of FP32."
    )


def _measured(results: Sequence[Result]) -> str:
    """On how many samples, and on what; from the first result, the processors and runtimes of all."""
    first = next(iter(results[0].rows))
    data = first.conditions.get("data", {})
    told = f"{data.get('images', 0):,} images of the split {data.get('split')}"
    if "genuine_pairs" in first.conditions:
        pairs = first.conditions
        told += f", {pairs['genuine_pairs']:,} genuine and {pairs['impostor_pairs']:,} impostor pairs"
    runtimes = sorted({f"onnxruntime {result.versions.get('onnxruntime')}" for result in results})
    return ", ".join([told, *_processors(results), *runtimes])


def _processors(results: Sequence[Result]) -> list[str]:
    return sorted({figures.processor(result.device) for result in results})


def _trained(results: Sequence[Result]) -> str:
    epochs = sorted({int(result.recipe["train"]["epochs"]) for result in results})
    return f"{' or '.join(map(str, epochs))} epoch{'s' * (epochs != [1])}"


def _machine(results: Sequence[Result]) -> Iterator[str]:
    """What the times of training are worth."""
    timed = [result for result in results if result.training is not None]
    known = [result.training for result in timed if result.training is not None]
    if known:
        kinds = len(_processors(timed))
        threads, loads = sorted({each.threads for each in known}), sorted(each.load for each in known)
        yield (
            f"Training of the student alone, all its stages, exports left out: {' or '.join(map(str, threads))} "
            f"thread{'s' * (threads != [1])}, load {loads[0]:.2f} to {loads[-1]:.2f} as it began"
            f"{f', on {kinds} kinds of processor' * (kinds > 1)}."
        )


def _searched(study: Study) -> str:
    if study.search is None:
        return "No search: the settings are those of the study's file."
    each = len(study.rows[study.against].trials)
    return (
        f"Each row had {each} trial{'s' * (each != 1)}, judged by the suite {study.search.suite} at seed "
        f"{study.search.seed} and chosen by {study.metric}; plain and kd as many as every other."
    )


def _told(settings: Overrides) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    """A value as YAML would have it on one line, without quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    return str(value)


def _missing(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        for word, seeds in (("missing", line.missing), ("stale", line.stale), ("failed", line.failed)):
            if seeds:
                yield f"{line.row}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} {word}"
