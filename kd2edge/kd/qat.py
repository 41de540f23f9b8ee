"""Quantization-aware training with the teacher attached: the last stage again, on the graph that ships, in INT8.

The FP32 graph that the run exported becomes a torch module again, fake-quantized at the very places where the plan puts
Q/DQ nodes, and the method's own losses go on training it. What comes back is one set of weights and steps for the
inserter that calibration feeds too. Jacob et al., arXiv 1712.05877, with steps that are learned: `kd/fake_quant.py`.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from onnx import ModelProto
from torch import Tensor, nn

from kd2edge import schema
from kd2edge.errors import UserError
from kd2edge.graph.find import initializer_holding, same, tensor_holding, tensors
from kd2edge.graph.parity import Parity, compare, run_onnx
from kd2edge.graph.placement import Plan
from kd2edge.graph.quantize import Calibrated, Quantized, insert
from kd2edge.graph.scales import Range, affine, symmetric
from kd2edge.kd import store, trackers
from kd2edge.kd.distill import STUDENT, Work
from kd2edge.kd.fake_quant import Quantizer
from kd2edge.kd.graph_net import GraphNet, put_back
from kd2edge.kd.heads import Cosine
from kd2edge.kd.method import Method, Stage
from kd2edge.kd.net import Net, Out, Shipped
from kd2edge.progress import Progress
from kd2edge.run import Run

Images = npt.NDArray[np.float32]
TENTH, HUNDREDTH = 0.1, 0.01  # of the epochs and the rate of the training in float
LEAST_COSINE = 0.999
BESIDE = "it is trained beside the graph"


@dataclass(frozen=True)
class Trained:
    """What became of the INT8 that training started from, and how near onnxruntime's outputs of it come to torch's."""

    int8: Quantized
    parity: Parity


def train(recipe: schema.Recipe, run: Run, calibrated: Calibrated, samples: Images, progress: Progress) -> Trained:
    """Train a finished run's student on in INT8, by the recipe's `qat` section or its defaults, in the run's folder.

    `calibrated` is made of the run's FP32 graph, `samples` float32 [N, C, H, W] are as for `Rehearsal`. An interrupted
    training goes on bit-exactly where it stopped. Raises `UserError` as `Rehearsal` and training do.
    """
    work = Work.open(recipe, run, progress)
    learning = work.learned(STUDENT, recipe.method, work.teacher())
    rehearsal = Rehearsal(learning, calibrated, samples)
    plan = schedule(recipe.train, recipe.qat or schema.Qat())
    start = store.digest(rehearsal.graph, plan.model_dump(mode="json"))
    with trackers.telling(recipe, run.path, progress.say, first=True) as work.tracker:
        trainer = work.trainer(f"qat-{calibrated.flavour}", recipe.seed)
        trainer.run(rehearsal.stage(f"int8-{start[:8]}", plan))
    return rehearsal.finished()


class Rehearsal:
    """A trained method whose net computes in fake INT8 from now on: `stage` trains it, `finished` is what came of it.

    `calibrated` is made of the FP32 graph that the method's net was exported as; `samples` float32 [N, C, H, W] find
    the net's feature map and embedding among the graph's tensors. What is behind the embedding is trained as the method
    has it, in float, and ships so. Raises `UserError`, the method's nets unchanged, for a graph that has operators
    without a counterpart here, or lacks what the method's losses look at or train.
    """

    def __init__(self, learning: Method, calibrated: Calibrated, samples: Images) -> None:
        self.learning, self.samples = learning, samples
        self.calibrated = replace(calibrated, corrects_bias=False)  # training corrects them itself
        net, model, few = learning.trained(), calibrated.model, samples[:2]
        fmap, embedding = _tensors_of(net, model, few)
        if learning.reads_map and fmap is None:
            raise UserError("The feature map that the method compares is no tensor of the graph.", "set equalize: off")
        outputs = [fmap or embedding, embedding]
        self.nodes = _compared(GraphNet(model, outputs), model, few)
        layers = calibrated.plan().layers
        self.beside = {layer.node: BESIDE for layer in layers if layer.node not in self.nodes}
        self.plan = calibrated.plan(self.beside)
        self.activations, self.weights = _activations(self.plan, calibrated), _weights(self.plan, calibrated)
        self.graph = GraphNet(model, outputs, self._edges())
        self.behind = _behind(learning, net, model, few, self.graph.order)
        if fmap is not None and _is_held(net.neck):
            _hold_all_but(self.graph, GraphNet(model, [fmap]).named())
        net.backbone, net.neck = _Trunk(self.graph), nn.Identity()

    def stage(self, name: str, plan: schema.Train) -> Stage:
        """The method's last stage on the fake-quantized net, by another schedule."""
        last = self.learning.last_stage()
        return replace(last, name=name, schedule=plan, share=1.0, minimises=None, stream=last.stream or last.name)

    def finished(self) -> Trained:
        """The Q/DQ graph with the weights and steps as trained, compared with the module on the samples.

        Raises `UserError` where the two are not the same net.
        """
        behind = {name: item.held() for name, item in self.behind.items()}
        model = put_back(self.calibrated.model, {**self.graph.named(), **behind})
        placed = set(self.graph.quantizers)
        ranges = {name: _range(q) for name, q in self.activations.items() if q in placed}
        steps = {node: q.scale.detach().numpy().copy() for node, q in self.weights.items() if q in placed}
        ranges = {**self.calibrated.ranges, **ranges}
        made = insert(
            model,
            self.plan,
            ranges,
            {**self.calibrated.scales(self.plan, model), **steps},
            self.calibrated.bits,
        )
        parity = compare(self._outputs(), run_onnx(made, self.samples))
        if parity.cosine_mean < LEAST_COSINE:
            raise UserError(
                f"The exported INT8 is not the net that was trained: cosine {parity.cosine_mean:.5f} between the two.",
                "train with a lower qat.lr; should that not help, quantize without --qat",
            )
        start = self.calibrated.quantized(self.beside)  # whose candidates were measured before any training
        return Trained(replace(start, model=made, ranges=ranges, errors={}, held_out=0), parity)

    def _edges(self) -> dict[tuple[str, str], nn.Module]:
        """A quantizer for each edge of the plan; for `GraphNet`, readers behind the embedding are nameless."""
        edges: dict[tuple[str, str], nn.Module] = {
            (site.tensor, reader if reader in self.nodes else ""): self.activations[site.ranged_as]
            for site in self.plan.sites
            for reader, _ in site.readers
        }
        return edges | {(layer.weight, layer.node): self.weights[layer.node] for layer in self.plan.layers}

    @torch.no_grad()
    def _outputs(self) -> Images:
        """What ships, as torch computes it on the samples."""
        shipped = Shipped(self.learning.deployable(), self.learning.task.output).eval()
        outputs: Images = shipped(torch.from_numpy(self.samples)).numpy()
        return outputs


