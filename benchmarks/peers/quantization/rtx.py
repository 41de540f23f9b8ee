"""Does NVIDIA's parser and builder (TensorRT for RTX) take a file? In a process of its own: a builder may crash."""

import subprocess
import sys
import tempfile
from pathlib import Path

from kd2edge import drawers
from kd2edge.edge.session import open_backend
from kd2edge.errors import MissingExtra, UserError

ACCEPTED = "yes"
AT_MOST_S = 900


def verdict(path: Path) -> str:
    """ "yes", or the first thing that parser or builder say against it, or that they are not installed."""
    command = [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AT_MOST_S)
    except subprocess.TimeoutExpired:
        return f"no engine within {AT_MOST_S} s"
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else f"the builder died ({done.returncode})"


def build(path: Path) -> str:
    """As `verdict`, in this process."""
    target = drawers.read_target("nvidia-rtx")
    with tempfile.TemporaryDirectory() as folder:
        try:
            open_backend(target.backend).build(path, target, Path(folder) / "engine")
        except MissingExtra as error:
            return f"not asked: {error.message}"
        except UserError as error:
            return " ".join(error.message.replace(str(path), "it").split())
    return ACCEPTED


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
