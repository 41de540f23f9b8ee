"""What a compressed classifier loses class by class against FP32: the whole may keep what one class lost.

The largest of many noisy losses is larger than the largest true one, and the more so the more classes and the fewer
images each has: ten classes of a hundred images lose a few points somewhere by chance. So the interval is not that of
the class that came out worst, but what the intervals of all classes, each of which holds its true loss together with
all others (Bonferroni), say of the largest true loss: it is at least the highest of their lower ends, and at most the
highest of their upper ends, wherever it is.
"""

from typing import Any

import numpy as np

from kd2edge import stats
from kd2edge.data import Split
from kd2edge.edge.session import Floats
from kd2edge.metrics import predictions
from kd2edge.report.model import Number

ENOUGH = 20  # images of a class, below which its recall says nothing


def worst_class(
    logits: Floats, reference: Floats, split: Split, confidence: float = 0.95
) -> tuple[dict[str, Number], dict[str, Any]]:
    """`worst_class_drop`: the most points of recall that a class loses, of float32 [N, C] logits against FP32's.

    Classes of fewer than `ENOUGH` images are left out; `n` are the images of those that are not. The conditions name
    the class, how many of its images FP32 alone (`lost`) and the model alone (`won`) gets right, and its own interval.
    """
    right, before = (predictions(given) == split.labels for given in (logits, reference))
    n, lost, won = (
        np.bincount(split.labels[kept], minlength=len(split.classes))
        for kept in (slice(None), before & ~right, right & ~before)
    )
    judged = np.flatnonzero(n >= ENOUGH)
    if not len(judged):
        note = f"no class has {ENOUGH} images"
        return {"worst_class_drop": Number(value=None, unit="points", n=0, better="lower", note=note)}, {}
    each = stats.simultaneous(confidence, len(judged))
    counts = [(int(lost[c]), int(won[c]), int(n[c])) for c in judged]
    drops = np.array([100 * (lost - won) / n for lost, won, n in counts])
    intervals = 100 * np.array([stats.drop_interval(*count, each) for count in counts])
    worst = int(np.argmax(drops))
    low, high = intervals.max(axis=0).tolist()
    name = split.classes[judged[worst]]
    note = f"largest of {len(judged)} classes: {name}; the interval is that of the largest true loss of any"
    fields = {"value": float(drops[worst]), "unit": "points", "n": int(n[judged].sum()), "better": "lower"}
    number = Number.model_validate({**fields, "low": low, "high": high, "note": note})
    own = zip(("lost", "won", "n", "low", "high"), (*counts[worst], *intervals[worst].tolist()), strict=True)
    told = {"class": name, **dict(own), "of_classes": len(judged)}
    return {"worst_class_drop": number}, {"worst_class": told}
