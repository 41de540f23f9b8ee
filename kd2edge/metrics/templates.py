"""Template verification as IJB-B and IJB-C have it: images pooled to templates, listed pairs scored by cosine.

Pooling is that of insightface's script: an image's embedding keeps its length, which grows with its quality, and is
weighed by its detector's score; images of one medium (the frames of a video) are averaged, the media of a template
summed. All of that is one weighted sum. Pairs are scored by blocks of a matrix product where they are many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kd2edge.data import Templates
from kd2edge.errors import UserError
from kd2edge.metrics._clusters import ClusterTar
from kd2edge.metrics._cosine import Floats, Ints
from kd2edge.metrics._pairs import refuse_none
from kd2edge.metrics.identification import Identification, average, identify
from kd2edge.metrics.roc import IJB_FARS, Bools, Roc, roc_at

Places = npt.NDArray[np.int32]

IMAGES = 512  # pooled at a time
ROWS = 256  # of the cosine matrix at a time: 20 MB for IJB-C's 19,593 probes
PAIRS = 4096  # gathered at a time
TABLE = 1 << 24  # identifiers below it are found by a table
DENSE = 90  # cosines of a matrix product cost what one does whose two vectors are gathered, measured


@dataclass(frozen=True)
class Pooling:
    """How images become a template; the defaults are insightface's.

    Without `keep_norm` each embedding is first divided by its length; without `detector_score` images weigh the same;
    without `media_mean` every image counts as a medium of its own.
    """

    keep_norm: bool = True
    detector_score: bool = True
    media_mean: bool = True


@dataclass(frozen=True)
class TemplateResult:
    """1:1 by FAR; 1:N by gallery, and its mean. `tars` are the exact TARs by weights of what is to be `resampled`."""

    roc: Roc
    tars: ClusterTar = field(repr=False, compare=False)
    resampled: str  # "subjects" or "templates"
    galleries: dict[str, Identification]
    identification: Identification | None


def judge_templates(
    embeddings: Floats, protocol: Templates, fars: Sequence[float] = IJB_FARS, pooling: Pooling = Pooling()
) -> TemplateResult:
    """All that a template protocol asks of float32 [N, D] embeddings, one an image; with `flip`, the mirror's is added.

    Raises `UserError` for embeddings that are not finite, templates of length zero or with two subjects, and unless
    there are pairs of both kinds.
    """
    known, vectors, scores = _scored(embeddings, protocol, pooling)
    tars, resampled = _by_cluster(scores, known, protocol, fars)
    galleries = _identified(known, vectors, protocol)
    found = roc_at(scores, protocol.same, fars)
    return TemplateResult(found, tars, resampled, galleries, average(list(galleries.values())))


def template_tars(
    embeddings: Floats, protocol: Templates, fars: Sequence[float] = IJB_FARS, pooling: Pooling = Pooling()
) -> tuple[ClusterTar, str]:
    """The `tars` of `judge_templates` alone, and what is to be resampled. Raises `UserError` as it does."""
    known, _, scores = _scored(embeddings, protocol, pooling)
    return _by_cluster(scores, known, protocol, fars)


def _scored(embeddings: Floats, protocol: Templates, pooling: Pooling) -> tuple[Ints, Floats, Floats]:
    """The templates' identifiers and embeddings, as `pool` has them, and the cosines of the listed pairs."""
    refuse_none(int(protocol.same.sum()), int((~protocol.same).sum()))
    known, vectors = pool(embeddings, protocol, pooling)
    return known, vectors, pair_scores(vectors, *_sides(known, protocol))


def _sides(known: Ints, protocol: Templates) -> tuple[Places, Places]:
    left, right = (places(protocol.pairs[:, side], known, "a pair") for side in (0, 1))
    return left, right


def _by_cluster(scores: Floats, known: Ints, protocol: Templates, fars: Sequence[float]) -> tuple[ClusterTar, str]:
    """By subjects where the galleries and probes tell those of all templates, else by templates."""
    left, right = _sides(known, protocol)
    subjects = _subjects(known, protocol)
    if subjects is None:
        return ClusterTar(scores, protocol.same, left, right, fars), "templates"
    return ClusterTar(scores, protocol.same, subjects[left], subjects[right], fars), "subjects"


