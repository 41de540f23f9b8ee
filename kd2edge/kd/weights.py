"""Teacher weights: embedded ones, our own checkpoints, and anybody's state dict, matched by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kd2edge.artifact import describe, has_manifest, open_artifact
from kd2edge.errors import UserError, first_line
from kd2edge.files import write_atomic
from kd2edge.kd import heads
from kd2edge.kd.net import Net
from kd2edge.run import LEDGER, Run
from kd2edge.shelves import nearest

EMBEDDED = Path(__file__).parent / "teachers"
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
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


def load_into(net: Net, name: str) -> Path:
    """Load weights into a net and return the file they came from.

    Tensors are matched by name, after dropping wrappers' prefixes; a foreign net's classifier becomes the head. Whether
    a linear head has a bias is for the file's classifier to say.

    Raises `UserError` when the file cannot be read safely or is not what its manifest says, and when a tensor is
    missing or has another shape.
    """
    path = locate(name)
    if has_manifest(path):
        open_artifact(path)
    given = {_strip(key): value for key, value in _read(path).items()}
    head = _head(given, getattr(net.backbone, "classifier_name", None))
    _fit_bias(net.head, given, head)
    wanted = net.state_dict()
    found = {key: _find(key, given, head) for key in wanted}
    missing = [key for key, value in found.items() if value is None and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path} does not hold this net: of {len(wanted)} tensors {len(missing)} are missing, as {missing[0]!r}.",
            "check the model's options; its tensors are named " + ", ".join(list(given)[:3]) + ", …",
        )
    state = {
        key: value.float() if value.is_floating_point() else value for key, value in found.items() if value is not None
    }
    wrong = [key for key, value in state.items() if value.shape != wanted[key].shape]
    if wrong:
        ours, theirs = tuple(wanted[wrong[0]].shape), tuple(state[wrong[0]].shape)
        raise UserError(
            f"{path} does not fit this net: {wrong[0]} is {theirs} in the file and {ours} in the net.",
            "check the model's options, and that the data set has as many classes as the teacher",
        )
    net.load_state_dict(state, strict=False)
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tree: Any = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"The weights {path} cannot be read: {first_line(error)}.") from error
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    tensors = {str(k): v for k, v in tree.items() if isinstance(v, Tensor)} if isinstance(tree, Mapping) else {}
    if not tensors:
        raise UserError(f"{path} holds no state dict.", "save model.state_dict(), not the model")
    return tensors


def _unpickle(path: Path) -> Any:
    try:
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


def _fit_bias(head: heads.Head, given: Mapping[str, Tensor], name: str) -> None:
    weight, bias = given.get(f"{name}.weight"), given.get(f"{name}.bias")
    if isinstance(head, heads.Linear) and weight is not None and (bias is None) != (head.bias is None):
        head.bias = None if bias is None else nn.Parameter(torch.zeros(len(head.weight)))


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
    describe(path, kind="weights", role="teacher", verb="embed", precision="fp16", parents=(made.manifest.sha256,))
    return path
