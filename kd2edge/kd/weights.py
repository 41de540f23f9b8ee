"""Teacher weights: embedded ones, our own checkpoints, and anybody's state dict, by name or else in order, aloud."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kd2edge import shelves
from kd2edge.artifact import ancestors, describe, has_manifest, open_artifact
from kd2edge.errors import UserError, first_line
from kd2edge.files import write_atomic
from kd2edge.kd import heads
from kd2edge.kd.layout import Layout
from kd2edge.kd.net import Net
from kd2edge.run import LEDGER, Run
from kd2edge.shelves import nearest

EMBEDDED = Path(__file__).parent / "teachers"
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
COUNTER = "num_batches_tracked"  # of batch norm, which no net needs to compute
CLASSIFIERS = ("fc", "linear", "classifier", "head", "classifier.1", "head.fc")


def embedded() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in EMBEDDED.glob("*.safetensors"))


def locate(name: str) -> Path:
    """The file of embedded weights or of a path. Raises `UserError` when there is neither."""
    inside = EMBEDDED / f"{name}.safetensors"
    if inside.is_file():
        return inside
    if Path(name).is_file():
        return Path(name)
    raise UserError(
        f"There are no weights {name!r}{nearest(name, embedded())}.",
        f"a path, or one of: {', '.join(embedded())}; null trains the teacher anew",
    )


def load_into(net: Net, name: str, say: Callable[[str], None] | None = None, headless: bool = False) -> Path:
    """Load weights into a net and return the file they came from.

    Tensors are matched by name, after dropping wrappers' prefixes; a foreign net's classifier becomes the head. Whether
    a linear head has a bias is for the file's classifier to say. A published family's names are translated (see
    `layout`). Where names are missing all the same and there is somebody to `say` it to, `load_in_order` is tried: a
    guess is never silent. With `headless` the net's head stays as it is, whatever the file has.

    Raises `UserError` when the file cannot be read safely or is not what its manifest says, and when a tensor is
    missing or has another shape; the net is then unchanged.
    """
    path, given = _open(name)
    layout = _layout(given)
    if layout is not None:
        given = layout.translated(given, net)
    head = _head(given, getattr(net.backbone, "classifier_name", None))
    with _bias_fitted(net.head, given, head):
        wanted = {key: value for key, value in net.state_dict().items() if not (headless and key.startswith("head."))}
        found = {key: _find(key, given, head) for key in wanted}
        missing = [key for key, value in found.items() if value is None and not key.endswith(COUNTER)]
        if missing and say is not None and layout is None:
            return load_in_order(net, name, say)
        if missing and all(key.startswith("head.") for key in missing):
            cosine = "set teacher.head_from: centres to rebuild one from the training images"
            linear = "take weights that hold it; head_from: centres rebuilds one for a cosine, arcface or cosface head"
            raise UserError(
                f"{path} holds this net without its classifier.",
                linear if isinstance(net.head, heads.Linear) else cosine,
            )
        if missing:
            raise UserError(
                f"{path} does not hold this net: of {len(wanted)} tensors {len(missing)} are missing, "
                f"as {missing[0]!r}.",
                "check the model's options; its tensors are named " + ", ".join(list(given)[:3]) + ", …",
            )
        state = {key: _as_loaded(value) for key, value in found.items() if value is not None}
        _require_shapes(path, state, wanted)
    net.load_state_dict(state, strict=False)
    return path


def load_in_order(module: nn.Module, name: str, say: Callable[[str], None]) -> Path:
    """Load a file's tensors into a module one after the other, whatever they are called, and `say` so.

    The two must agree, tensor by tensor, in shape and in the last part of the name ("weight", "running_mean", …), and
    end together: that is how a published net whose layers come in the same order, under other names, is taken over.
    Raises `UserError` as `load_into` does, naming the first tensor that does not fit; the module is then unchanged.
    """
    path, given = _open(name)
    theirs = [(key, value) for key, value in given.items() if not key.endswith(COUNTER)]
    ours = [(key, value) for key, value in module.state_dict().items() if not key.endswith(COUNTER)]
    for number, ((key, own), (other, value)) in enumerate(zip(ours, theirs, strict=False), 1):
        if own.shape != value.shape or key.rpartition(".")[2] != other.rpartition(".")[2]:
            raise _out_of_order(path, f"its tensor {number}, {_tell(other, value)}, is none for {_tell(key, own)}")
    if len(ours) != len(theirs):
        over = (ours + theirs)[len(theirs)] if len(ours) > len(theirs) else theirs[len(ours)]
        raise _out_of_order(path, f"it holds {len(theirs)} tensors and the net {len(ours)}, the first over {over[0]!r}")
    module.load_state_dict({key: v.float() for (key, _), (_, v) in zip(ours, theirs, strict=True)}, strict=False)
    say(
        f"{path.name}: its {len(ours)} tensors were matched by shape and order, since their names are not this net's: "
        f"{theirs[0][0]} → {ours[0][0]}, …, {theirs[-1][0]} → {ours[-1][0]}."
    )
    return path


def _layout(given: Mapping[str, Tensor]) -> Layout | None:
    """The published family, of those that the shelf knows, whose names a state dict has."""
    kinds = (shelves.load(shelves.LAYOUTS, name, Layout) for name in shelves.names(shelves.LAYOUTS))  # type: ignore[type-abstract, unused-ignore]
    return next((layout for kind in kinds if (layout := kind()).fits(given)), None)


def _tell(key: str, value: Tensor) -> str:
    return f"{key} {tuple(value.shape)}"


def _out_of_order(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} does not hold this net, neither by name nor by shape and order: {why}.",
        "check the model's options, and that both nets define their layers in the same order",
    )


def _open(name: str) -> tuple[Path, dict[str, Tensor]]:
    """The file, as vouched for by its manifest if it has one, and its tensors without wrappers' prefixes."""
    path = locate(name)
    if has_manifest(path):
        open_artifact(path)
    return path, {_strip(key): value for key, value in _read(path).items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tree: Any = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"The weights {path} cannot be read: {first_line(error)}.") from error
    for key in ("state_dict", "model_state_dict", "state_dict_backbone", "model", "net"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    tensors = {str(k): v for k, v in tree.items() if isinstance(v, Tensor)} if isinstance(tree, Mapping) else {}
    if not tensors:
        raise UserError(f"{path} holds no state dict.", "save model.state_dict(), not the model")
    return tensors


def _unpickle(path: Path) -> Any:
    """Plain tensors only; a Namespace holds values and no more, and many trainings leave their options as one."""
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own family here; the cause is always the file
        raise ValueError(f"not loadable as plain tensors ({first_line(error)})") from error


def _strip(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _head(given: Mapping[str, Tensor], classifier: str | None) -> str:
    """What the file calls the classifier; what a foreign net calls its own is looked for before the usual names."""
    known = ((classifier,) if classifier else ()) + ("head", *CLASSIFIERS)
    return next((name for name in known if f"{name}.weight" in given), "head")


@contextmanager
def _bias_fitted(head: heads.Head, given: Mapping[str, Tensor], name: str) -> Iterator[None]:
    """A linear head has a bias where the file's classifier has one; as it was again if loading fails."""
    before, weight, bias = head.bias, given.get(f"{name}.weight"), given.get(f"{name}.bias")
    differs = isinstance(head, heads.Linear) and weight is not None and (bias is None) != (before is None)
    if differs:
        head.bias = None if bias is None else nn.Parameter(torch.zeros(len(head.weight)))
    try:
        yield
    except UserError:
        if differs:
            head.bias = before
        raise


def _as_loaded(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _require_shapes(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    wrong = [key for key, value in state.items() if value.shape != wanted[key].shape]
    if wrong:
        ours, theirs = tuple(wanted[wrong[0]].shape), tuple(state[wrong[0]].shape)
        raise UserError(
            f"{path} does not fit this net: {wrong[0]} is {theirs} in the file and {ours} in the net.",
            "check the model's options, and that the data set has as many classes as the teacher",
        )


def _find(key: str, given: Mapping[str, Tensor], head: str) -> Tensor | None:
    if key.startswith("head."):
        value = given.get(f"{head}.{key.removeprefix('head.')}")
        return value.flatten(1) if value is not None and value.ndim == 4 else value  # a 1x1 convolution's
    names = [key, key.removeprefix("backbone."), key.removeprefix("backbone.body.")]
    return next((given[name] for name in names if name in given), None)


def write(net: Net, path: Path) -> Path:
    """Write a net's state dict as safetensors, under the names torch gives its tensors."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in net.state_dict().items()}
    return write_atomic(path, save(state))


def embed(run: Run, name: str) -> Path:
    """Put the student of a finished run among the embedded weights, in fp16, its ledger and log beside it."""
    made = run.artifact("fp32", "weights")
    state = {k: v.half() if v.is_floating_point() else v for k, v in load_file(made.path).items()}
    path = write_atomic(EMBEDDED / f"{name}.safetensors", save(state))
    write_atomic(EMBEDDED / f"{name}.ledger.jsonl", (run.path / LEDGER).read_bytes())
    write_atomic(EMBEDDED / f"{name}.log.jsonl", (run.path / "log" / "fp32.jsonl").read_bytes())
    chain = {"parents": (made.manifest.sha256,), "lineage": ancestors(made)}
    describe(path, kind="weights", role="teacher", verb="embed", precision="fp16", **chain)
    return path
