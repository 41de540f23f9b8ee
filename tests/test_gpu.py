"""On a machine with an NVIDIA GPU: the CUDA seam, and engines that compute what onnxruntime computes, however asked."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kd2edge import drawers
from kd2edge.artifact import Artifact
from kd2edge.edge.cuda import choice
from kd2edge.edge.cuda.faults import NotCaptured, OutOfMemory
from kd2edge.edge.cuda.seam import Cuda
from kd2edge.edge.session import Backend, Staged, open_backend
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.load import save_model
from kd2edge.graph.parity import compare, run_onnx
from kd2edge.graph.quantize import quantize_model
from kd2edge.schema import Target
from kd2edge.verbs.engines import build_engine, run_engine
from kd2edge.verbs.models import open_model
from tests import graphs

LEAST_COSINE = {"fp32": 0.999, "fp16": 0.999, "int8": 0.99}
TARGETS = ("nvidia-dgpu", "nvidia-rtx")
COUNT = 1 << 16
SLACK = 64 << 20  # what a driver may keep for itself between contexts


@pytest.fixture(params=choice.PACKAGES, ids=lambda package: package.package)
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A context of each package, not yet entered."""
    monkeypatch.setattr(choice, "PACKAGES", (request.param,))
    reason = choice.driver_fault("This test")
    if reason is not None:
        pytest.skip(reason)
    return choice.open_cuda("This test")


def test_copies_events_and_graphs(cuda: Cuda) -> None:
    with cuda:
        given, returned, stream = cuda.pinned_buffer(COUNT), cuda.pinned_buffer(COUNT), cuda.stream()
        address, first, last = cuda.device_buffer(4 * COUNT), cuda.event(), cuda.event()

        def there_and_back() -> None:
            cuda.upload(address, given, stream)
            cuda.download(returned, address, stream)

        given[:], returned[:] = np.arange(COUNT), 0
        cuda.record(first, stream)
        there_and_back()
        cuda.record(last, stream)
        cuda.wait(stream)
        np.testing.assert_array_equal(returned, given)
        assert cuda.elapsed_ns(first, last) > 0
        graph = cuda.capture(stream, there_and_back)
        for factor in (2, 3):
            given[:] = factor
            cuda.launch(graph, stream)
            cuda.wait(stream)
            assert (returned == factor).all()
        cuda.free_graph(graph)
        with pytest.raises(NotCaptured):
            cuda.capture(stream, lambda: cuda.wait(stream))
        there_and_back()
        cuda.wait(stream)
        assert min(cuda.gpu.sm) >= 0
        assert cuda.gpu.name
        assert cuda.gpu.driver >= 11000


def test_out_of_memory_is_a_sentence_and_memory_comes_back(cuda: Cuda) -> None:
    with cuda:
        free, total = cuda.memory()
        with pytest.raises(OutOfMemory, match=r"asked for [\d,]+\.0 MiB, [\d,]+ of [\d,]+ MiB are free"):
            cuda.device_buffer(2 * total)
        cuda.device_buffer(free // 2)
    with choice.open_cuda("This test") as again:
        assert again.memory()[0] >= free - SLACK


def usable(name: str) -> tuple[Target, Backend]:
    target = drawers.read_target(name).model_copy(update={"compute_capabilities": ()})  # the GPU that is here
    backend = open_backend(target.backend)
    reason = backend.available()
    if reason is not None:
        pytest.skip(reason)
    return target, backend


@pytest.mark.parametrize("precision", list(LEAST_COSINE))
@pytest.mark.parametrize("name", TARGETS)
def test_an_engine_computes_what_onnxruntime_computes(name: str, precision: str, tmp_path: Path) -> None:
    target, backend = usable(name)
    model, images = graphs.residual_net(), graphs.images(40)
    if precision == "fp16":
        model = to_fp16(model, [images])
    elif precision == "int8":
        model = quantize_model(model, [images], "tensorrt").model
    path = tmp_path / f"{precision}.onnx"
    save_model(model, path)
    source = open_model(path, "zero-one", lambda sentence: None)
    engine = build_engine(source, name, target, backend, images, lambda sentence: None)
    parity = compare(run_onnx(path, images), run_engine(engine, images))
    assert parity.cosine_mean >= LEAST_COSINE[precision]


@pytest.fixture(scope="module", params=TARGETS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Target, Backend]:
    target, backend = usable(request.param)
    path = tmp_path_factory.mktemp("built") / "fp32.onnx"
    save_model(graphs.residual_net(), path)
    source = open_model(path, "zero-one", lambda sentence: None)
    images = graphs.images(8)
    return build_engine(source, request.param, target, backend, images, lambda sentence: None), target, backend


@pytest.fixture(params=[False, True], ids=["enqueued", "graph"])
def session(built: tuple[Artifact, Target, Backend], request: pytest.FixtureRequest) -> Iterator[Staged]:
    engine, target, backend = built
    with backend.open(engine.path, target.model_copy(update={"cuda_graph": request.param})) as opened:
        assert isinstance(opened, Staged)
        yield opened


def test_a_captured_graph_gives_the_same(built: tuple[Artifact, Target, Backend]) -> None:
    engine, target, backend = built
    results = []
    for graph in (False, True):
        with backend.open(engine.path, target.model_copy(update={"cuda_graph": graph})) as opened:
            results.append([opened.infer(graphs.images(batch)) for batch in (1, 4, 4, 2)])
    for plain, captured in zip(*results, strict=True):
        np.testing.assert_allclose(captured, plain, rtol=1e-5, atol=1e-6)


def test_every_stage_takes_its_time(session: Staged) -> None:
    for graph in (False, True):
        for _ in range(20):
            assert min(session.stages(graphs.images(4), graph)) > 0


def test_two_streams_do_not_touch_each_other(session: Staged) -> None:
    one, other = graphs.images(4), graphs.images(8)[4:]
    expected = [session.infer(x) for x in (one, other)]
    session.open_streams(2)
    for _ in range(20):
        session.begin(one, 0)
        session.begin(other, 1)
        np.testing.assert_allclose(session.finish(1), expected[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(session.finish(0), expected[0], rtol=1e-5, atol=1e-6)


def test_a_closed_session_keeps_no_memory(built: tuple[Artifact, Target, Backend]) -> None:
    engine, target, backend = built

    def free() -> int:
        with choice.open_cuda("This test") as cuda:
            return cuda.memory()[0]

    def used() -> int:
        with backend.open(engine.path, target) as opened:
            opened.infer(graphs.images(4))
        return free()

    before = used()
    assert min(used() for _ in range(5)) >= before - SLACK
