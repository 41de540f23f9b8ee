"""A constant net on a processor, each convolution with the sum and the activation behind it in one pass over memory.

The operations are those that torch's own compiler writes for oneDNN, called without compiling anything.
"""

import copy
import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from kd2edge.kd.graph_net import GraphNet

ADDITIONS = (operator.add, torch.add)
RECTIFIERS = (F.relu, torch.relu)
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


class Fused(nn.Module):
    """A net that computes in one precision, whatever autocast is on."""

    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.body, self.dtype = body, dtype

    def forward(self, images: Tensor) -> Any:
        with torch.autocast(images.device.type, enabled=False):
            return self.body(images.to(self.dtype, memory_format=torch.channels_last))


@torch.no_grad()
def fused(net: nn.Module, images: Tensor, dtype: torch.dtype) -> tuple[Fused, int] | None:
    """A copy of a net in evaluation mode that computes in `dtype`, and how many of its convolutions do more than that.

    `images` [N, C, H, W] are run through both. None where there is nothing to win: not on a processor with oneDNN, a
    net that cannot be traced or bear `dtype`, no convolution that is followed by what it could do. Tracing does not see
    what is changed in place under another name, so the copy is to be compared with the net.
    """
    if images.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call, unused-ignore]
        return None
    if any(isinstance(part, GraphNet) for part in net.modules()):
        return None
    try:
        made = fx.symbolic_trace(_cast(copy.deepcopy(net), dtype))
        ShapeProp(made).propagate(images.to(dtype))  # type: ignore[no-untyped-call, unused-ignore]
        count, quick = _fuse(made), Fused(made, dtype)
        quick(images)
    except Exception:  # what code of others makes of a stand-in for a tensor, or oneDNN of a dtype
        return None
    return (quick, count) if count else None


def _cast(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """All but norms, which compute in float32 in any case."""
    for part in net.modules():
        if not isinstance(part, NORMS):
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)
    placed: nn.Module = net.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _fuse(made: fx.GraphModule) -> int:
    modules, graph = dict(made.named_modules()), made.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and type(modules[node.target]) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    count = 0
    for node in list(graph.nodes):
        if node.op == "call_module" and type(modules[node.target]) is nn.Conv2d and _is_plain(modules[node.target]):
            other, summed = _sum(node)
            rectified = _only_user(summed or node)
            if rectified is None or not _is_rectifier(rectified, modules):
                rectified = None
            if last := rectified or summed:
                name = f"fused_{count}"
                given = (node.args[0],) if other is None else (node.args[0], other)
                made.add_module(name, _Convolution(modules[node.target], rectified is not None, _is_free(other, last)))
                with graph.inserting_before(last):
                    done = graph.call_module(name, given)
                done.meta = last.meta
                last.replace_all_uses_with(done)
                count += 1
    graph.eliminate_dead_code()
    made.delete_all_unused_submodules()
    made.recompile()
    return count


def _is_plain(layer: nn.Conv2d) -> bool:
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str) and not hooked


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_rectifier(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    return node.op == "call_function" and node.target in RECTIFIERS


def _sum(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """What is added to a convolution's output, known before it is computed, and the sum; None where nothing is."""
    user = _only_user(node)
    if user is None or user.op != "call_function" or user.target not in ADDITIONS or user.kwargs:
        return None, None
    left, right = user.args
    other = right if left is node else left
    if not isinstance(other, fx.Node) or not other < node or _shape(other) != _shape(node):
        return None, None
    return (other, user) if math.prod(_shape(node)[2:]) > 1 else (None, None)  # one pixel has no layout


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _is_free(other: fx.Node | None, last: fx.Node) -> bool:
    """Whether the sum may take the place of its other part: a fused convolution's output that nothing reads later."""
    return other is not None and str(other.target).startswith("fused_") and all(not last < user for user in other.users)


class _Convolution(nn.Module):
    """W x + b, with another tensor added where one is given, rectified where `rectified`; into it where `free`."""

    def __init__(self, layer: nn.Conv2d, rectified: bool, free: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.free = layer.weight, layer.bias, free
        self.how = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        self.activation = "relu" if rectified else None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        layer, oneDNN = (self.weight, self.bias, *self.how), torch.ops.mkldnn
        if other is None:
            done = oneDNN._convolution_pointwise(x, *layer, self.activation or "none", [], "")
        elif self.free:
            done = oneDNN._convolution_pointwise_.binary(other, x, *layer, "add", 1.0, self.activation, [], "")
        else:
            done = oneDNN._convolution_pointwise.binary(x, other, *layer, "add", 1.0, self.activation, [], "")
        result: Tensor = done
        return result
