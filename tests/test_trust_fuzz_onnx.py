"""Damaged ONNX files are refused in a sentence or parsed, and nothing else: as graphs, by ONNX Runtime, by TensorRT.

They are read in a process of its own: a native crash or hang ends it, and so the test, with the seed that did it.
"""

import importlib.util
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from kd2edge.edge import trt_build
from kd2edge.errors import UserError
from kd2edge.graph.load import load_model
from kd2edge.graph.run import session
from tests import mutations
from tests.graphs import residual_net
from tests.test_onnx_file import external, laughs
from tests.test_onnx_file import nested as branches

ROOT = Path(__file__).parents[1]
PATIENCE = 10
MEMORY = 8 << 30  # bytes of address space for what C++ reads
ONNX, RTX = 800, 120


def onnx_case(seed: int, folder: Path) -> Path:
    """An ONNX file damaged as bytes or as a message; of one in five the weights lie beside it, one has functions."""
    chance = random.Random(seed)
    if seed % 5 == 0:
        path = external(folder)
        whole = path.read_bytes()
        model = onnx.load(str(path), load_external_data=False)
    else:
        path = folder / "model.onnx"
        model = (laughs(2), branches(2))[seed % 2] if seed % 5 == 1 else residual_net()
        whole = model.SerializeToString()
    if chance.random() < 0.55:
        path.write_bytes(mutations.message_of(model, chance))
    else:
        path.write_bytes(mutations.bytes_of(whole, chance, whole[::-1]))
    return path


def read_by_onnx(path: Path) -> None:
    """As a graph, and then as a session: both may refuse, and neither must anything else."""
    fault: UserError | None = None
    for reader in (load_model, session):
        try:
            reader(path)
        except UserError as error:
            fault = error
    if fault:
        raise fault


def read_by_rtx(path: Path) -> None:
    """By the parser of TensorRT for RTX, after the check that goes before it."""
    from kd2edge.edge.backends.tensorrt_rtx import TensorRTForRTX
    from kd2edge.edge.trt_versions import creation_flags
    from kd2edge.onnx_file import require_valid

    require_valid(path)
    backend = TensorRTForRTX()
    trt = backend.trt()
    logger = trt_build.collecting_logger(trt)
    network = backend._builder(trt, logger).create_network(creation_flags(trt))
    backend._parse(trt, logger, network, path)


def read_all(how: str, count: int, folder: str) -> None:
    """In a process of its own: each seed on a line before it is tried, then whether it was refused."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # native code does not come back to Python to be interrupted
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    read = {"onnx": read_by_onnx, "rtx": read_by_rtx}[how]
    for seed in range(count):
        path = onnx_case(seed, Path(folder))
        print(seed, end=" ", flush=True)
        signal.alarm(PATIENCE)
        try:
            read(path)
            print("parsed", flush=True)
        except UserError as fault:
            print("refused", " ".join(fault.message.split())[:300], flush=True)
        signal.alarm(0)


@pytest.mark.parametrize(("how", "count"), [("onnx", ONNX), ("rtx", RTX)])
def test_a_damaged_onnx_file_is_refused_or_parsed(how: str, count: int, tmp_path: Path) -> None:
    if how == "rtx" and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    code = f"from tests.test_trust_fuzz_onnx import read_all; read_all({how!r}, {count}, {str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    last = lines[-1] if lines else "none"
    assert done.returncode == 0, f"status {done.returncode} after {last!r}: {done.stderr[-2000:]}"
    said = [line.split(" ", 2)[1] for line in lines if line.split(" ")[0].isdigit()]
    assert len(said) == count
    assert {"parsed", "refused"} == set(said)
    assert said.count("parsed") > count / 20
