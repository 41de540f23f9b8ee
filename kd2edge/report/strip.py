"""A rule's finding as a small drawing: its interval beside its bound, so that a column of rules is read at a glance."""

from html import escape

from kd2edge.report import figures
from kd2edge.report.model import Finding

WIDTH, HEIGHT, MIDDLE = 160, 18, 9
REACH = 70.0  # from the bound in the middle to what lies furthest from it


def strip(finding: Finding) -> str | None:
    """An SVG element: the bound in the middle, what meets it shaded to its right; None where there is no interval."""
    value, bound, low, high = finding.value, finding.bound, finding.low, finding.high
    if value is None or bound is None or low is None or high is None:
        return None
    furthest = max(abs(x - bound) for x in (value, low, high)) or 1.0
    sign = 1 if finding.rule.at_least is not None else -1
    at, *ends = (WIDTH / 2 + sign * REACH * (x - bound) / furthest for x in (value, low, high))
    left, right = sorted(ends)
    return (
        f'<svg class="strip {finding.says}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_said(finding)}">'
        f'<rect class="met" x="{WIDTH // 2}" width="{WIDTH // 2}" height="{HEIGHT}"/>'
        f'<path class="bound" d="M{WIDTH // 2} 0V{HEIGHT}"/>'
        f'<path d="M{left:.1f} {MIDDLE}H{right:.1f}M{left:.1f} 5v8M{right:.1f} 5v8" stroke="currentColor"/>'
        f'<circle cx="{at:.1f}" cy="{MIDDLE}" r="3.2" fill="currentColor"/></svg>'
    )


def _said(finding: Finding) -> str:
    return escape(f"{figures.found(finding)}, {figures.bound(finding.rule)}")
