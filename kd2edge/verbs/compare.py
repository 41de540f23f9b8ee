"""`compare`: two reports number by number, with what else changed between them."""

from pathlib import Path

from kd2edge.edge.changes import compared
from kd2edge.report.changes import Compared
from kd2edge.report.model import read_report
from kd2edge.verbs.gate import report_path


def compare(before: Path, after: Path) -> Compared:
    """Compare the reports of two runs, or report files. Raises `UserError` where one is missing or is no report."""
    reports = [read_report(report_path(path)) for path in (before, after)]
    return compared(reports[0], reports[1], (str(before), str(after)))
