"""What a file is worth on damaged images, and whether compression made it more brittle than FP32.

Every file sees the same damage of the same images, at every kind and severity that the suite asks for. Images are what
is drawn anew for the intervals, each with all its damage, and two files are compared on the same ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge import stats
from kd2edge.data import Ints, Split
from kd2edge.edge.damaged import SEED, Damaged, sample
from kd2edge.edge.decoded import Decoded, decode
from kd2edge.edge.image_means import OF_CHANGES, OF_SHARES, Doubles, intervals
from kd2edge.edge.operating import OPERATING_FAR, power
from kd2edge.edge.session import Floats
from kd2edge.errors import UserError
from kd2edge.metrics import predictions, verify
from kd2edge.report.model import Comparison, Number
from kd2edge.schema import Corruptions

TAR = f"tar@{power(OPERATING_FAR)}"
DROP = "corruption_drop"
NO_INTERVAL = "no interval: pairs that share an image are not independent"
FEW = f"a FAR of {power(OPERATING_FAR)} needs more impostor pairs"

Infer = Callable[[str, Decoded], Floats | None]
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Robust:
    """What was found of one file: numbers, the whole table in the conditions, differences from FP32; or its fault."""

    numbers: dict[str, Number] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    fault: str | None = None


@dataclass
class _Marks:
    """A file's marks in percent, float64 [N] an image where it classifies, else [1]; `damaged` by kind and severity."""

    clean: Doubles
    damaged: dict[str, dict[int, Doubles]] = field(default_factory=dict)

    def columns(self, metric: str) -> dict[str, Doubles]:
        """By the name of each number what it is the mean of."""
        kinds = {kind: np.mean(list(found.values()), axis=0) for kind, found in self.damaged.items()}
        whole = np.mean(list(kinds.values()), axis=0)
        found = {f"{metric}@{kind}": column for kind, column in kinds.items()}
        return found | {f"{metric}_corrupted": whole, DROP: self.clean - whole}


def refuse_protocol(split: Split) -> None:
    """Raise `UserError` for a split that is judged by lists or templates: of damaged images there are none."""
    if split.protocol is not None:
        raise UserError(
            "Damaged images are judged by classes or by all pairs, and this test set brings a protocol of its own.",
            "take `corruptions` out of the suite",
        )


def robustness(
    outputs: Mapping[str, Floats],
    output: str,
    split: Split,
    asked: Corruptions,
    infer: Infer,
    room: Path,
    versus: str,
    confidence: float = 0.95,
    tell: Tell = lambda text, share: None,
) -> dict[str, Robust]:
    """By role, of those whose `outputs` float32 [N, D] over the whole, undamaged split are "logits" or "embedding".

    `infer` returns a role's outputs over damaged images; where it returns None, the fault is known to it, and the role
    left out. `room` holds those images meanwhile. With M "top1", or "tar@1e-3" at a threshold found anew each time:
    `M@kind` is the mean over severities, `M_corrupted` over all kinds, `corruption_drop` how many points that is below
    the same images undamaged; each is compared with that of the role `versus`. A TAR has neither interval nor
    comparison. Raises `UserError` as `refuse_protocol`.
    """
    refuse_protocol(split)
    chosen = sample(split, asked.images, whole=output != "logits")
    labels, judge = split.labels[chosen], _right if output == "logits" else _tar
    marks: dict[str, _Marks] = {}
    faults: dict[str, Robust] = {}
    for role, clean in outputs.items():
        try:
            marks[role] = _Marks(judge(clean[chosen], labels))
        except UserError as error:
            faults[role] = Robust(fault=error.message)
    cells = [(kind, severity) for kind in asked.kinds for severity in asked.severities]
    for place, (kind, severity) in enumerate(cells):
        tell(f"damaged images: {kind.replace('_', ' ')}, severity {severity}", place / len(cells))
        images = decode(Damaged(split, chosen, kind, severity), room / f"{kind}-{severity}.npy")
        found = {role: infer(role, images) for role in marks}
        images.path.unlink()
        for role, damaged in found.items():
            try:
                if damaged is not None:
                    marks[role].damaged.setdefault(kind, {})[severity] = judge(damaged, labels)
                    continue
            except UserError as error:
                faults[role] = Robust(fault=f"{error.message.rstrip('.')}, on images with {kind.replace('_', ' ')}.")
            del marks[role]
    metric = "top1" if output == "logits" else TAR
    return faults | {
        role: _told(mark, marks.get(versus) if role != versus else None, metric, versus, len(chosen), confidence)
        for role, mark in marks.items()
    }


def _right(logits: Floats, labels: Ints) -> Doubles:
    if not np.isfinite(logits).all():
        raise UserError("Its outputs hold NaN or infinite values.")
    return np.where(predictions(logits) == labels, 100.0, 0.0)


def _tar(embeddings: Floats, labels: Ints) -> Doubles:
    return np.array([100 * verify(embeddings, labels, (OPERATING_FAR,)).tar[OPERATING_FAR]])


def _told(mark: _Marks, reference: _Marks | None, metric: str, versus: str, images: int, confidence: float) -> Robust:
    columns = mark.columns(metric)
    sampled = metric == "top1" and images >= 2
    table = {kind: {str(s): _value(of) for s, of in found.items()} for kind, found in mark.damaged.items()}
    told = {"metric": metric, "images": images, "seed": SEED, "clean": _value(mark.clean), "table": table}
    numbers = {name: _number(name, column, images, confidence if sampled else None) for name, column in columns.items()}
    if reference is None or not sampled:
        return Robust(numbers, {"corruptions": told})
    theirs = reference.columns(metric)
    changes = {name: column - theirs[name] for name, column in columns.items()}
    how = f"bootstrap over {images:,} images, each with {sum(map(len, table.values()))} kinds and severities of damage"
    found = intervals(np.column_stack(list(changes.values())), OF_CHANGES, confidence)
    comparisons = [
        _comparison(name, versus, change, interval, how)
        for (name, change), interval in zip(changes.items(), found, strict=True)
    ]
    return Robust(numbers, {"corruptions": told}, tuple(comparisons))


def _comparison(name: str, versus: str, change: Doubles, interval: stats.Interval | None, how: str) -> Comparison:
    low, high = interval or (None, None)
    fields = {"metric": name, "versus": versus, "kind": "change", "value": float(change.mean()), "n": len(change)}
    return Comparison.model_validate({**fields, "low": low, "high": high, "how": how})


def _number(name: str, column: Doubles, images: int, confidence: float | None) -> Number:
    """With an interval where a confidence is given."""
    value, drop = _value(column), name == DROP
    fields = {"value": value, "unit": "points" if drop else "%", "n": images, "better": "lower" if drop else "higher"}
    if confidence is None or value is None:
        return Number.model_validate({**fields, "note": FEW if value is None else NO_INTERVAL})
    low, high = intervals(column[:, None], OF_CHANGES if drop else OF_SHARES, confidence)[0] or (None, None)
    return Number.model_validate({**fields, "low": low, "high": high})


def _value(column: Doubles) -> float | None:
    mean = float(np.mean(column))
    return None if np.isnan(mean) else mean
