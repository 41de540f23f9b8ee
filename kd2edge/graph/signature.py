"""What a model takes in and gives out: one batch of images [N, C, H, W] in float32, and its first output."""

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from kd2edge.errors import UserError
from kd2edge.graph.run import run_onnx
from kd2edge.graph.topology import Topology

BATCH = "batch"


@dataclass(frozen=True)
class Input:
    """The image input of a model; `batch` is None where the batch is free."""

    name: str
    batch: int | None
    channels: int
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int | str, ...]:
        """[N, C, H, W], a free batch spelt `batch`."""
        return (BATCH if self.batch is None else self.batch, self.channels, *self.size)


def image_input(model: ModelProto) -> Input:
    """The one input of `model`. Raises `UserError` unless it is float32 [N, C, H, W] with C, H and W fixed."""
    given = list(model.graph.input)
    if len(given) != 1 or not model.graph.output:
        raise UserError(f"The model has {len(given)} inputs and {len(model.graph.output)} outputs; one image goes in.")
    tensor = given[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4 or None in dims[1:] or 0 in dims:
        raise UserError(
            f"The input {given[0].name!r} is not a float32 image batch [N, C, H, W] of fixed C, H and W.",
            "export the model with a float32 NCHW input, only the batch left free",
        )
    _, channels, height, width = (dim or 0 for dim in dims)
    return Input(given[0].name, dims[0], channels, (height, width))


def set_dynamic_batch(model: ModelProto) -> tuple[ModelProto, bool]:
    """The model with its batch freed, and whether that worked: two images at once must give what each gives alone.

    A model whose batch is fixed in ways that a Reshape constant does not show is returned as it came, with False.
    """
    if image_input(model).batch is None:
        return model, True
    freed = ModelProto()
    freed.CopyFrom(model)
    _free(freed)
    return (freed, True) if _agrees(model, freed) else (model, False)


def _free(model: ModelProto) -> None:
    del model.graph.value_info[:]
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == 1:
            dims[0].dim_param = BATCH
    graph = Topology(model)
    for node in graph.nodes:
        if node.op_type == "Reshape" and node.input[1] in graph.initializers:
            target = graph.constant(node.input[1]).copy()
            if len(target) > 1 and target[0] == 1:
                target[0] = 0  # Reshape reads 0 as "the dimension as it comes in"
                graph.initializers[node.input[1]].CopyFrom(numpy_helper.from_array(target, node.input[1]))


def _agrees(fixed: ModelProto, freed: ModelProto) -> bool:
    given = image_input(fixed)
    x = np.random.default_rng(0).standard_normal((2, given.channels, *given.size)).astype(np.float32)
    try:
        apart, together = run_onnx(fixed, x), run_onnx(freed, x)
    except Exception:  # whatever the runtime dislikes about two images means that the batch is not free
        return False
    return apart.shape == together.shape and bool(np.allclose(apart, together, rtol=1e-4, atol=1e-4))
