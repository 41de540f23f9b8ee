"""Accuracy in depth: what stands behind the numbers of the files of a bench, once all have run over the clean images.

Calibration and classes, series to be drawn, damaged images where the suite asks for them, and the worst regressions.
"""

from collections.abc import Callable, Mapping, Sequence

from kd2edge.data import Split
from kd2edge.edge import regressions, traces
from kd2edge.edge.calibrated import calibrated
from kd2edge.edge.classes import worst_class
from kd2edge.edge.operating import operating
from kd2edge.edge.robustness import refuse_protocol, robustness
from kd2edge.edge.session import Floats
from kd2edge.edge.trial import Trial
from kd2edge.report.model import Regression
from kd2edge.schema import Corruptions, Suite

Tell = Callable[[str, float], None]


def refuse_unfit(suite: Suite, split: Split) -> None:
    """Raise `UserError`, before anything is measured, for a suite that asks for what the split cannot show."""
    if suite.corruptions is not None:
        refuse_protocol(split)


def look_into(
    trials: Sequence[Trial], suite: Suite, split: Split, versus: str, confidence: float, tell: Tell
) -> tuple[Regression, ...]:
    """Add to each sound trial what is behind its outputs, compared with the role `versus`; return the regressions.

    `tell` gets what is being done, and the share of it that is. Raises `UserError` as `refuse_unfit`, and where there
    is no room for damaged images.
    """
    sound = {trial.role: trial for trial in trials if trial.outputs is not None and not trial.faults}
    outputs = {role: trial.outputs for role, trial in sound.items() if trial.outputs is not None}
    for role, trial in sound.items():
        _look_behind(trial, outputs[role], split, confidence)
    if suite.corruptions is not None:
        for output in dict.fromkeys(trial.output for trial in sound.values()):
            alike = {role: trial for role, trial in sound.items() if trial.output == output}
            _damage(alike, outputs, suite.corruptions, split, versus, confidence, tell)
    reference = sound.get(versus)
    if reference is None:
        return ()
    compressed = [trial for trial in sound.values() if _compressed(trial, reference)]
    for trial in compressed:
        if trial.output == "logits":
            numbers, conditions = worst_class(outputs[trial.role], outputs[versus], split, confidence)
            trial.numbers |= numbers
            trial.conditions |= conditions
    return _regressions(sound, outputs, reference, compressed, split) if suite.regressions else ()


def _look_behind(trial: Trial, outputs: Floats, split: Split, confidence: float) -> None:
    if trial.output == "logits":
        trial.numbers |= calibrated(outputs, split.labels, confidence)
        trial.traces |= traces.of_logits(outputs, split)
    else:
        trial.traces |= traces.of_embeddings(outputs, split, trial.numbers)


def _damage(
    trials: Mapping[str, Trial],
    outputs: Mapping[str, Floats],
    asked: Corruptions,
    split: Split,
    versus: str,
    confidence: float,
    tell: Tell,
) -> None:
    first = next(iter(trials.values()))
    found = robustness(
        {role: outputs[role] for role in trials},
        first.output,
        split,
        asked,
        lambda role, images: trials[role].computed(images),
        first.kept.folder,
        versus,
        confidence,
        tell,
    )
    for role, robust in found.items():
        trials[role].numbers |= robust.numbers
        trials[role].conditions |= robust.conditions
        trials[role].comparisons += robust.comparisons
        trials[role].faults += [robust.fault] if robust.fault else []


def _compressed(trial: Trial, reference: Trial) -> bool:
    """Whether a trial returns what the reference does, in another precision."""
    precisions = {given.artifact.manifest.precision for given in (trial, reference)}
    return trial.output == reference.output and len(precisions) == 2 and not trial.faults


def _regressions(
    sound: Mapping[str, Trial],
    outputs: Mapping[str, Floats],
    reference: Trial,
    compressed: Sequence[Trial],
    split: Split,
) -> tuple[Regression, ...]:
    alike = {role: outputs[role] for role, trial in sound.items() if trial.output == reference.output}
    roles = tuple(trial.role for trial in compressed)
    if reference.output == "logits":
        return tuple(regressions.of_classes(alike, split, reference.role, roles))
    return tuple(regressions.of_pairs(alike, split, reference.role, roles, operating(reference.conditions)))
