"""How a number is written, once for the terminal and the page: few digits, its unit, and its interval to match."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from kd2edge.report.model import Comparison, Finding, Number, Report, Row
from kd2edge.schema import UNSAID as UNSAID  # what --quick leaves unsaid, for those who write it
from kd2edge.schema import Rule

MISSING, MINUS = "—", "−"
MARKS = {"ship": "✓", "hold": "✗", "undecided": "?", "advice": "→"}
SPEED = (
    *("latency", "throughput", "single_stream", "multi_stream", "server", "offline"),
    *("cold_start", "session_open", "first_inference", "energy"),
    *("gpu_compute", "h2d", "d2h", "enqueue"),
)
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
SIZES = ("size", "parameters", "macs", "peak_memory")
NAMES = {
    "cosine_to_fp32": "cosine to fp32",
    "far_at_fp32_threshold": "FAR frozen",
    "frr_at_fp32_threshold": "FRR frozen",
    "pair_far_at_fp32_threshold": "pair FAR frozen",
    "pair_frr_at_fp32_threshold": "pair FRR frozen",
    "agreement_with_fp32": "agreement with fp32",
    "brier": "Brier score",
    "ece": "ECE",
    "int8_ran": "ran in INT8",
    "integer_range": "integers used",
    "latency_p50": "latency p50",
    "latency_p90": "latency p90",
    "latency_p99": "latency p99",
    "macs": "MACs",
    "nll": "NLL",
    "oneshot_20way": "one-shot 20-way",
    "peak_memory": "peak memory",
    "top1": "top-1",
    "top5": "top-5",
}


def processor(device: Mapping[str, Any]) -> str:
    """A fingerprint's processor, with its integer dot products: one name may stand for several generations."""
    known = ", ".join(flag for flag in DOT_PRODUCTS if flag in (device.get("flags") or ()))
    return f"{device.get('cpu') or 'an unknown processor'}{f' ({known})' * bool(known)}"


def name(metric: str) -> str:
    """A metric's name as a person writes it: `tar@1e-3` → `TAR@1e-3`, `latency_p50@b4` → `latency p50, batch 4`."""
    if special(metric):
        plain, _, under = metric.rpartition("@")
        return f"{name(plain)}, {_setting(under)}"
    if metric.startswith(("tar@", "eer", "tpir")):
        return metric.upper().replace("@1E", "@1e")
    if metric.startswith(("pair_tar@", "pair_val@", "nearest_tar@")):
        first, _, rest = metric.partition("_")
        return f"{first} {name(rest) if rest.startswith('tar') else rest.upper().replace('@1E', '@1e')}"
    return NAMES.get(metric, metric.replace("_", " "))


def special(metric: str) -> bool:
    """Whether a metric was taken under a setting that is not the suite's own: a batch, threads, damaged images."""
    return "@" in metric and not metric.rpartition("@")[2][:1].isdigit()


def _setting(under: str) -> str:
    if under[1:].isdigit() and under[0] == "s":
        return f"{under[1:]} stream{'s' * (under != 's1')}"
    if under[1:].isdigit() and under[0] in "bt":
        return f"batch {under[1:]}" if under[0] == "b" else f"{under[1:]} thread{'s' * (under != 't1')}"
    return under.replace("_", " ")


def kind(metric: str) -> str:
    """What a metric is about: `accuracy`, `speed` or `size`."""
    if metric.startswith(SPEED):
        return "speed"
    return "size" if metric in SIZES else "accuracy"


def metrics(rows: Iterable[Row]) -> list[str]:
    """Every metric of any row, accuracy before speed before size, in each the order of first appearance."""
    seen = dict.fromkeys(metric for row in rows for metric in row.numbers)
    return sorted(seen, key=lambda metric: ("accuracy", "speed", "size").index(kind(metric)))


def unit(report: Report, metric: str) -> str:
    """The unit a metric is given in; counts have none."""
    found = next((row.numbers[metric].unit for row in report.rows if metric in row.numbers), "")
    return "" if kind(metric) == "size" and metric in ("parameters", "macs") else found


