"""The life of a TensorRT session on a made-up device: right numbers out, and everything freed before its context.

pycuda and an engine cannot be had without a GPU. The device here is a dictionary of addresses, and it notes each
release in order; the engine doubles its input. What the real ones accept, only the real ones can tell.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kd2edge.edge.trt_session import TrtSession
from kd2edge.errors import UserError

LARGEST = (4, 1, 2, 2)


class Memory:
    """Device memory: an allocation is an address, its content a flat float32 array."""

    def __init__(self) -> None:
        self.content: dict[int, np.ndarray] = {}
        self.released: list[str] = []

    def mem_alloc(self, size: int) -> Any:
        address = 1000 + len(self.content)
        self.content[address] = np.zeros(size // 4, np.float32)
        return Allocation(self, address)

    def driver(self) -> Any:
        note = self.released.append
        context = SimpleNamespace(pop=lambda: note("popped"), detach=lambda: note("detached"))
        device = SimpleNamespace(
            make_context=lambda: context, compute_capability=lambda: (8, 6), name=lambda: "Imaginary GPU"
        )
        return SimpleNamespace(
            init=lambda: None,
            Device=lambda index: device,
            Stream=lambda: SimpleNamespace(handle=1, synchronize=lambda: None),
            pagelocked_empty=lambda size, dtype: np.empty(size, dtype),
            mem_alloc=self.mem_alloc,
            memcpy_htod_async=lambda to, what, stream: np.copyto(self.content[int(to)][: what.size], what),
            memcpy_dtoh_async=lambda to, what, stream: np.copyto(to, self.content[int(what)][: to.size]),
            get_driver_version=lambda: 13000,
        )


class Allocation:
    def __init__(self, memory: Memory, address: int) -> None:
        self.memory, self.address = memory, address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.memory.released.append("freed")


class Engine:
    """Named tensors `x` [-1, 1, 2, 2] and `y` [-1, 4] with y = 2 x."""

    num_io_tensors = 2
    dtype = "float32"

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "x" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return self.dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 1, 2, 2) if name == "x" else (-1, 4)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 1, 2, 2), (1, 1, 2, 2), LARGEST]

    def create_execution_context(self) -> "Execution":
        return Execution(self.memory)


class Execution:
    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.batch = 0
        self.address: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return shape[1:] == LARGEST[1:] and shape[0] <= LARGEST[0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, 4)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.address[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        size = self.batch * 4
        content = self.memory.content
        content[self.address["y"]][:size] = 2 * content[self.address["x"]][:size]
        return True


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=memory.driver()))
    monkeypatch.setitem(sys.modules, "pycuda.driver", memory.driver())
    return memory


def open_engine(tmp_path: Path, engine: Engine | None) -> TrtSession:
    (tmp_path / "net.engine").write_bytes(b"engine")
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine)
    trt = SimpleNamespace(
        __version__="10.3", float32="float32", TensorIOMode=SimpleNamespace(INPUT="in"), Runtime=lambda logger: runtime
    )
    return TrtSession(trt, SimpleNamespace(errors=["built by another version"]), tmp_path / "net.engine", "TensorRT")


def test_it_infers_and_frees_everything_before_its_context(memory: Memory, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 1, 2, 2)).astype(np.float32)
    with open_engine(tmp_path, Engine(memory)) as session:
        assert session.provider == "TensorRT on Imaginary GPU (SM 8.6)"
        assert session.versions == {"TensorRT": "10.3", "CUDA driver": "13000"}
        assert session.fixed_batch is None
        first = session.infer(x)
        np.testing.assert_array_equal(first, 2 * x.reshape(3, 4))
        np.testing.assert_array_equal(session.infer(x[:1]), 2 * x[:1].reshape(1, 4))
        np.testing.assert_array_equal(first, 2 * x.reshape(3, 4))  # not a view of a buffer that was used again
        with pytest.raises(UserError, match=r"up to \[4, 1, 2, 2\]"):
            session.infer(np.zeros((5, 1, 2, 2), np.float32))
    assert memory.released == ["freed", "freed", "popped", "detached"]


def test_an_engine_that_cannot_be_loaded_leaves_no_context(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot load .*built by another version"):
        open_engine(tmp_path, None)
    assert memory.released == ["popped", "detached"]


def test_a_half_precision_input_is_refused(memory: Memory, tmp_path: Path) -> None:
    engine = Engine(memory)
    engine.dtype = "float16"
    with pytest.raises(UserError, match="'x' is not float32"):
        open_engine(tmp_path, engine)
    assert memory.released == ["popped", "detached"]
