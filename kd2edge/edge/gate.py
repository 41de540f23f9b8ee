"""The gate: rules × report → verdict. It fails closed: what is missing, not finite, faulty or elsewhere means hold.

A rule that compares is judged by the two values, since both rows saw the same images and their errors go together;
an absolute rule that the value meets but its 95 % interval does not is undecided: too few samples to tell.
"""

import math
from collections.abc import Sequence

from kd2edge.edge import devices
from kd2edge.report.model import Finding, Number, Report, Row, Verdict
from kd2edge.schema import Rule

BASELINE = "baseline"
CANDIDATES = ("int8", "fp16", "fp32")
ROUNDING = 1e-9


class Unfit(Exception):
    """Why a rule cannot be judged on these numbers: it holds, with this reason."""


def judge(report: Report, baseline: Report | None = None) -> Verdict:
    """Ship only if every rule that decides says ship; one hold holds.

    `versus: baseline` compares with the same role of `baseline`, which must come from the same target and images, and
    for latency and throughput from the same device by the same protocol. Advice never decides: `recommend` names the
    fastest of fp32, fp16 and int8 that passes its own rules, if any does.
    """
    findings = tuple(_finding(rule, report, baseline) for rule in report.suite.rules)
    deciding = {finding.says for finding in findings if finding.says != "advice"}
    if not deciding:
        return Verdict(verdict="hold", findings=findings, because=f"suite {report.suite_name} has no rules that decide")
    recommend, because = _recommend(report, findings)
    for answer in ("hold", "undecided"):
        if answer in deciding:
            return Verdict(verdict=answer, findings=findings, recommend=recommend, because=because)
    return Verdict(verdict="ship", findings=findings, recommend=recommend, because=because)


def _finding(rule: Rule, report: Report, baseline: Report | None) -> Finding:
    try:
        finding = _absolute(rule, report) if rule.versus is None else _relative(rule, report, baseline)
    except Unfit as unfit:
        finding = Finding(rule=rule, says="hold", reason=f"{unfit}")
    return finding.model_copy(update={"says": "advice"}) if rule.advice else finding


def _absolute(rule: Rule, report: Report) -> Finding:
    number, value = _number(_row(report, rule.of), rule.metric)
    floor = rule.at_least is not None
    bound = _bound(rule)
    meets = value >= bound - ROUNDING if floor else value <= bound + ROUNDING
    sure = number.low is None or number.high is None or (number.low >= bound if floor else number.high <= bound)
    asked = f"at least {bound:g} required" if floor else f"at most {bound:g} allowed"
    reason = f"{rule.metric} of {_title(rule.of)} is {_with_unit(value, number)}, {asked}"
    if meets and not sure:
        interval = f"{_text(number.low, number)} to {_text(number.high, number)}"
        reason += f", but its 95 % interval {interval} does not settle it"
    says = "hold" if not meets else "ship" if sure else "undecided"
    return Finding.model_validate({"rule": rule, "says": says, "reason": reason, "value": value, "bound": bound})


def _relative(rule: Rule, report: Report, baseline: Report | None) -> Finding:
    row, other = _row(report, rule.of), _other_row(rule, report, baseline)
    (number, value), (theirs, reference) = _number(row, rule.metric), _number(other, rule.metric)
    if number.unit != theirs.unit:
        raise Unfit(f"{rule.metric} of {_title(rule.of)} is in {number.unit!r}, of {rule.versus} in {theirs.unit!r}")
    timed = is_timed(rule.metric)
    if timed and row.provider != other.provider:
        raise Unfit(
            f"{_title(rule.of)} ran on {row.provider}, {rule.versus} on {other.provider}: timings do not compare"
        )
    change, reason = _change(rule, number, value, reference)
    bound = _bound(rule)
    says = "ship" if change <= bound + ROUNDING else "hold"
    shaky = [name for name, r in ((rule.of, row), (rule.versus, other)) if r.conditions.get("unstable")]
    if timed and shaky:
        says = "undecided" if says == "ship" else says
        reason += f"; measured while unstable ({', '.join(str(name) for name in shaky)})"
    return Finding.model_validate({"rule": rule, "says": says, "reason": reason, "value": change, "bound": bound})


def _change(rule: Rule, number: Number, value: float, reference: float) -> tuple[float, str]:
    """The drop, rise or ratio that a relative rule bounds, and the sentence that tells it."""
    name, other = _title(rule.of), _title(str(rule.versus))
    pair = f"({_text(reference, number)} → {_with_unit(value, number)})"
    bound = f"{_bound(rule):g}"
    if rule.ratio_at_most is not None:
        ratio = value / reference if reference > 0 else math.inf
        if math.isinf(ratio):
            raise Unfit(f"{rule.metric} of {rule.versus} is {reference:g}: there is no ratio to it")
        return ratio, (
            f"{name} has {ratio:.4g}x the {rule.metric} of {other} {pair}, "
            f"at most {bound}x {'hoped for' if rule.advice else 'allowed'}"
        )
    falls = rule.drop_at_most is not None
    change = reference - value if falls else value - reference
    verb = "loses" if value < reference else "gains"
    amount = f"{abs(change):.3g} {'points' if number.unit == '%' else number.unit}".rstrip()
    allowed = f"it may {'lose' if falls else 'gain'} at most {bound}"
    return change, f"{name} {verb} {amount} of {rule.metric} against {other} {pair}, {allowed}"


