"""Heads whose classes are split over the ranks that train together: `head.sharded` of a recipe, by `kd/sharded.py`.

Each rank trains, saves and resumes rows of its own, which no other has; DistributedDataParallel averages all the rest.
A finished stage is one file of all classes, as without, and so is what ships.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kd2edge import schema, shelves
from kd2edge.errors import UserError
from kd2edge.kd import checkpoint, rows, sharded
from kd2edge.kd.heads import Head, apart
from kd2edge.kd.method import Method
from kd2edge.kd.ranks import Ranks


def require(recipe: schema.Recipe, ranks: Ranks) -> None:
    """Raise `UserError`, before anything is trained, for what cannot be done where a recipe's classes are split."""
    if not recipe.student.head.sharded or ranks.count == 1:
        return
    for name in (recipe.method.name, *recipe.compare):
        if not shelves.load(shelves.METHODS, name, Method).shards:
            raise UserError(f"{name} needs all classes in one process.", "set head.sharded=false, or another method")
    if recipe.train.precision == "fp16":
        raise UserError("Processes of other classes would skip other steps in fp16.", "set train.precision=bf16")
    if recipe.validation is not None and recipe.task == "classification":
        raise UserError("No process has the logits of all classes to be judged by.", "leave `validation` out")


@dataclass(frozen=True)
class Part:
    """Classes [first, beyond) of `classes`, as `Head.shard`."""

    first: int
    beyond: int
    classes: int
    ranks: Ranks

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def everyones(self, embedding: Tensor) -> Tensor:
        """[N, d] of each rank → [ranks · N, d]; float32, whatever autocast made of them.

        Its gradient is that of the ranks' one loss times their number, since all else of a net gets the ranks' mean.
        """
        return sharded.gather(embedding.float(), weight=self.ranks.count)

    @contextmanager
    def sampled(self, labels: Tensor, own: Head, *others: Head) -> Iterator[Tensor]:
        """`sharded.sampled` for the labels [N] of each rank: columns [ranks · N], -1 where another rank has a class."""
        here = sharded.columns(sharded.gather(labels), self.first, self.beyond - self.first)
        with sharded.sampled(here, own, *others) as columns:
            yield columns

    def cross_entropy(self, own: Head, logits: Tensor, columns: Tensor) -> Tensor:
        return sharded.cross_entropy(own, logits, columns)

    def kl(self, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
        return sharded.kl(student.float(), teacher.float(), tau)


M = TypeVar("M", bound=nn.Module)


class Stepping(Protocol):
    """What a stage's steps are made by."""

    learner: nn.Module
    optimizer: torch.optim.Optimizer


def split(head: Head, ranks: Ranks) -> None:
    """Leave a head that all ranks have this one's classes alone. Raises `UserError` for fewer classes than ranks."""
    classes = len(head.weight)
    if classes < ranks.count:
        raise UserError(f"{classes} classes cannot be split over {ranks.count} processes.", "set head.sharded=false")
    if ranks.count == 1:
        return
    first, beyond = sharded.shard(classes, ranks.number, ranks.count)
    for name in ("weight", "bias"):
        whole: nn.Parameter | None = getattr(head, name)
        if whole is not None:
            setattr(head, name, nn.Parameter(whole.detach()[first:beyond].clone(), whole.requires_grad))
    head.shard = Part(first, beyond, classes, ranks)


def _own(module: nn.Module) -> dict[str, tuple[nn.Parameter, Part]]:
    """What a module has of split heads, by its name in a state dict; nothing where no head is split."""
    return {name: (p, head.shard) for name, (p, head) in apart(module).items() if isinstance(head.shard, Part)}


def clip(learner: nn.Module, most: float) -> None:
    """`rows.clip` of a learner's gradients; the norm is that of the whole, split heads of all ranks included."""
    own = {id(parameter) for parameter, _ in apart(learner).values()}
    if not own:
        rows.clip(learner.parameters(), most)
        return
    shared = rows.numbers(parameter for parameter in learner.parameters() if id(parameter) not in own)
    here = rows.numbers(parameter for parameter in learner.parameters() if id(parameter) in own)
    device = next(learner.parameters()).device
    squares = sum((number.float().square().sum() for number in here), torch.zeros((), device=device))
    dist.all_reduce(squares)
    squares = sum((number.float().square().sum() for number in shared), squares)
    for number in (*shared, *here):
        number.mul_((most / (squares.sqrt() + 1e-6)).clamp(max=1.0))


def write(tree: dict[str, Any], path: Path, by: Stepping, ranks: Ranks) -> None:
    """Save an unfinished stage: its tree by rank 0, and by every other what it has of split heads, beside it.

    The tree is written last and says which step it is of, so that a kill leaves files of one step. All ranks must call.
    """
    own, step = _indices(by.learner, by.optimizer), (tree["epoch"], tree["step"])
    if own and not ranks.first:
        state, average = tree["optimizer"]["state"], tree["average"]
        part = {
            "learner": {name: tree["learner"][name] for name in own},
            "optimizer": {index: state[index] for index in own.values() if index in state},
            "average": None if average is None else {n: v for n, v in average["kept"].items() if n in own},
        }
        checkpoint.write(part, _beside(path, ranks, step))
    if own:
        ranks.wait()
    if ranks.first:
        checkpoint.write({**tree, "ranks": ranks.count, "split": bool(own)}, path)
    ranks.wait()
    if own:
        _forget(path, ranks, _beside(path, ranks, step))


def read(path: Path, by: Stepping, ranks: Ranks, say: Callable[[str], None]) -> dict[str, Any]:
    """What `write` saved, for this rank. Raises `UserError` for split heads of another number of ranks."""
    tree: dict[str, Any] = checkpoint.read(path)
    before, own = tree.get("ranks", ranks.count), _indices(by.learner, by.optimizer)
    if before != ranks.count and (own or tree.get("split")):
        raise UserError(
            f"This training split its classes over {before} processes, and goes on with {ranks.count}.",
            f"resume it with {before}, or start it anew",
        )
    if before != ranks.count:
        say(f"begun by {before} processes and now trained by {ranks.count}: equal up to rounding, not bit for bit")
    if own and not ranks.first:
        part = checkpoint.read(_beside(path, ranks, (tree["epoch"], tree["step"])))
        tree["learner"] |= part["learner"]
        tree["optimizer"]["state"] |= part["optimizer"]
        if tree["average"] is not None:
            tree["average"]["kept"] |= part["average"]
    return tree


def finish(learner: nn.Module, path: Path, partial: Path, ranks: Ranks) -> None:
    """Write a finished stage, by rank 0 with all classes, and drop what was saved on the way. All ranks must call."""
    state, heads = learner.state_dict(), _own(learner)
    for name, (_, part) in heads.items():
        state[name] = _whole(state[name], part)
    if ranks.first:
        checkpoint.write({"learner": state}, path)
        partial.unlink(missing_ok=True)
    ranks.wait()
    if heads:
        _forget(partial, ranks, None)
        ranks.wait()


def load(learner: nn.Module, path: Path) -> None:
    """Take over a finished stage, of split heads the rows that are here."""
    state = checkpoint.read(path)["learner"]
    for name, (_, part) in _own(learner).items():
        state[name] = state[name][part.first : part.beyond].clone()
    learner.load_state_dict(state)


def whole(module: M, ranks: Ranks) -> M:
    """A module with all classes on rank 0: a copy, or itself where nothing is split. All ranks must call.

    Other ranks get what they gave.
    """
    found = {name: _whole(tensor.detach(), part) for name, (tensor, part) in _own(module).items()}
    if not found or not ranks.first:
        return module
    made = copy.deepcopy(module)
    for inner in made.modules():
        if isinstance(inner, Head):
            inner.shard = None
    for name, tensor in found.items():
        place, _, last = name.rpartition(".")
        inner = made.get_submodule(place)
        setattr(inner, last, nn.Parameter(tensor, getattr(inner, last).requires_grad))
    return made


def _whole(rows: Tensor, part: Part) -> Tensor:
    """All classes' rows [classes, ...] on the processor of rank 0; on the others their own."""
    most = -(-part.classes // part.ranks.count)
    own = torch.zeros(most, *rows.shape[1:])
    own[: len(rows)] = rows.detach().cpu()
    gathered = [torch.empty_like(own) for _ in range(part.ranks.count)] if part.ranks.first else None
    dist.gather(own, gathered, 0)
    if gathered is None:
        return rows
    bounds = [sharded.shard(part.classes, number, part.ranks.count) for number in range(part.ranks.count)]
    return torch.cat([every[: beyond - first] for every, (first, beyond) in zip(gathered, bounds, strict=True)])


def _indices(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int | None]:
    """The names of what is split, and each one's number in the optimiser's state; None for what is not trained."""
    places = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    return {
        name: places.index(id(tensor)) if id(tensor) in places else None for name, (tensor, _) in apart(learner).items()
    }


def _beside(path: Path, ranks: Ranks, step: tuple[int, int]) -> Path:
    return path.with_name(f"{path.stem}.{step[0]}-{step[1]}.rank-{ranks.number}-of-{ranks.count}.safetensors")


def _forget(path: Path, ranks: Ranks, kept: Path | None) -> None:
    """Remove this rank's files of other steps."""
    for left in path.parent.glob(f"{path.stem}.*-*.rank-{ranks.number}-of-{ranks.count}.safetensors"):
        if left != kept:
            left.unlink()
