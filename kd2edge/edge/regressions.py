"""The worst cases of what compression broke: images that FP32 gets right and a compressed file wrong, to be looked at.

A case shows the image itself, so a suite that judges faces says `regressions: false`.
"""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kd2edge.data import Images, Ints, PairList, Split, Templates
from kd2edge.edge.operating import Operating, Point
from kd2edge.edge.session import Floats
from kd2edge.metrics import predictions
from kd2edge.metrics.calibration import Doubles, softmax
from kd2edge.metrics.crossings import Crossing, crossings, listed_crossings
from kd2edge.report.model import Regression

MOST = 12
SIDE = 128  # pixels, to which larger images are reduced


@dataclass(frozen=True)
class _Case:
    """How far the decision moved the wrong way, the images it was about, and what is said of it."""

    moved: float
    images: tuple[int, ...]
    said: str


def of_classes(outputs: Mapping[str, Floats], split: Split, versus: str, roles: tuple[str, ...]) -> list[Regression]:
    """Images that the logits of `versus`, and of a "teacher" where there is one, get right and a role's wrong.

    `outputs` are float32 [N, C] by role. The `MOST` whose true class lost most of its probability's margin over the
    next come first; ties in the order of roles and images.
    """
    judges = [role for role in ("teacher", versus) if role in outputs]
    cases = [(case, role) for role in roles for case in _misread(outputs, split, judges, role)]
    return _worst(cases, split, versus)


def of_pairs(
    outputs: Mapping[str, Floats], split: Split, versus: str, roles: tuple[str, ...], frozen: Operating
) -> list[Regression]:
    """Pairs that embeddings of `versus` decide rightly at its own threshold and a role's wrongly at the same.

    `outputs` are float32 [N, D] by role. Pairs are all of the split where it is known who is who, else the listed ones;
    there are none of templates, nor where no threshold is known. The `MOST` whose cosine moved furthest come first.
    """
    listed = isinstance(split.protocol, PairList) and not split.classes
    point = frozen.listed if listed else frozen.all_pairs
    if point is None or isinstance(split.protocol, Templates):
        return []
    before = outputs[versus]
    found = {role: _crossed(outputs[role], before, split, point.threshold) for role in roles}
    return _worst([(_pair(pair, split, point), role) for role in roles for pair in found[role]], split, versus)


def _crossed(after: Floats, before: Floats, split: Split, threshold: float) -> list[Crossing]:
    if isinstance(split.protocol, PairList) and not split.classes:
        return listed_crossings(after, before, split.protocol.pairs, split.protocol.same, threshold, MOST)
    return crossings(after, before, split.labels, threshold, MOST)


def _misread(outputs: Mapping[str, Floats], split: Split, judges: list[str], role: str) -> Iterator[_Case]:
    chosen = {name: predictions(outputs[name]) for name in (*judges, role)}
    right = np.all([chosen[name] == split.labels for name in judges], axis=0)
    wrong = np.flatnonzero(right & (chosen[role] != split.labels))
    shares = {name: softmax(outputs[name][wrong]) for name in chosen}
    before, after = (_margin(shares[name], split.labels[wrong]) for name in (judges[-1], role))
    for place in np.argsort(after - before, kind="stable")[:MOST]:
        image = int(wrong[place])
        choices = {name: int(chosen[name][image]) for name in chosen}
        told = [f"{name}: {split.classes[c]} {shares[name][place, c]:.2f}" for name, c in choices.items()]
        truth = split.classes[split.labels[image]]
        yield _Case(float(before[place] - after[place]), (image,), "; ".join([*told, f"truth: {truth}"]))


def _margin(shares: Doubles, labels: Ints) -> Doubles:
    """By how much the true class's probability leads the best other's, -1..1; [N] of [N, C]."""
    images = np.arange(len(shares))
    others = shares.copy()
    others[images, labels] = -np.inf
    return np.asarray(shares[images, labels] - others.max(axis=1, initial=-np.inf))


def _pair(pair: Crossing, split: Split, point: Point) -> _Case:
    who = "same" if pair.same else "different"
    if split.classes:
        one, other = (split.classes[split.labels[image]] for image in (pair.one, pair.other))
        who = f"same: {one}" if pair.same else f"different: {one} and {other}"
    scores = f"cosine {pair.before:.2f} → {pair.after:.2f}, threshold {point.threshold:.2f}"
    return _Case(pair.moved, (pair.one, pair.other), f"{who}; {scores}")


def _worst(cases: list[tuple[_Case, str]], split: Split, versus: str) -> list[Regression]:
    worst = sorted(cases, key=lambda case: -case[0].moved)[:MOST]
    return [
        Regression(role=role, versus=versus, images=_drawn(split.read(np.array(case.images))), said=case.said)
        for case, role in worst
    ]


def _drawn(images: Images) -> tuple[str, ...]:
    """uint8 [B, H, W, C] images as PNG in base64, grey or RGB, no side longer than `SIDE`."""
    return tuple(_png(image) for image in images)


def _png(image: Images) -> str:
    drawing = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    drawing.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    drawing.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
