"""What a test run tells at its end: why tests were skipped is pytest's affair (-ra), engine sizes are ours."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the engines that were built: the proof that NVIDIA's builder accepts the exported graphs."""
    reports = terminalreporter.stats.get("passed", [])
    engines = [text for report in reports for key, text in report.user_properties if key == "engine"]
    if engines:
        terminalreporter.section("engines built by TensorRT for RTX, without a GPU")
        for line in sorted(engines):
            terminalreporter.write_line(line)