def value(number: Number | None) -> str:
    """A number without its unit; `—` when it is missing, not finite or unmeasured."""
    if number is None or not number.usable or number.value is None:
        return MISSING
    return digits(number.value, number.unit)


def interval(number: Number | None) -> str:
    """`low–high` in the value's digits, or nothing where there is no interval."""
    if number is None or not number.usable or number.low is None or number.high is None:
        return ""
    if not (math.isfinite(number.low) and math.isfinite(number.high)):
        return ""
    return f"{digits(number.low, number.unit)}–{digits(number.high, number.unit)}"


def told(number: Number) -> str:
    """A number with its unit, in a sentence."""
    return f"{value(number)} {number.unit if number.unit != '1' else ''}".rstrip()


def confidence(report: Report) -> str:
    """The confidence of a report's intervals: `95 %`, `98.3 %`."""
    return f"{100 * report.confidence:.3g} %"


def compared(comparison: Comparison, unit: str) -> tuple[str, str]:
    """A change with its sign or a ratio with ×, and its interval, or nothing where there is none."""
    style = ".3f" if comparison.kind == "ratio" else "+.2f" if unit == "%" else "+.3g"
    value, low, high = (
        "" if number is None else f"{number:{style}}".replace("-", MINUS)
        for number in (comparison.value, comparison.low, comparison.high)
    )
    end = "×" if comparison.kind == "ratio" else f" {'points' if unit == '%' else unit}".rstrip()
    return value + end, f"{low} to {high}" if low and high else ""


def found(finding: Finding) -> str:
    """What a rule was judged by, in the sense of its bound, and its interval: `drop 0.31 (0.1 to 0.52)`."""
    value, low, high = (
        "" if number is None else f"{number:.4g}".replace("-", MINUS)
        for number in (finding.value, finding.low, finding.high)
    )
    word = "".join(word for word in ("drop", "rise", "ratio") if getattr(finding.rule, f"{word}_at_most") is not None)
    return f"{word} {value}{f' ({low} to {high})' if low and high else ''}".strip()


def more(finding: Finding) -> str:
    """How many more samples would decide, or nothing where the finding does not know or its reason says so."""
    if finding.more is None or finding.towards is None or f"{finding.more:,}" in finding.reason:
        return ""
    return f"about {finding.more:,} more samples would let it {finding.towards}"


def digits(value: float, unit: str) -> str:
    """Fixed decimals for what is compared (%, MiB, ms, a cosine), else three significant digits with k, M or G."""
    if unit in ("%", "points", "MiB"):
        return f"{value:.2f}"
    if unit == "ms":
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    if abs(value) <= 1 and unit in ("", "1", "cosine"):
        return f"{value:.4f}"
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= factor:
            scale = 1e3 if prefix == "k" else factor
            return f"{_significant(value / scale)} {prefix}"
    return _significant(value)


def plain(value: object) -> str:
    """A JSON value as words: no braces, no quotes."""
    if value is None or value in ([], (), {}):
        return MISSING
    if isinstance(value, dict):
        return ", ".join(f"{str(key).replace('_', ' ')} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ("; " if isinstance(value[0], dict) else ", ").join(plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e5 else str(value)


def _significant(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def headline(report: Report) -> str | None:
    """The metric that speaks for accuracy: the first that a rule names, else the first there is."""
    known = [metric for metric in metrics(report.rows) if kind(metric) == "accuracy"]
    ruled = [rule.metric for rule in report.suite.rules if rule.metric in known]
    return next(iter(ruled + known), None)


def bound(rule: Rule) -> str:
    """A rule's condition in short: `int8 TAR@1e-3 at most 0.5 below fp32`."""
    words = {
        "at_least": "at least {}",
        "at_most": "at most {}",
        "drop_at_most": "at most {} below {}",
        "rise_at_most": "at most {} above {}",
        "ratio_at_most": "at most {}× {}",
    }
    key = next(key for key in words if getattr(rule, key) is not None)
    return f"{rule.of} {name(rule.metric)} {words[key].format(f'{getattr(rule, key):g}', rule.versus)}"