class _Trunk(nn.Module):
    """Images → (feature map, embedding), in the place of a backbone that pools by its own means."""

    def __init__(self, graph: GraphNet) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fmap, embedding = self.graph(images)
        return fmap, embedding


def schedule(plan: schema.Train, settings: schema.Qat) -> schema.Train:
    """The schedule of the training in INT8, from the recipe's own: 1 % of the rate over 10 % of the epochs.

    So NVIDIA's advice for TensorRT has it (Wu et al., arXiv 2004.09602, appendix A.2).
    """
    epochs = settings.epochs or max(1, round(plan.epochs * TENTH))
    rate = settings.lr or plan.lr * HUNDREDTH
    return plan.model_copy(update={"epochs": epochs, "lr": rate, "schedule": "cosine", "warmup": 0.0})


def _activations(plan: Plan, calibrated: Calibrated) -> dict[str, Quantizer]:
    """A quantizer for each range of the plan, as calibration has it."""
    found = {}
    for name in plan.tensors:
        limits = calibrated.ranges[name]
        if plan.flavour == "tensorrt":
            found[name] = Quantizer(torch.tensor(symmetric(limits)), 0, -128, 127)
        else:
            scale, zero = affine(limits)
            found[name] = Quantizer(torch.tensor(scale), zero, 0, 255)
    return found


