"""TensorRT sessions from end to end where there is no GPU; what is made up of it stands in `trt_session_cases.py`."""

from pathlib import Path

import pytest

from tests.fake_cuda import MODULES, run_cases


@pytest.mark.parametrize("package", list(MODULES))
def test_sessions_on_a_device_that_is_counted_out(package: str, tmp_path: Path) -> None:
    run_cases("trt_session_cases.py", package, tmp_path)
