"""Nothing that kd2edge loads calls home unless somebody asks for it."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("0", "0")])
def test_onnxruntime_is_told_to_keep_silent_before_it_is_imported(own: str | None, expected: str) -> None:
    code = "import os, sys, kd2edge; print('onnxruntime' in sys.modules, os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if own is None else {"ORT_DISABLE_TELEMETRY": own}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", expected]
