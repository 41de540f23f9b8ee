"""The gate: rules × report → verdict. A rule ships where all of its interval is within the bound, holds where none is.

It fails closed: what is missing, not finite, faulty, unsigned where that is asked for, or from elsewhere holds; an
estimate without an interval, or taken on an unsteady machine, is undecided at best.
"""

from collections.abc import Sequence

from kd2edge import stats
from kd2edge.edge.asked import CANDIDATES, level
from kd2edge.edge.differences import differences
from kd2edge.edge.evidence import Evidence, gather
from kd2edge.edge.fitness import BASELINE, Unfit, bound_of, is_exact, title
from kd2edge.edge.wording import reason
from kd2edge.report.model import Finding, Report, Row, Verdict
from kd2edge.schema import Rule
from kd2edge.stats import Decision

ROUNDING = 1e-9  # by which a bound in decimals may be missed


def judge(report: Report, baseline: Report | None = None) -> Verdict:
    """Ship only if every rule that decides says ship; one hold holds.

    `versus: baseline` compares with the same role of `baseline`, which must come from the same target and images, and
    for timings from the same device by the same protocol; whatever else changed since is told. Advice never decides:
    `recommend` names the fastest of fp32, fp16 and int8 that passes its own rules, if any does.
    """
    changed = differences(report, baseline) if baseline is not None else ()
    findings = tuple(_finding(rule, report, baseline, changed) for rule in report.suite.rules)
    deciding = {finding.says for finding in findings if finding.says != "advice"}
    told = {"findings": findings, "errors": errors(report), "differences": changed}
    if not deciding:
        return Verdict(verdict="hold", because=f"suite {report.suite_name} has no rules that decide", **told)
    recommend, because = _recommend(report, findings)
    for answer in ("hold", "undecided"):
        if answer in deciding:
            return Verdict(verdict=answer, recommend=recommend, because=because, **told)
    return Verdict(verdict="ship", recommend=recommend, because=because, **told)


def errors(report: Report) -> str:
    """How often such a verdict errs by chance, in a sentence.

    All rules must say ship, so that each one alone keeps a model from shipping that breaks it (`stats.multiple`); it is
    over the candidates that the intervals are made wider.
    """
    sampled = [rule for rule in report.suite.rules if not rule.advice and not _exact(rule, report)]
    if not sampled:
        return "No rule that decides rests on a sample: the verdict does not err by chance."
    tail = (1 - report.confidence) / 2
    models = len({rule.of for rule in report.suite.rules if not rule.advice} & set(CANDIDATES))
    several = f", any of {models} candidates in {100 * models * tail:.3g} %" if models > 1 else ""
    rules = f"its {len(sampled)} rules on samples" if len(sampled) > 1 else "its one rule on samples"
    return (
        f"By chance a model that breaks a rule ships in at most {100 * tail:.3g} % of benches{several}, and one that "
        f"keeps {rules} is held in at most {100 * min(1.0, len(sampled) * tail):.3g} %: intervals are of "
        f"{100 * report.confidence:.4g} %."
    )


def _exact(rule: Rule, report: Report) -> bool:
    row = report.row(rule.of)
    number = row.numbers.get(rule.metric) if row else None
    return number is not None and is_exact(rule.metric, number)


def _finding(rule: Rule, report: Report, baseline: Report | None, changed: Sequence[str]) -> Finding:
    try:
        evidence = gather(rule, report, baseline, level(report.suite))
    except Unfit as unfit:
        finding = Finding(rule=rule, says="hold", reason=f"{unfit}")
    else:
        finding = _judged(rule, evidence, report.confidence)
    if rule.versus == BASELINE and finding.says != "ship" and changed:
        told = f"{finding.reason}; changed since the baseline: {', '.join(changed)}"
        finding = finding.model_copy(update={"reason": told})
    return finding.model_copy(update={"says": "advice"}) if rule.advice else finding


def _judged(rule: Rule, evidence: Evidence, confidence: float) -> Finding:
    decision = _decision(rule, evidence, confidence)
    says = "undecided" if decision.says == "ship" and evidence.doubts else decision.says
    low, high = evidence.interval or (None, None)
    return Finding.model_validate(
        {
            "rule": rule,
            "says": says,
            "reason": "; ".join([reason(rule, evidence, decision, confidence), *evidence.doubts]),
            "value": evidence.value,
            "bound": bound_of(rule),
            "low": low,
            "high": high,
            "more": decision.more,
            "towards": decision.towards,
            "how": evidence.how,
        }
    )


def _decision(rule: Rule, evidence: Evidence, confidence: float) -> Decision:
    interval = (evidence.value, evidence.value) if evidence.exact else evidence.interval
    floor = rule.at_least is not None
    bound = bound_of(rule) - ROUNDING if floor else bound_of(rule) + ROUNDING
    direction: stats.Direction = "at_least" if floor else "at_most"
    if interval is None or evidence.n is None or evidence.n < 1 or not 0 < confidence < 1:
        return Decision(stats.decide(interval, bound, direction))
    return stats.decision(evidence.value, interval, bound, direction, evidence.n, confidence)


def _recommend(report: Report, findings: Sequence[Finding]) -> tuple[str | None, str | None]:
    """The fastest row that passes, and the sentence that says why it is that one."""
    present = [row for row in map(report.row, CANDIDATES) if row is not None]
    timed = {row.role: row.numbers["latency_p50"].value for row in present if _has_p50(row)}
    speed = {role: ms for role, ms in timed.items() if ms is not None and _passes(role, findings)}
    if not speed:
        passing = [title(row.role) for row in present if _passes(row.role, findings)]
        return None, f"{' and '.join(passing)}: not timed" if passing else "no row passes its own rules"
    best = min(speed, key=lambda role: speed[role])
    out = [row.role for row in present if row.role not in speed]
    others = [row.role for row in present if row.role in speed and row.role != best]
    sayings = [f"{title(role)} {_why_not(role, findings)}" for role in out]
    sayings += [_compared(role, best, speed[role] / speed[best]) for role in others]
    return best, f"{', '.join(sayings) or f'{title(best)} alone was measured'}: ship {title(best)}"


def _has_p50(row: Row) -> bool:
    number = row.numbers.get("latency_p50")
    return number is not None and number.usable and not row.faults


def _why_not(role: str, findings: Sequence[Finding]) -> str:
    if not _own(role, findings):
        return "has no rules"
    return "was not timed" if _passes(role, findings) else "does not pass"


def _own(role: str, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.rule.of == role and finding.says != "advice"]


def _passes(role: str, findings: Sequence[Finding]) -> bool:
    """Whether a row has rules of its own, meets them all, and so does every row that they compare it with."""
    own = _own(role, findings)
    against = {finding.rule.versus for finding in own} - {role}
    met = bool(own) and all(finding.says == "ship" for finding in own)
    return met and all(f.says in ("ship", "advice") for f in findings if f.rule.of in against)


def _compared(role: str, best: str, ratio: float) -> str:
    if CANDIDATES.index(role) < CANDIDATES.index(best):
        return f"{title(role)} is {ratio:.2f}x slower than {title(best)} here"
    return f"{title(best)} is {ratio:.2f}x faster than {title(role)} here"
