"""`sensitivity`: which groups of layers INT8 harms, each in INT8 alone and each left out, and the culprit."""

import tempfile
from pathlib import Path

from kd2edge.edge.session import open_backend
from kd2edge.graph.alone import can_be_int8
from kd2edge.graph.cost import layer_macs
from kd2edge.progress import Progress, Silent
from kd2edge.report.model import write_json
from kd2edge.report.sensitivity import answer, harm
from kd2edge.schema.search import Choice, Harm, Score, Sensitivity
from kd2edge.verbs.journal import Journal
from kd2edge.verbs.subject import IMAGES, Subject, subject
from kd2edge.verbs.trials import Trials

FILE = "sensitivity.json"
ORACLE = "onnxruntime"  # accuracy needs no device


def sensitivity(
    source: Path,
    target: str | None = None,
    data: Path | None = None,
    images: int = IMAGES,
    preprocess: str | None = None,
    task: str | None = None,
    remedies: bool = True,
    progress: Progress | None = None,
) -> Sensitivity:
    """The harm of INT8 in each group of a run's student or of an ONNX file, and sensitivity.json beside it.

    Judged in ONNX Runtime by at most `images` images of the validation split, or else by training images that did not
    calibrate; never by test images. Without `remedies` the layers are as they came, and an outlier is seen that
    equalization would mend. Raises `UserError` as `quantize` does, and for data with test images only.
    """
    progress = progress or Silent()
    made = subject(source, target, data, images, preprocess, task, progress.say, remedies)
    with made.locked(), tempfile.TemporaryDirectory(prefix="kd2edge-sensitivity-") as room:
        journal = Journal(made.folder, {**made.settings(), "backend": ORACLE})
        trials = Trials(made, open_backend(ORACLE), journal, Path(room))
        found = _found(made, trials, progress)
        write_json(found, made.folder / FILE)
    progress.say(f"Sensitivity: {made.folder / FILE}")
    return found


def _found(made: Subject, trials: Trials, progress: Progress) -> Sensitivity:
    names = tuple(made.groups)
    kept = _kept(made)
    progress.start("sensitivity", 2 * len(names) + len(kept) + 1)

    def told(name: str, score: Score) -> Score:
        progress.advance(group=name, drop=score.drop)
        return score

    counts = layer_macs(made.calibrated.model)
    whole = told("all", trials.score(Choice(int8=names)))
    harms = []
    for name in names:
        rest = tuple(other for other in names if other != name)
        alone = told(name, trials.score(Choice(int8=(name,))))
        without = told(f"all but {name}", trials.score(Choice(int8=rest)))
        harms.append(_harm(name, made.groups[name], counts, alone, without, None))
    for name, (layers, reason) in kept.items():
        harms.append(_harm(name, layers, counts, told(name, trials.alone(layers)), None, reason))
    ordered = tuple(sorted(harms, key=harm, reverse=True))
    return Sensitivity(conditions=made.conditions(), whole=whole, harms=ordered, answer=answer(whole, ordered))


def _harm(
    name: str, layers: tuple[str, ...], counts: dict[str, int], alone: Score, without: Score | None, kept: str | None
) -> Harm:
    share = 100 * sum(counts[layer] for layer in layers) / sum(counts.values())
    return Harm(group=name, layers=layers, macs=share, alone=alone, without=without, kept=kept)


def _kept(made: Subject) -> dict[str, tuple[tuple[str, ...], str]]:
    """By group, the layers that the policy keeps though they could be quantized, and the first one's reason."""
    able = can_be_int8(made.calibrated.model)
    found = {group.name: tuple(n for n in group.layers if n in made.kept and n in able) for group in made.every}
    return {name: (layers, made.kept[layers[0]]) for name, layers in found.items() if layers}
