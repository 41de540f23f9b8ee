"""A verdict as Markdown, for a pull request: the answer first, then the rules, the numbers, and what changed."""

import re
from collections.abc import Iterable, Iterator

from kd2edge.report import figures
from kd2edge.report.model import Report, Row, Verdict

SPECIAL = re.compile(r"([\\`*_{}\[\]|~#])")
ALWAYS = ("latency_p50", "size")


def markdown(report: Report, verdict: Verdict) -> str:
    """GitHub's and GitLab's flavour; whatever a name or a note holds is text, never markup."""
    return "\n".join(
        [*_answer(report, verdict), *_rules(verdict), *_numbers(report), *_changed(verdict), *_foot(report)]
    )


def _answer(report: Report, verdict: Verdict) -> Iterator[str]:
    mark, word = figures.MARKS[verdict.verdict], verdict.verdict.upper()
    yield f"## {mark} {word}: {_plain(report.suite_name)} on {_plain(report.target)}"
    yield ""
    if verdict.because:
        yield f"{_plain(verdict.because)}."
        yield ""


def _rules(verdict: Verdict) -> Iterator[str]:
    if not verdict.findings:
        return
    yield from _head("", "rule", "found")
    for finding in verdict.findings:
        rule = f"{_plain(figures.bound(finding.rule))}<br>{_plain(finding.rule.why)}"
        yield f"| {figures.MARKS[finding.says]} {finding.says} | {rule} | {_plain(finding.reason)} |"
    yield ""
    if verdict.errors:
        yield _plain(verdict.errors)
        yield ""


def _numbers(report: Report) -> Iterator[str]:
    """Each row's values in the metrics that rules name, and its speed and size."""
    asked = {rule.metric for rule in report.suite.rules} | {*ALWAYS}
    metrics = [metric for metric in figures.metrics(report.rows) if metric in asked]
    heads = (f"{figures.name(metric)} {figures.unit(report, metric)}".rstrip() for metric in metrics)
    yield from _head("", *map(_plain, heads))
    for row in report.rows:
        cells = (f"{figures.value(row.numbers.get(metric))}{_spread(row, metric)}" for metric in metrics)
        yield f"| {' | '.join([_plain(row.role), *cells])} |"
    yield ""
    for row in report.rows:
        yield from (f"- ✗ {_plain(row.role)}: {_plain(fault)}" for fault in row.faults)
    if any(row.faults for row in report.rows):
        yield ""


def _spread(row: Row, metric: str) -> str:
    interval = figures.interval(row.numbers.get(metric))
    return f"<br>{interval}" if interval else ""


def _changed(verdict: Verdict) -> Iterator[str]:
    if verdict.differences:
        yield "Since the baseline:"
        yield ""
        yield from (f"- {_plain(line)}" for line in verdict.differences)
        yield ""


def _foot(report: Report) -> Iterator[str]:
    device = report.device.get("board") or report.device.get("cpu") or "an unknown device"
    yield f"Measured {_plain(report.created)} on {_plain(str(device))}; intervals of {figures.confidence(report)}."
    yield ""


def _head(*columns: str) -> Iterable[str]:
    return f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"


def _plain(text: str) -> str:
    """Text on one line without markup."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
