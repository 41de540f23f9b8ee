"""NVIDIA's `tegrastats`, for the power rails of a Jetson whose sysfs does not tell them (another kernel, a container).

A line of JetPack 5, 6 or 7 has its rails as `NAME 3150mW/2971mW`: now, and the mean since it began; some builds add
the maximum. The first of them is taken.
"""

import os
import re
import select
import shutil
import subprocess

RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)mW\b")
INTERVAL_MS = 100
FIRST_WITHIN_S = 5.0


def rails(line: str) -> dict[str, float]:
    """The watts of each rail in a line, those that are not connected left out."""
    return {name: int(milliwatts) / 1000 for name, milliwatts in RAIL.findall(line) if name != "NC"}


class Tegrastats:
    """A process that says ten lines a second, of which the latest counts. It ends with `close`."""

    def __init__(self, command: str) -> None:
        asked = [command, "--interval", str(INTERVAL_MS)]
        self.process = subprocess.Popen(asked, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self._output = self.process.stdout
        self._begun = b""
        waiting, _, _ = select.select([self._output], [], [], FIRST_WITHIN_S)
        self._line = self._output.readline() if waiting else b""
        os.set_blocking(self._output.fileno(), False)

    def rails(self) -> dict[str, float]:
        """The watts of each rail as last told; none where it has ended."""
        try:
            while chunk := os.read(self._output.fileno(), 1 << 16):
                *lines, self._begun = (self._begun + chunk).split(b"\n")
                self._line = next((line for line in reversed(lines) if line.strip()), self._line)
        except BlockingIOError:
            pass
        return rails(self._line.decode(errors="replace")) if self.process.poll() is None else {}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._output.close()


def begin() -> Tegrastats | None:
    """None where there is no such program."""
    command = shutil.which("tegrastats")
    return Tegrastats(command) if command else None
