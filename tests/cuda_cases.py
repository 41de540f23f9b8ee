"""The CUDA seam on the stand-in for libcuda: run by test_edge_cuda.py, through each package that is installed."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from kd2edge.edge.cuda.faults import DeviceLost, NotCaptured, OutOfMemory
from kd2edge.edge.cuda.seam import Cuda
from kd2edge.errors import UserError
from tests.fake_cuda import PACKAGE, Fake, only_the_package_under_test

COUNT = 1024
COPY_NS = 1000 + 4 * COUNT


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.reset()
    assert fake.alive() == {}


@pytest.fixture
def cuda(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Cuda]:
    return only_the_package_under_test(monkeypatch)


def test_a_context_is_made_and_released(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    for _ in range(3):
        with cuda() as here:
            assert fake.alive() == {"contexts": 1}
            assert here.gpu == ("Imaginary GPU", (8, 6), 13000)
            assert here.memory() == (64 << 20, 64 << 20)
        assert fake.alive() == {}
        assert fake.driver.fake_depth() == 0


def test_copies_are_in_order_and_not_there_before_they_are_waited_for(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    with cuda() as here:
        given, returned = here.pinned_buffer(COUNT), here.pinned_buffer(COUNT)
        address, stream = here.device_buffer(4 * COUNT), here.stream()
        assert (str(given.dtype), given.shape) == ("float32", (COUNT,))
        given[:], returned[:] = np.arange(COUNT), -1
        here.upload(address, given, stream)
        here.download(returned[: COUNT // 2], address, stream)
        assert (returned == -1).all()
        here.wait(stream)
        np.testing.assert_array_equal(returned[: COUNT // 2], np.arange(COUNT // 2))
        assert (returned[COUNT // 2 :] == -1).all()
        assert here.memory()[0] == (64 << 20) - 4 * COUNT


def test_events_tell_the_device_s_time(cuda: Callable[[], Cuda]) -> None:
    with cuda() as here:
        given, address, stream = here.pinned_buffer(COUNT), here.device_buffer(4 * COUNT), here.stream()
        first, last = here.event(), here.event()
        here.record(first, stream)
        here.upload(address, given, stream)
        here.upload(address, given, stream)
        here.record(last, stream)
        with pytest.raises(UserError, match="device not ready"):
            here.elapsed_ns(first, last)
        here.wait(stream)
        assert here.elapsed_ns(first, last) == 2 * COPY_NS


def test_a_graph_is_captured_without_running_and_launched_often(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    with cuda() as here:
        buffer, stream = here.pinned_buffer(COUNT), here.stream()
        one, other = here.device_buffer(4 * COUNT), here.device_buffer(4 * COUNT)
        handle = here.handle(stream)

        def triple() -> None:
            assert fake.kernel(handle, other, one, COUNT, 3.0, 700) == 0

        graph = here.capture(stream, triple)
        assert fake.alive().get("graphs") == 1
        assert "graph templates" not in fake.alive()
        for factor in (1.0, 2.0):
            buffer[:] = factor
            here.upload(one, buffer, stream)
            here.launch(graph, stream)
            here.download(buffer, other, stream)
            here.wait(stream)
            assert (buffer == 3 * factor).all()
        here.free_graph(graph)
        assert "graphs" not in fake.alive()


def test_what_cannot_be_captured_is_told_and_the_stream_goes_on(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    with cuda() as here:
        stream = here.stream()
        with pytest.raises(NotCaptured, match=r"cannot be captured as a CUDA graph: .*CUDA error 90[01]"):
            here.capture(stream, lambda: here.wait(stream))

        def fails() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            here.capture(stream, fails)
        assert "graph templates" not in fake.alive()
        here.free_graph(here.capture(stream, lambda: None))
        here.wait(stream)


def test_out_of_memory_says_how_much_there_is(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    with cuda() as here:
        here.device_buffer(16 << 20)
        with pytest.raises(OutOfMemory) as caught:
            here.device_buffer(60 << 20)
        assert caught.value.message == "The GPU is out of memory: asked for 60.0 MiB, 48 of 64 MiB are free."
        assert "smaller batch" in str(caught.value.hint)
        fake.fail("cuMemHostAlloc", 1, 2)
        with pytest.raises(OutOfMemory, match=r"no 4\.0 MiB of memory to pin"):
            here.pinned_buffer(1 << 20)
        here.device_buffer(1 << 20)


@pytest.mark.parametrize("code", [214, 700, 719])
def test_a_lost_device_is_told_and_still_left(fake: Fake, cuda: Callable[[], Cuda], code: int) -> None:
    with cuda() as here:
        here.device_buffer(64)
        here.pinned_buffer(16)
        stream, _ = here.stream(), here.event()
        fake.fail("cuStreamSynchronize", 1, code, stays=True)
        with pytest.raises(DeviceLost, match=f"The GPU failed: .*CUDA error {code} in cuStreamSynchronize") as caught:
            here.wait(stream)
        assert "Xid" in str(caught.value.hint)
        with pytest.raises(DeviceLost):
            here.device_buffer(64)
    assert (fake.alive(), fake.driver.fake_depth()) == ({}, 0)


def test_other_refusals_quote_cuda(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    with cuda() as here:
        stream = here.stream()
        fake.fail("cuStreamSynchronize", 1, 201)
        with pytest.raises(UserError, match=r"CUDA refuses: invalid device context \(CUDA error 201") as caught:
            here.wait(stream)
        assert not isinstance(caught.value, DeviceLost)
        with pytest.raises(UserError, match="invalid argument"):
            here.device_buffer(0)


def test_a_machine_without_a_gpu_and_one_that_is_busy(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    fake.fail("cuCtxCreate", 1, 46)
    with pytest.raises(DeviceLost, match="busy or unavailable"), cuda():
        pass
    fake.driver.fake_devices(0)
    with pytest.raises(UserError, match="CUDA finds no NVIDIA GPU"), cuda():
        pass
    assert fake.alive() == {}


def test_a_driver_of_an_older_major_version_is_told_at_once(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    """cuda-python 13 looks up what a driver of 12 lacks only when it is called: the times of events, for one."""
    fake.driver.fake_driver(11040)
    if os.environ[PACKAGE] == "pycuda":  # which is compiled for the driver
        with cuda() as here:
            assert here.gpu.driver == 11040
        return
    with pytest.raises(UserError, match=r"cannot use the NVIDIA driver: it serves CUDA 11\.4") as caught, cuda():
        pass
    assert "major version" in str(caught.value.hint)


def test_whatever_cannot_be_made_leaves_nothing_behind(fake: Fake, cuda: Callable[[], Cuda]) -> None:
    def all_of_it() -> None:
        with cuda() as here:
            for make in (lambda: here.pinned_buffer(8), lambda: here.device_buffer(64), here.stream, here.event):
                make()
                make()
            stream = here.stream()
            here.free_graph(here.capture(stream, lambda: None))

    fake.fail("", 0, 0)
    all_of_it()
    makers = fake.made()
    assert makers == 11  # a context, two each of four, a stream, a graph
    for nth in range(1, makers + 1):
        fake.fail("*", nth, 1)  # no lack of memory: pycuda would collect garbage and try again
        with pytest.raises(UserError, match="invalid argument"):
            all_of_it()
        assert (fake.alive(), fake.driver.fake_depth()) == ({}, 0)
