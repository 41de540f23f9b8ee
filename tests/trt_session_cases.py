"""TensorRT sessions on the stand-in for libcuda, by way of each package: run by test_edge_trt_session.py.

Only the engine (`fake_trt`) and the library below pycuda and cuda-python are made up: copies, kernels, graphs and
events go through the packages themselves.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kd2edge.edge.cuda.faults import DeviceLost, NotCaptured, OutOfMemory
from kd2edge.edge.session import Session, Staged
from kd2edge.edge.staged import flood, measure_stages, summary
from kd2edge.edge.trt_session import TrtSession
from kd2edge.errors import UserError
from kd2edge.schema import Latency, Target
from tests.fake_cuda import Fake, only_the_package_under_test
from tests.fake_trt import KERNEL_NS, Engine

TARGET = Target(about="imaginary", backend="tensorrt", flavour="tensorrt", precisions=("fp32",))
Open = Callable[..., TrtSession]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake()
    only_the_package_under_test(monkeypatch)
    yield fake
    fake.reset()
    assert (fake.alive(), fake.driver.fake_depth()) == ({}, 0)


def open_engine(engine: Engine, **target: Any) -> TrtSession:
    logger = SimpleNamespace(errors=["built by another version", "the kernel image is gone"])
    asked = TARGET.model_copy(update=target)
    return TrtSession(engine.module(), logger, b"engine", Path("net.engine"), "TensorRT", asked)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 1, 2, 2)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    return 2 * x.reshape(len(x), 4)


def test_it_infers_batches_of_its_profile(fake: Fake) -> None:
    with open_engine(Engine(fake)) as session:
        for batch in (3, 1, 4, 4, 2):
            x = images(batch, batch)
            np.testing.assert_array_equal(session.infer(x), expected(x))
        first = session.infer(images(3))
        session.infer(images(3, 1))
        np.testing.assert_array_equal(first, expected(images(3)))  # not a view of a buffer that was used again
        turned = np.ascontiguousarray(images(4).transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
        np.testing.assert_array_equal(session.infer(turned), expected(images(4)))


def test_it_says_what_serves(fake: Fake) -> None:
    with open_engine(Engine(fake)) as session:
        package = session._cuda.package
        assert session.provider == f"TensorRT on Imaginary GPU (SM 8.6) by {package}"
        assert session.versions["TensorRT"] == "10.3.0"
        assert session.versions["CUDA driver"] == "13.0"
        assert session.versions[package][0].isdigit()
        assert session.fixed_batch is None
        assert isinstance(session, Staged)
    like: Session = session
    assert like is session


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_static_profile_fixes_the_batch(fake: Fake, dynamic: bool) -> None:
    with open_engine(Engine(fake, smallest=4, dynamic=dynamic)) as session:
        assert session.fixed_batch == 4
        np.testing.assert_array_equal(session.infer(images(4)), expected(images(4)))
        with pytest.raises(UserError, match=r"takes \[4, 1, 2, 2\] float32, it was given \[3, 1, 2, 2\]"):
            session.infer(images(3))


def test_another_shape_or_type_is_refused_and_the_next_batch_is_right(fake: Fake) -> None:
    with open_engine(Engine(fake), cuda_graph=True) as session:
        session.infer(images(2))
        others: list[Any] = [images(5), images(0), np.zeros((2, 1, 2, 3), np.float32), images(2).astype(np.float64)]
        for wrong in others:
            with pytest.raises(UserError, match=r"\[1, 1, 2, 2\] up to \[4, 1, 2, 2\] float32, it was given"):
                session.infer(wrong)
            np.testing.assert_array_equal(session.infer(images(2)), expected(images(2)))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"dtype": "float16"}, "'x' is not float32"),
        ({"inputs": "xy"}, r"has inputs \['x', 'y'\] and outputs \[\]"),
        ({"loadable": False}, "cannot load net.engine: built by another version"),
        ({"contexts": 0}, "no room for an execution context: the kernel image is gone"),
    ],
)
def test_an_engine_that_is_of_no_use_leaves_nothing(fake: Fake, made: dict[str, Any], says: str) -> None:
    engine = Engine(fake, **made)
    with pytest.raises(UserError, match=says) as caught:
        open_engine(engine)
    assert caught.tb is not None
    assert fake.alive() == {}
    assert [left["contexts"] for left in engine.left] == [1] * engine.loadable  # before its CUDA context, in any case


def test_stages_are_told_apart(fake: Fake) -> None:
    engine = Engine(fake)
    with open_engine(engine) as session:
        for graph in (False, True):
            session.stages(images(3), graph)
            before = engine.enqueued
            stages = session.stages(images(3), graph)
            assert engine.enqueued - before == (0 if graph else 2)  # once ahead of what is timed
            assert (stages.h2d, stages.compute, stages.d2h) == (1000 + 48, KERNEL_NS, 1000 + 48)
            assert stages.enqueue > 0
        np.testing.assert_array_equal(session.infer(images(2)), expected(images(2)))


def test_a_graph_is_captured_once_for_a_shape_and_again_for_another(fake: Fake) -> None:
    engine = Engine(fake)
    with open_engine(engine, cuda_graph=True) as session:
        asked: list[int] = []
        for batch in (2, 2, 2, 3, 3, 2):
            x = images(batch, len(asked))
            np.testing.assert_array_equal(session.infer(x), expected(x))
            asked.append(engine.enqueued)
            assert fake.alive()["graphs"] == 1
        assert asked == [2, 2, 2, 4, 4, 6]  # one enqueue to finish the shape, one to be captured, none to launch
    with open_engine(engine) as session:
        session.infer(images(2))
        assert "graphs" not in fake.alive()


@pytest.mark.parametrize("admits", [True, False])
def test_what_cannot_be_captured_runs_without_a_graph(fake: Fake, admits: bool) -> None:
    with open_engine(Engine(fake, capturable=False, admits=admits)) as session:
        with pytest.raises(NotCaptured, match="cannot be captured as a CUDA graph"):
            session.stages(images(2), graph=True)
        np.testing.assert_array_equal(session.infer(images(2)), expected(images(2)))
        assert session.stages(images(2), graph=False).compute == KERNEL_NS
        latency = Latency(warmup_ms=0, seconds=0.001, min_samples=2)
        taken, told = measure_stages(session, images(2), latency, time.perf_counter_ns)
        assert set(taken[:, -1].tolist()) == {0}
        assert "cannot be captured" in told["no_graph"]


@pytest.mark.parametrize("graph", [False, True])
def test_streams_work_on_batches_of_their_own(fake: Fake, graph: bool) -> None:
    with open_engine(Engine(fake), cuda_graph=graph) as session:
        session.open_streams(3)
        for batch in (4, 2):
            given = [images(batch, seed) for seed in range(3)]
            for stream, x in enumerate(given):
                session.begin(x, stream)
            for stream in (1, 0, 2):
                np.testing.assert_array_equal(session.finish(stream), expected(given[stream]))
        assert fake.alive()["streams"] == 3


def test_more_streams_than_there_is_room_for_is_told(fake: Fake) -> None:
    engine = Engine(fake, largest=1 << 20)  # 16 MiB in and out
    with open_engine(engine) as session:
        with pytest.raises(OutOfMemory, match=r"asked for 16\.0 MiB, 0 of 64 MiB are free"):
            session.open_streams(4)
        np.testing.assert_array_equal(session.infer(images(2)), expected(images(2)))
    assert all(left["contexts"] == 1 for left in engine.left)


def test_a_profiler_is_told_of_its_own_runs_alone(fake: Fake) -> None:
    engine, profiler = Engine(fake), object()
    with open_engine(engine) as session:
        for _ in range(2):
            np.testing.assert_array_equal(session.profiled(images(2), profiler), expected(images(2)))
        session.infer(images(2))
        assert engine.profiled == [profiler, profiler]


def test_a_device_that_is_lost_is_told_in_its_own_words(fake: Fake) -> None:
    engine = Engine(fake)
    with open_engine(engine) as session:
        session.infer(images(2))
        fake.fail("kernel", 1, 700, stays=True)
        with pytest.raises(DeviceLost, match=r"illegal memory access was encountered \(CUDA error 700"):
            session.infer(images(2))
        with pytest.raises(DeviceLost):
            session.infer(images(2))
    assert len(engine.left) == 2


def test_an_engine_that_refuses_is_quoted(fake: Fake) -> None:
    engine = Engine(fake)
    with open_engine(engine) as session:
        engine.refuses = True
        with pytest.raises(UserError, match="The engine failed: the kernel image is gone"):
            session.infer(images(2))
        with pytest.raises(UserError, match="The engine failed"):
            session.stages(images(2), graph=True)
        engine.refuses = False
        np.testing.assert_array_equal(session.infer(images(2)), expected(images(2)))


def test_the_protocol_finds_the_device_s_own_times(fake: Fake) -> None:
    latency = Latency(batch=2, warmup_ms=1, seconds=0.01, min_samples=150)
    with open_engine(Engine(fake), cuda_graph=True) as session:
        taken, told = measure_stages(session, images(5), latency, time.perf_counter_ns)
        assert told == {}
        numbers, conditions = summary([taken], 2, shipped=True)
        for name in ("gpu_compute_p50", "gpu_compute_p95", "gpu_compute_p50_no_graph", "gpu_compute_mean"):
            assert numbers[name].value == pytest.approx(KERNEL_NS / 1e6)
        assert numbers["h2d_p50"].value == numbers["d2h_p50"].value == (1000 + 32) / 1e6
        assert (conditions["copy_bound"], conditions["gpu_unstable"]) == (False, False)
        assert len(flood(session, images(5), latency, 2, time.perf_counter_ns)) >= 150


@pytest.mark.parametrize("graph", [False, True])
def test_leaving_waits_for_what_still_runs(fake: Fake, graph: bool) -> None:
    engine = Engine(fake)
    with open_engine(engine, cuda_graph=graph) as session:
        session.open_streams(2)
        session.begin(images(2), 0)
        session.begin(images(2), 1)
    assert len(engine.left) == 3


def test_whatever_cannot_be_made_leaves_nothing_behind(fake: Fake) -> None:
    """Execution contexts and engine go while the CUDA context is there, though an error's traceback is still held."""

    def all_of_it(engine: Engine) -> None:
        with open_engine(engine, cuda_graph=True) as session:
            session.infer(images(2))
            session.infer(images(3))
            session.open_streams(2)

    fake.fail("", 0, 0)
    all_of_it(Engine(fake))
    makers = fake.made()
    assert makers == 1 + 2 * 10 + 2  # a context; four buffers, a stream and five events twice; two graphs
    for nth in range(1, makers + 1):
        engine = Engine(fake)
        fake.fail("*", nth, 1)
        with pytest.raises(UserError, match="invalid argument") as caught:
            all_of_it(engine)
        assert caught.tb is not None
        assert (fake.alive(), fake.driver.fake_depth()) == ({}, 0)
        assert all(left.get("contexts") == 1 for left in engine.left)
        assert len(engine.left) == (0 if nth == 1 else 2 if nth <= 13 else 3)
