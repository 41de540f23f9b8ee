"""Checkpoints as safetensors: a tree of tensors, numbers and strings, written atomically, read without pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kd2edge.errors import UserError
from kd2edge.files import write_atomic

_TENSOR = "__tensor__"


def write(tree: Any, path: Path) -> Path:
    """Write nested dicts and lists of tensors, numbers, strings, bools and None. Keys may be strings or integers."""
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(tree, "", tensors)
    return write_atomic(path, save(tensors, {"skeleton": json.dumps(skeleton)}))


def read(path: Path) -> Any:
    """Read what `write` wrote. Raises `UserError` when the file is missing, truncated or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads((file.metadata() or {})["skeleton"])
            return _restore(skeleton, file)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
        raise UserError(
            f"The checkpoint {path} is damaged: {error}.",
            "delete it and resume: the run goes on from the last finished stage",
        ) from error


def _flatten(node: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        tensors[where] = node.detach().cpu().contiguous().clone()
        return {_TENSOR: where}
    if isinstance(node, dict):
        return {"items": [[key, _flatten(item, f"{where}/{key}", tensors)] for key, item in node.items()]}
    if isinstance(node, list | tuple):
        return {"list": [_flatten(item, f"{where}/{index}", tensors) for index, item in enumerate(node)]}
    return {"value": node}


def _restore(node: Any, file: Any) -> Any:
    if _TENSOR in node:
        tensor: torch.Tensor = file.get_tensor(node[_TENSOR])
        return tensor
    if "items" in node:
        return {key: _restore(item, file) for key, item in node["items"]}
    if "list" in node:
        return [_restore(item, file) for item in node["list"]]
    return node["value"]
