"""Whatever a report holds, one bad number keeps it from shipping, and only an interval within its bound ships."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd2edge.edge.gate import judge
from kd2edge.report.model import Number
from tests import judged
from tests.judged import RULES, with_comparison, with_number, with_row
from tests.spoilt import COMPARED, EXACT, INF, NAN, metric

BAD_VALUES = st.sampled_from([None, NAN, INF, -INF])
BAD_ENDS = st.one_of(
    st.tuples(BAD_VALUES, st.floats(allow_nan=False)),
    st.tuples(st.floats(allow_nan=False), BAD_VALUES),
    st.tuples(st.floats(1e4, 1e9), st.floats(-1e9, -1e4)),
    st.tuples(st.floats(-1e9, -1e4), st.floats(1e4, 1e9)),
    st.tuples(st.floats(1e4, 1e9), st.floats(1e9, 1e12)),
)


@given(kinds=st.sets(st.sampled_from(sorted(RULES)), min_size=1), data=st.data())
def test_whatever_else_a_report_has_one_bad_number_keeps_it_from_shipping(kinds: set[str], data: st.DataObject) -> None:
    report = judged.report(*(judged.rule(**RULES[name]) for name in sorted(kinds)))
    baseline = judged.report()
    assert judge(report, baseline).verdict == "ship"
    name = data.draw(st.sampled_from(sorted(kinds)))
    if name in COMPARED:
        low, high = data.draw(BAD_ENDS)
        spoiled = with_comparison(report, metric(name), low=low, high=high)
    elif name in EXACT or data.draw(st.booleans()):
        spoiled = with_number(report, "int8", metric(name), value=data.draw(BAD_VALUES))
    else:
        low, high = data.draw(BAD_ENDS)
        spoiled = with_number(report, "int8", metric(name), low=low, high=high)
    assert judge(spoiled, baseline).verdict != "ship"


@given(
    value=st.one_of(st.none(), st.floats()),
    low=st.one_of(st.none(), st.floats()),
    high=st.one_of(st.none(), st.floats()),
    bound=st.floats(-1e6, 1e6),
    floor=st.booleans(),
)
def test_only_an_interval_that_is_all_within_the_bound_ships(
    value: float | None, low: float | None, high: float | None, bound: float, floor: bool
) -> None:
    rule = judged.rule(metric="top1", at_least=bound) if floor else judged.rule(metric="top1", at_most=bound)
    report = with_number(judged.report(rule), "int8", "top1", value=value, low=low, high=high)
    ends = [end for end in (low, value, high) if end is not None and math.isfinite(end)]
    rising = len(ends) == 3 and ends == sorted(ends)
    within = rising and (ends[0] >= bound if floor else ends[2] <= bound)
    beyond = rising and (ends[2] < bound - 1e-6 if floor else ends[0] > bound + 1e-6)
    says = judge(report).verdict
    if within:
        assert says == "ship"
    elif says == "ship":
        assert ends
        assert (ends[0] if floor else ends[-1]) == pytest.approx(bound, abs=2e-6)  # met up to rounding
    if beyond:
        assert says == "hold"


def test_a_number_that_no_schema_would_take_is_no_number() -> None:
    made = Number.model_construct(value=None, unit="%", n=None, low=99.0, high=99.5, better=None, note=None)
    report = judged.report(judged.rule(**RULES["floor"]))
    assert judge(with_row(report, "int8", numbers={"top1": made})).verdict == "hold"