def pool(embeddings: Floats, protocol: Templates, pooling: Pooling = Pooling()) -> tuple[Ints, Floats]:
    """The templates' identifiers, int64 [T] ascending, and their embeddings, float32 [T, D] of length one.

    Raises `UserError` for embeddings that are not finite, and templates of length zero.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(protocol.template):
        raise UserError(f"Embeddings {embeddings.shape} do not fit a list of {len(protocol.template)} images.")
    known, place = np.unique(protocol.template, return_inverse=True)
    weights = _weights(embeddings, protocol, place, pooling)
    order = np.argsort(place, kind="stable")
    sums = np.zeros((len(known), embeddings.shape[1]), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        for start in range(0, len(order), IMAGES):
            rows = order[start : start + IMAGES]
            first, last = place[rows[0]], place[rows[-1]]
            share = np.zeros((last - first + 1, len(rows)), np.float32)
            share[place[rows] - first, np.arange(len(rows))] = weights[rows]
            sums[first : last + 1] += share @ embeddings[rows]
        lengths = np.sqrt(np.einsum("td,td->t", sums, sums, dtype=np.float64))
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise _faulty(embeddings, protocol, known, lengths)
    return known, np.asarray(sums / lengths[:, None], np.float32)


def pair_scores(vectors: Floats, left: Places, right: Places) -> Floats:
    """Cosines, float32 [P], of the rows `left` and `right`, int32 [P], of float32 [T, D] vectors of length one.

    Every cosine of a block of templates is computed, of which the listed are taken: in IJB-C, where each list names its
    own templates, every fourth or fifth. Where few are listed their vectors are gathered instead.
    """
    ours, theirs = (np.bincount(side, minlength=len(vectors)) > 0 for side in (left, right))
    apart, together = int(ours.sum()) * int(theirs.sum()), len(vectors) ** 2 // 2
    if min(apart, together) > DENSE * len(left):
        return _gathered(vectors, left, right)
    if together < apart:
        return _by_blocks(vectors, vectors, np.minimum(left, right), np.maximum(left, right), upper=True)
    row, column = (_numbered(used)[side] for used, side in ((ours, left), (theirs, right)))
    return _by_blocks(vectors[ours], vectors[theirs], row, column, upper=False)


def _numbered(used: Bools) -> Places:
    return np.asarray(np.cumsum(used) - 1, np.int32)


def _gathered(vectors: Floats, left: Places, right: Places) -> Floats:
    scores = np.empty(len(left), np.float32)
    for start in range(0, len(left), PAIRS):
        part = slice(start, start + PAIRS)
        scores[part] = np.einsum("pd,pd->p", vectors[left[part]], vectors[right[part]])
    return scores


def _by_blocks(ours: Floats, theirs: Floats, row: Places, column: Places, *, upper: bool) -> Floats:
    """The dot products of `ours[row]` and `theirs[column]`; with `upper`, no column is below its row."""
    block = np.asarray(row // ROWS, np.uint16)
    order = np.argsort(block, kind="stable")  # of 16 bits: numpy sorts by digits, in linear time
    starts = range(0, len(ours), ROWS)
    parts = np.split(order, np.cumsum(np.bincount(block, minlength=len(starts)))[:-1])
    scores = np.empty(len(row), np.float32)
    for start, here in zip(starts, parts, strict=True):
        left_out = start if upper else 0
        cosines = ours[start : start + ROWS] @ theirs[left_out:].T
        flat = (row[here] - start) * np.int32(cosines.shape[1]) + (column[here] - left_out)
        scores[here] = cosines.ravel().take(flat)
    return scores


def _weights(embeddings: Floats, protocol: Templates, place: Ints, pooling: Pooling) -> Floats:
    weights = np.ones(len(place))
    if pooling.detector_score:
        weights *= protocol.faceness
    if pooling.media_mean:
        media = np.unique(protocol.media, return_inverse=True)[1]
        _, one, sizes = np.unique(place * (media.max() + 1) + media, return_inverse=True, return_counts=True)
        weights /= sizes[one]
    if not pooling.keep_norm:
        lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))
        weights /= np.where(lengths > 0, lengths, 1)
    return np.asarray(weights, np.float32)


def _faulty(embeddings: Floats, protocol: Templates, known: Ints, lengths: npt.NDArray[np.float64]) -> UserError:
    """What to say of embeddings whose sums are not finite, or zero. One that is not finite spoils those around it."""
    hint = "a model that returns such embeddings cannot be judged: look at its precision and its inputs"
    for start in range(0, len(embeddings), PAIRS):
        wrong = np.flatnonzero(~np.isfinite(embeddings[start : start + PAIRS]).all(axis=1))
        if len(wrong):
            row = start + int(wrong[0])
            return UserError(f"The embedding in row {row}, of template {protocol.template[row]}, is not finite.", hint)
    template = known[np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))[0]]
    return UserError(f"The images of template {template} sum to nothing, or to more than float32 holds.", hint)


def places(wanted: Ints, known: Ints, what: str) -> Places:
    """Where int64 identifiers stand among the `known`, ascending. Raises `UserError` for one that is not there."""
    if known[0] >= 0 and known[-1] < TABLE:
        table = np.full(int(known[-1]) + 2, -1, np.int32)
        table[known] = np.arange(len(known))
        found = table[np.clip(wanted, -1, len(table) - 1)]
    else:
        found = np.searchsorted(known, wanted).astype(np.int32)
        found[known[np.minimum(found, len(known) - 1)] != wanted] = -1
    missing = np.flatnonzero(found < 0)
    if len(missing):
        raise UserError(f"Template {wanted[missing[0]]} of {what} has no images.", "take the lists anew")
    return np.asarray(found, np.int32)


def _subjects(known: Ints, protocol: Templates) -> Ints | None:
    """The subject of each known template, int64 [T], by the galleries and probes; None unless they tell all."""
    lists = [*protocol.galleries.values(), *protocol.probes.values()]
    listed = np.concatenate([np.empty((0, 2), np.int64), *lists])
    place = places(listed[:, 0], known, "a gallery or of the probes")
    subjects, told = np.full(len(known), -1, np.int64), np.zeros(len(known), np.bool_)
    subjects[place], told[place] = listed[:, 1], True
    wrong = np.flatnonzero(subjects[place] != listed[:, 1])
    if len(wrong):
        template = listed[wrong[0], 0]
        raise UserError(f"Template {template} has two subjects in the galleries and probes.", "take the lists anew")
    return np.unique(subjects, return_inverse=True)[1] if told.all() else None


def _identified(known: Ints, vectors: Floats, protocol: Templates) -> dict[str, Identification]:
    if not protocol.probes:
        return {}
    listed = np.concatenate(list(protocol.probes.values()))
    probes = vectors[places(listed[:, 0], known, "the probes")]
    return {
        name: identify(vectors[places(gallery[:, 0], known, f"gallery {name}")], gallery[:, 1], probes, listed[:, 1])
        for name, gallery in protocol.galleries.items()
    }
