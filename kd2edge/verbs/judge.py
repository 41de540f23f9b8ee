"""Judges choices by images that no verdict rests on: the validation split, or training images not used to calibrate."""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kd2edge.artifact import Artifact
from kd2edge.data import Ints, Source, Split, normalize
from kd2edge.edge.session import Floats, Session
from kd2edge.errors import UserError
from kd2edge.graph.parity import compare
from kd2edge.metrics import predictions
from kd2edge.metrics.paired import tar_drop, top1_drop
from kd2edge.schema.search import Score
from kd2edge.verbs.models import preprocessing_of

BATCH = 32
SEEN = "training images that did not calibrate"


class Judge:
    """Images of a model's data, decoded once, and what outputs on them are worth.

    At most `images` of the validation split, else of the training images behind the `used` ones that calibration drew
    by `seed`. For embeddings whole identities are taken. `told` says which images they are, `seen` whether training may
    have seen them. Raises `UserError` where the data has test images only.
    """

    def __init__(self, model: Artifact, source: Source, images: int, used: int, seed: int) -> None:
        self.preprocessing = preprocessing_of(model)
        self.embedding = model.manifest.output == "embedding" or model.manifest.task == "verification"
        self.metric = "tar@1e-3" if self.embedding else "top1"
        split, index, kind = _set_aside(source, used, seed)
        chosen = _identities(split, index, images) if self.embedding else index[:images]
        self.pixels, self.labels = split.read(chosen), split.labels[chosen]
        self.told, self.seen = f"{len(chosen)} {kind}", kind == SEEN

    def fingerprint(self) -> str:
        """sha256 of labels and pixels."""
        return hashlib.sha256(self.labels.tobytes() + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    def batches(self, size: int) -> Iterator[Floats]:
        """All images float32 [B, C, H, W], the last batch shorter."""
        for start in range(0, len(self.pixels), size):
            yield normalize(self.pixels[start : start + size], self.preprocessing)

    def outputs(self, session: Session, most: int) -> Floats:
        """What a session makes of all images, float32 [N, D], in batches of its fixed size or of at most `most`."""
        size = session.fixed_batch or min(BATCH, most)
        parts = []
        for batch in self.batches(size):
            full = np.resize(batch, (size, *batch.shape[1:])) if session.fixed_batch else batch
            parts.append(session.infer(full)[: len(batch)])
        return np.concatenate(parts)

    def score(self, outputs: Floats, reference: Floats) -> Score:
        """What outputs float32 [N, D] are worth against FP32's.

        Raises `UserError` if they are not finite, or the images too few for the metric.
        """
        if not np.isfinite(outputs).all():
            raise UserError("Its outputs hold NaN or infinite values.")
        found = (tar_drop if self.embedding else top1_drop)(outputs, reference, self.labels)
        same = predictions(outputs) == predictions(reference)
        return Score(
            value=found.value,
            drop=found.drop,
            low=found.low,
            high=found.high,
            cosine=compare(reference, outputs).cosine_mean,
            agreement=None if self.embedding else 100 * float(same.mean()),
            images=len(outputs),
        )


def _set_aside(source: Source, used: int, seed: int) -> tuple[Split, Ints, str]:
    """A split, the positions in it that may be judged by, in random order, and what they are in words."""
    try:
        split = source.split("val")
        return split, _order(split, 0), "validation images"
    except UserError as no_validation:
        try:
            split = source.split("train")
        except UserError:
            raise no_validation from None
    left = _order(split, seed)[used:]
    if not len(left):
        raise UserError(
            f"All {len(split)} training images calibrate, and none is left to judge by.",
            "give a validation split, or more training images",
        )
    return split, left, SEEN


def _order(split: Split, seed: int) -> Ints:
    return np.asarray(np.random.default_rng(seed).permutation(len(split)), np.int64)


def _identities(split: Split, index: Ints, images: int) -> Ints:
    """All images, among those of `index`, of as many identities as `images` allow, at least two."""
    labels = split.labels[index]
    identities: npt.NDArray[np.int64] = np.random.default_rng(0).permutation(np.unique(labels))
    sizes = np.bincount(labels)[identities]
    chosen = identities[: max(2, int((np.cumsum(sizes) <= images).sum()))]
    return np.sort(index[np.isin(labels, chosen)])
