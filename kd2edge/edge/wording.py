"""What a rule said, in one sentence: what was found and how surely, what was asked, and what would settle it."""

from kd2edge.edge.evidence import Evidence
from kd2edge.edge.fitness import bound_of, title
from kd2edge.report import figures
from kd2edge.schema import Rule
from kd2edge.stats import Decision, Interval


def reason(rule: Rule, evidence: Evidence, decision: Decision, confidence: float) -> str:
    """The sentence, without its full stop; `decision` is what the interval says, before any doubts."""
    found, asked = (
        _absolute(rule, evidence, confidence) if rule.versus is None else _relative(rule, evidence, confidence)
    )
    return f"{found}, {asked}{_tail(evidence, decision)}"


def _absolute(rule: Rule, evidence: Evidence, confidence: float) -> tuple[str, str]:
    bound, unit = f"{bound_of(rule):g}", evidence.number.unit
    interval = _interval(evidence.interval, unit, confidence)
    told = f"{figures.name(rule.metric)} of {title(rule.of)} is {_with_unit(evidence.value, unit)}"
    asked = f"at least {bound} required" if rule.at_least is not None else f"at most {bound} allowed"
    return told + (f" ({interval})" if interval else ""), asked


def _relative(rule: Rule, evidence: Evidence, confidence: float) -> tuple[str, str]:
    name, other, metric = title(rule.of), title(str(rule.versus)), figures.name(rule.metric)
    unit, bound, interval = evidence.number.unit, f"{bound_of(rule):g}", evidence.interval
    pair = f"{_text(evidence.reference or 0.0, unit)} → {_with_unit(evidence.measured, unit)}"
    if rule.ratio_at_most is not None:
        shown = "; ".join(filter(None, (pair, _interval(interval, "x", confidence))))
        asked = f"at most {bound}x {'hoped for' if rule.advice else 'allowed'}"
        return f"{name} has {evidence.value:.4g}x the {metric} of {other} ({shown})", asked
    falls = rule.drop_at_most is not None
    loses = evidence.measured < (evidence.reference or 0.0)
    if interval is not None and loses != falls:  # the sentence counts the other way than the rule
        interval = (-interval[1], -interval[0])
    shown = "; ".join(filter(None, (pair, _interval(interval, unit, confidence))))
    amount = f"{abs(evidence.value):.3g} {'points' if unit == '%' else unit}".rstrip()
    told = f"{name} {'loses' if loses else 'gains'} {amount} of {metric} against {other} ({shown})"
    return told, f"it may {'lose' if falls else 'gain'} at most {bound}"


def _tail(evidence: Evidence, decision: Decision) -> str:
    if evidence.interval is None and not evidence.exact:
        return f": it cannot be told without an interval ({evidence.how})"
    if decision.says != "undecided":
        return ""
    if decision.more is None:
        return f": the bound is within the interval, and more {evidence.counted} would hardly settle it"
    return f": about {decision.more:,} more {evidence.counted} would let it {decision.towards}"


def _interval(interval: Interval | None, unit: str, confidence: float) -> str:
    if interval is None:
        return ""
    return f"{100 * confidence:.3g} % interval {_text(interval[0], unit)} to {_text(interval[1], unit)}"


def _with_unit(value: float, unit: str) -> str:
    return f"{_text(value, unit)} {unit}".rstrip()


def _text(value: float, unit: str) -> str:
    """Percentages with two decimals, all else with four digits: a cosine of 0.9796 must not read 0.98."""
    return f"{value:.2f}" if unit == "%" else f"{value:.4g}"
