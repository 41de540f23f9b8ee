"""A verdict as JUnit XML: a test case for each rule, red unless it ships.

CI systems take `skipped` for no harm done, so that undecided is a failure, told apart by its type; a rule that could
not be judged at all is an error; advice, which never decides, is skipped. A last case is the verdict itself: a suite
without rules would else be green. Nothing in it depends on when or where it is written.
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter

from kd2edge.report import figures
from kd2edge.report.model import Finding, Report, Verdict

# Every character that XML 1.0 has no place for, written or escaped.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
VERDICT = "the verdict"


def junit(report: Report, verdict: Verdict) -> bytes:
    """The XML, in UTF-8."""
    name = f"kd2edge gate: {report.suite_name} on {report.target}"
    cases = [_case(figures.bound(finding.rule), finding.rule.of, *_outcome(finding)) for finding in verdict.findings]
    cases.append(_case(VERDICT, report.suite_name, *_answer(verdict)))
    counts = Counter(child.tag for case in cases for child in case)
    told = {
        "name": name,
        "tests": str(len(cases)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
        "time": "0",
    }
    suites = ET.Element("testsuites", _plain(told))
    suite = ET.SubElement(suites, "testsuite", _plain(told))
    suite.extend(cases)
    ET.indent(suites)
    text: str = ET.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _outcome(finding: Finding) -> tuple[str | None, str, str]:
    """The element of a finding (None: it passed), its type, and what is said."""
    if finding.says == "ship":
        return None, "", finding.reason
    if finding.says == "advice":
        return "skipped", "advice", finding.reason
    unjudged = finding.says == "hold" and finding.value is None
    return ("error" if unjudged else "failure"), finding.says, finding.reason


def _answer(verdict: Verdict) -> tuple[str | None, str, str]:
    said = f"{verdict.verdict.upper()}: {verdict.because or 'every rule has its say above'}"
    return (None if verdict.verdict == "ship" else "failure"), verdict.verdict, said


def _case(name: str, of: str, element: str | None, kind: str, said: str) -> ET.Element:
    case = ET.Element("testcase", _plain({"classname": f"kd2edge.{of}", "name": name, "time": "0"}))
    if element is None:
        ET.SubElement(case, "system-out").text = FORBIDDEN.sub("", said)
    else:
        ET.SubElement(case, element, _plain({"message": said, **({} if element == "skipped" else {"type": kind})}))
    return case


def _plain(told: dict[str, str]) -> dict[str, str]:
    return {key: FORBIDDEN.sub("", value) for key, value in told.items()}