def _weights(plan: Plan, calibrated: Calibrated) -> dict[str, Quantizer]:
    """A quantizer for each layer's weights, by node."""
    scales, last = calibrated.scales(plan, calibrated.model), 2 ** (calibrated.bits - 1) - 1
    return {
        layer.node: Quantizer(torch.from_numpy(scales[layer.node]), 0, -last, last, layer.axis) for layer in plan.layers
    }


def _range(quantizer: Quantizer) -> Range:
    """The values that a quantizer's integers stand for, as `graph.scales` takes them back."""
    step = float(quantizer.scale.detach())
    first = -quantizer.last if quantizer.first < 0 else quantizer.first
    return Range((first - quantizer.zero) * step, (quantizer.last - quantizer.zero) * step)


@torch.no_grad()
def _tensors_of(net: Net, model: ModelProto, samples: Images) -> tuple[str | None, str]:
    """The names of the net's feature map, where the graph has it, and of its embedding."""
    out: Out = net.eval()(torch.from_numpy(samples))
    fmap = tensor_holding(model, samples, out.fmap.contiguous().numpy())
    embedding = tensor_holding(model, samples, out.embedding.numpy())
    if embedding is None:
        raise UserError("The FP32 graph is not the net that the run trained.", "make the run again: kd2edge distill")
    return fmap, embedding


@torch.no_grad()
def _compared(graph: GraphNet, model: ModelProto, samples: Images) -> set[str]:
    """The names of a graph's nodes, once torch has computed with them what onnxruntime computes."""
    found, wanted = graph(torch.from_numpy(samples)), tensors(model, samples, graph.outputs)
    if not all(same(one.numpy(), other) for one, other in zip(found, wanted, strict=True)):
        raise UserError("torch computes the FP32 graph otherwise than onnxruntime does.", "quantize it without --qat")
    return {node.name for node in graph.nodes}


@dataclass(frozen=True)
class _Behind:
    """A parameter that is trained behind the embedding, and how an initializer holds it.

    Rows are `normalised` where the exporter computed beforehand what a cosine head does with its weight.
    """

    parameter: nn.Parameter
    normalised: bool
    turned: bool = False

    def held(self) -> Tensor:
        values = self.parameter.detach()
        values = F.normalize(values) if self.normalised else values
        return values.T if self.turned else values


def _behind(learning: Method, net: Net, model: ModelProto, samples: Images, taken: list[str]) -> dict[str, _Behind]:
    """What is trained of what ships behind the embedding, by the initializer that holds it; none of `taken` does."""
    shipped = learning.deployable()
    inside = {id(p) for part in (net.backbone, net.neck) for p in part.parameters()}
    cosine = {id(part.weight) for part in shipped.modules() if isinstance(part, Cosine)}
    trained = {name: p for name, p in shipped.named_parameters() if p.requires_grad and id(p) not in inside}
    found: dict[str, _Behind] = {}
    for name in _used(Shipped(shipped, learning.task.output), trained, samples):
        forms = [_Behind(trained[name], normalised) for normalised in (True, False)]
        for form in forms if id(trained[name]) in cosine else forms[1:]:
            place = initializer_holding(model, form.held().numpy(), {*taken, *found})
            if place is not None:
                found[place[0]] = replace(form, turned=place[1])
                break
        else:
            raise UserError(
                f"The FP32 graph has no constant that holds {name}, which the method trains: it could not be put back.",
                "quantize it without --qat",
            )
    return found


def _used(shipped: Shipped, parameters: dict[str, nn.Parameter], samples: Images) -> list[str]:
    """The names of the parameters that what ships depends on: no head is part of an embedding."""
    if not parameters:
        return []
    with torch.enable_grad():
        output = shipped.eval()(torch.from_numpy(samples)).sum()
        slopes = torch.autograd.grad(output, list(parameters.values()), allow_unused=True)
    return [name for name, slope in zip(parameters, slopes, strict=True) if slope is not None]


def _is_held(neck: nn.Module) -> bool:
    """Whether a neck has parameters, and the method trains none of them."""
    trained = [p.requires_grad for p in neck.parameters()]
    return bool(trained) and not any(trained)


def _hold_all_but(graph: GraphNet, trained: dict[str, nn.Parameter]) -> None:
    for name, parameter in graph.named().items():
        parameter.requires_grad_(name in trained)