def _bound(rule: Rule) -> float:
    bounds = (rule.at_least, rule.at_most, rule.drop_at_most, rule.rise_at_most, rule.ratio_at_most)
    return next(bound for bound in bounds if bound is not None)


def is_timed(metric: str) -> bool:
    """Whether a metric depends on how busy and how fast the machine was."""
    return metric.startswith(("latency", "throughput"))


def _row(report: Report, role: str, where: str = "report") -> Row:
    row = report.row(role)
    if row is None:
        raise Unfit(f"the {where} has no row {role}")
    if row.faults:
        raise Unfit(f"{_title(role)} of the {where} is faulty: {'; '.join(row.faults)}")
    if not row.provider:
        raise Unfit(f"{_title(role)} of the {where} does not say what ran it")
    return row


def _number(row: Row, metric: str) -> tuple[Number, float]:
    number = row.numbers.get(metric)
    if number is None:
        raise Unfit(f"{_title(row.role)} has no {metric}")
    if number.value is None or not number.usable:
        raise Unfit(f"{_title(row.role)} has no usable {metric}: {number.note or number.value}")
    return number, number.value


def _other_row(rule: Rule, report: Report, baseline: Report | None) -> Row:
    if rule.versus != BASELINE:
        return _row(report, str(rule.versus))
    if baseline is None:
        raise Unfit(f"{rule.metric} of {rule.of} is to be compared with a baseline, and none was given")
    if baseline.target != report.target:
        raise Unfit(f"the baseline is of target {baseline.target}, the report of {report.target}")
    row = _row(baseline, rule.of, BASELINE)
    if _row(report, rule.of).conditions.get("data") != row.conditions.get("data"):
        raise Unfit(f"{_title(rule.of)} of the baseline was measured on other images")
    if is_timed(rule.metric):
        _same_conditions(report, baseline)
    return row


def _same_conditions(report: Report, baseline: Report) -> None:
    unlike = devices.difference(report.device, baseline.device)
    if unlike:
        raise Unfit(f"the baseline was measured on another device: {unlike}")
    if report.suite.latency != baseline.suite.latency:
        raise Unfit("the baseline's latency was measured by another protocol")


def _recommend(report: Report, findings: Sequence[Finding]) -> tuple[str | None, str | None]:
    """The fastest row that passes, and the sentence that says why it is that one."""
    present = [row for row in map(report.row, CANDIDATES) if row is not None]
    timed = {row.role: row.numbers["latency_p50"].value for row in present if _has_p50(row)}
    speed = {role: ms for role, ms in timed.items() if ms is not None and _passes(role, findings)}
    if not speed:
        return None, "no row passes its own rules"
    best = min(speed, key=lambda role: speed[role])
    out = [row.role for row in present if row.role not in speed]
    others = [row.role for row in present if row.role in speed and row.role != best]
    sayings = [f"{_title(role)} {'was not timed' if _passes(role, findings) else 'does not pass'}" for role in out]
    sayings += [_compared(role, best, speed[role] / speed[best]) for role in others]
    return best, f"{', '.join(sayings) or f'{_title(best)} alone was measured'}: ship {_title(best)}"


def _has_p50(row: Row) -> bool:
    number = row.numbers.get("latency_p50")
    return number is not None and number.usable and not row.faults


def _passes(role: str, findings: Sequence[Finding]) -> bool:
    """Whether a row has rules of its own, meets them all, and so does every candidate that they compare it with."""
    own = [finding for finding in findings if finding.rule.of == role and finding.says != "advice"]
    against = {finding.rule.versus for finding in own} & set(CANDIDATES) - {role}
    met = bool(own) and all(finding.says == "ship" for finding in own)
    return met and not any(f.says == "hold" for f in findings if f.rule.of in against)


def _compared(role: str, best: str, ratio: float) -> str:
    if CANDIDATES.index(role) < CANDIDATES.index(best):
        return f"{_title(role)} is {ratio:.2f}x slower than {_title(best)} here"
    return f"{_title(best)} is {ratio:.2f}x faster than {_title(role)} here"


def _title(role: str) -> str:
    return role.upper() if role in CANDIDATES else role


def _with_unit(value: float, number: Number) -> str:
    return f"{_text(value, number)} {number.unit}".rstrip()


def _text(value: float | None, number: Number) -> str:
    """Percentages with two decimals, all else with four digits: a cosine of 0.9796 must not read 0.98."""
    if value is None:
        return "nothing"
    return f"{value:.2f}" if number.unit == "%" else f"{value:.4g}"
