"""torch → ONNX: the net that ships crosses the bridge as one folded FP32 graph, compared with torch on real samples."""

import contextlib
import copy
import logging
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from kd2edge.graph import fold, load, parity
from kd2edge.graph.run import run, run_onnx, session
from kd2edge.kd.net import Net, Shipped

OPSET = 18
WARM_UP, TIMED = 20, 100  # runs
Images = npt.NDArray[np.float32]


def export(net: Net, output: str, samples: Images, path: Path) -> tuple[Images, parity.Parity]:
    """Write `net`'s `output` ("embedding" or "logits") as ONNX with a dynamic batch, BN folded.

    `samples` float32 [N, C, H, W], N >= 2. Returns torch's outputs on them and the parity of the written file.
    Raises `UserError` when the graph in onnxruntime is not the net: the FP32 rung of the parity ladder.
    """
    shipped = Shipped(net, output).eval().float()
    # In channels_last the exporter writes pooling as strided views, which no quantizer or builder knows.
    shipped.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        reference: Images = shipped(torch.from_numpy(samples)).numpy()
    load.save_model(fold.fold(_trace(shipped, samples)), path)
    found = parity.compare(reference, run_onnx(path, samples))
    parity.require(found, "fp32")
    return reference, found


def latency(net: Net, output: str, samples: Images) -> float:
    """Median ms of one image through `net` as an ONNX graph on one thread of this CPU: for comparing candidates.

    `samples` float32 [N, C, H, W], N >= 2. What may be quoted is measured by `bench`, on the target.
    """
    shipped = Shipped(copy.deepcopy(net), output).eval().float()
    shipped.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    opened = session(fold.fold(_trace(shipped, samples)))
    seconds = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        run(opened, samples[:1], [output])
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[WARM_UP:])


def _trace(shipped: Shipped, samples: Images) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            shipped,
            (torch.from_numpy(samples[:2]),),
            input_names=["images"],
            output_names=[shipped.output],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={"images": {0: batch}},
            verbose=False,
        )
    assert program is not None
    return _bare(program.model_proto)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes: stack traces with this machine's paths, which would ship with every copy."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own internals and prints progress; what matters is checked by the parity ladder."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
