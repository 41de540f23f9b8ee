"""`predict`: what a model says of image files: classes with their probabilities, or which images are alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd2edge import data, drawers
from kd2edge.artifact import Artifact, open_artifact
from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.progress import Progress, Silent
from kd2edge.run import Run, open_run
from kd2edge.schema import Section
from kd2edge.verbs.bench import run_items
from kd2edge.verbs.engines import run_engine
from kd2edge.verbs.gate import threshold_of, verdict_of
from kd2edge.verbs.images import Floats
from kd2edge.verbs.models import is_run, open_model, preprocessing_of, refuse_for_a_run

TOP = 5


class Classified(Section):
    """One image: its likeliest classes, best first, with their softmax probabilities."""

    image: str
    top: tuple[tuple[str, float], ...]


class Compared(Section):
    """Embeddings of some images: their norms, their first values, and the cosine of every two.

    `same` says which are above `threshold`, the report's at a FAR of 1e-3; both are null where none is known.
    """

    images: tuple[str, ...]
    norms: tuple[float, ...]
    first: tuple[tuple[float, ...], ...]
    cosine: tuple[tuple[float, ...], ...]
    threshold: float | None = None
    same: tuple[tuple[bool, ...], ...] | None = None


def predict(
    model: Path, images: Sequence[Path], preprocess: str | None = None, progress: Progress | None = None
) -> list[Classified] | Compared:
    """Run a model on image files: `Classified` for each if it gives logits, one `Compared` if it gives embeddings.

    `model` is a run, an ONNX file, or an engine with its manifest, which runs on the device it was built for. Of a run
    it is the one its gate recommends, else FP32. Either goes through its back end's `open`, as in `bench`. Raises
    `UserError` for an unreadable image, and for an engine that cannot run here.
    """
    progress = progress or Silent()
    if not images:
        raise UserError("There are no images to predict on.", "kd2edge predict MODEL IMAGE...")
    if is_run(model):
        refuse_for_a_run(preprocess=preprocess)
        run = open_run(model)
        opened, threshold = _of_run(run)
        progress.say(f"The run's {opened.manifest.role} model: {opened.path}")
    else:
        opened, threshold = open_model(model, preprocess, progress.say), None
    compute = run_engine if opened.manifest.kind == "engine" else _run_onnx
    outputs = compute(opened, _decoded(opened, images))
    if _gives_logits(opened):
        return [_classified(str(image), row, opened) for image, row in zip(images, outputs, strict=True)]
    return _compared(images, outputs, threshold)


def _of_run(run: Run) -> tuple[Artifact, float | None]:
    verdict = verdict_of(run.path)
    models = dict(run_items(run, drawers.read_target(run.recipe.target)))
    role = verdict.recommend if verdict and verdict.recommend in models else "fp32"
    if role not in models:
        raise UserError(f"{run.path} has no model yet.", f"kd2edge distill --run {run.path} --resume")
    return open_artifact(models[role].path), threshold_of(run.path, role)


def _run_onnx(model: Artifact, images: Floats) -> Floats:
    target = drawers.read_target("onnx-cpu")
    with open_backend(target.backend).open(model.path, target) as session:
        return in_batches(session, images, target.batch.max)


def _gives_logits(model: Artifact) -> bool:
    """A foreign model with no manifest is taken for a classifier: most are, and probabilities show when it is not."""
    return model.manifest.output != "embedding"


def _decoded(model: Artifact, images: Sequence[Path]) -> Floats:
    p = data.Preprocessing.model_validate(preprocessing_of(model).model_dump())
    return data.normalize(np.stack([data.decode(image, p) for image in images]), p)


def _classified(image: str, logits: Floats, model: Artifact) -> Classified:
    probabilities = softmax(logits.ravel())
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    names = model.manifest.classes or tuple(str(index) for index in range(len(probabilities)))
    if len(names) != len(probabilities):
        raise UserError(f"{model.path} gives {len(probabilities)} values, but its manifest names {len(names)} classes.")
    return Classified(image=image, top=tuple((names[index], float(probabilities[index])) for index in best))


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """exp(z) / sum exp(z) of logits [K], shifted by their largest so that nothing overflows."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    shares: npt.NDArray[np.float64] = powers / powers.sum()
    return shares


def _compared(images: Sequence[Path], embeddings: Floats, threshold: float | None) -> Compared:
    norms = np.linalg.norm(embeddings, axis=1)
    if not np.isfinite(norms).all() or not norms.all():
        raise UserError("An embedding is zero or not finite, so that it has no direction to compare.")
    unit = embeddings / norms[:, None]
    cosine = unit @ unit.T
    same = None if threshold is None else tuple(tuple(row) for row in (cosine > threshold).tolist())
    return Compared(
        images=tuple(str(image) for image in images),
        norms=tuple(norms.tolist()),
        first=tuple(tuple(row) for row in embeddings[:, :TOP].tolist()),
        cosine=tuple(tuple(row) for row in cosine.tolist()),
        threshold=threshold,
        same=same,
    )
