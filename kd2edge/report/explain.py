"""A verdict rule by rule: what was asked and why, what was found and how surely, and what would change the answer."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kd2edge.report import figures
from kd2edge.report.model import Finding, Verdict
from kd2edge.report.table import COLOURS


def explanation(verdict: Verdict) -> RenderableType:
    """A heading and a few lines for each rule, then how often such a verdict errs and what changed."""
    last = [verdict.errors or "", *(f"Since the baseline: {line}" for line in verdict.differences)]
    parts = [Padding(_explained(finding), (0, 0, 1, 0)) for finding in verdict.findings]
    return Group(*parts, *(Text(line) for line in filter(None, last)))


def _explained(finding: Finding) -> RenderableType:
    head = Text(f"{figures.MARKS[finding.says]} {finding.says}", style=f"bold {COLOURS[finding.says]}")
    head.append(f"  {figures.bound(finding.rule)}", style="not bold default")
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True, style="dim")
    lines.add_column()
    for term, told in _lines(finding):
        lines.add_row(f"  {term}", Text(told))
    return Group(head, lines)


def _lines(finding: Finding) -> Iterator[tuple[str, str]]:
    yield "why", finding.rule.why
    yield "found", finding.reason
    if finding.low is not None and finding.high is not None:
        yield "interval", f"{finding.low:.6g} to {finding.high:.6g}, judged against {finding.bound:g}"
    if finding.how:
        yield "from", finding.how
    change = _change(finding)
    if change:
        yield "to ship", change


def _change(finding: Finding) -> str:
    """What would let an undecided or broken rule ship: more samples, another bound, or first of all a number."""
    if finding.says in ("ship", "advice"):
        return ""
    if finding.value is None:
        return "it needs a number that can be judged"
    floor = finding.rule.at_least is not None
    reached = finding.low if floor else finding.high
    if reached is None:
        reached = finding.value if finding.says == "hold" else None
    if reached is None:
        return "it needs an interval: more samples, or a bench that makes one"
    bound = f"a bound of {reached:.6g} or {'less' if floor else 'more'}"
    if finding.more is not None and finding.towards == "ship":
        return f"about {finding.more:,} more samples, if the truth is what was found; or {bound}"
    within = finding.bound is not None and (reached >= finding.bound if floor else reached <= finding.bound)
    return "a bench without what is said above against it" if within else bound
