"""The tables of the README, made of the results and of nothing else."""

from pathlib import Path

from benchmarks.peers.training import result
from benchmarks.peers.training.result import OTHER_SEED, OURS, REFERENCE, RESULTS, TORCHDISTILL, Ratio, Result, Side
from benchmarks.peers.training.subjects import SUBJECTS
from kd2edge.files import write_atomic

README = Path(__file__).parent / "README.md"
MARKS = "<!-- results: made by --table -->", "<!-- end of results -->"
NONE = "–"
HEAD = ("row", "contender", "ms a step", "images/s", "kd2edge is faster by (95 %)", "first step s", "curve apart")
ABLATED = {
    OURS: "kd2edge",
    "channels_last": "without channels_last",
    "bf16": "in fp32",
    "quick_teacher": "the teacher as it is, neither folded nor fused",
    "fused_teacher": "the teacher folded only",
    "tensor_augmentation": "augmented one image at a time with PIL, read ahead",
    "fused": "optimiser not fused",
    "heap": "freed memory not kept",
    "prelu": "torch's PReLU",
    "depthwise": "depthwise convolutions all in bf16",
    "compile": "compile: off",
    "compiled": "compile: on",
    "graphs": "compile: graphs",
}
NAMES = {OURS: "kd2edge, its defaults", REFERENCE: "the papers' loop, fp32", TORCHDISTILL: "torchdistill"}


def put(text: str, results: Path = RESULTS) -> str:
    """A README with its tables made anew between the marks."""
    begin, end = MARKS
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n\n{markdown(results)}\n{end}{tail}"


def write() -> None:
    write_atomic(README, put(README.read_text(encoding="utf-8")).encode())


def markdown(results: Path = RESULTS) -> str:
    """A pair of tables for each device that was measured, the conditions beneath."""
    told = []
    for device in ("cpu", "cuda"):
        read = [result.read(result.path_of(name, device, results)) for name in SUBJECTS]
        found = [each for each in read if each is not None]
        if found:
            told.append(_device(found))
    return "\n".join(told) or "Nothing is measured yet.\n"


def told(one: Result) -> str:
    """A result in one line, for whoever waits for it."""
    found = one.faster(REFERENCE)
    steps = [f"{side.name} {side.fault or f'{side.step_ms:.1f} ms'}" for side in one.sides if side.ms or side.fault]
    return f"{one.subject}: {_ratio(found)} times the reference; {', '.join(steps)}"


def _device(found: list[Result]) -> str:
    first = found[0]
    lines = [f"### {_machine(first)}", "", _line(*HEAD), _line(*["---"] * len(HEAD))]
    lines += [_row(one, side) for one in found for side in one.sides if side.name != OTHER_SEED]
    ablated = [one for one in found if one.ablation]
    names = [name for name in ABLATED if any(_of(one, name) for one in ablated)]
    if names:
        lines += ["", _line("kd2edge's step by its parts", *(one.subject for one in ablated))]
        lines += [_line("---", *["---"] * len(ablated))]
        lines += [_line(ABLATED[name], *(_part(one, name) for one in ablated)) for name in names]
    return "\n".join([*lines, "", *_beneath(found), ""])


def _row(one: Result, side: Side) -> str:
    about = one.about if side.name == OURS else ""
    name = NAMES[side.name]
    if side.fault:
        return _line(about, name, side.fault.replace("|", "/"), *[NONE] * 4)
    apart = one.agreement(side.name) if side.name != REFERENCE else None
    return _line(
        about,
        name,
        f"{side.step_ms:.1f}",
        f"{1000 * one.batch / side.step_ms:,.0f}",
        _ratio(one.faster(side.name)) if side.name != OURS else NONE,
        f"{side.first_step_s:.1f}" if side.first_step_s is not None else NONE,
        f"{apart.share:.2f}" if apart is not None else NONE,
    )


def _part(one: Result, name: str) -> str:
    side, ours = _of(one, name), _of(one, OURS)
    if side is None or ours is None or ours.fault:
        return NONE
    if side.fault:
        return side.fault.replace("|", "/")
    if name == OURS:
        return f"{side.step_ms:.1f} ms"
    ours = ours.model_copy(update={"ms": side.beside or ours.ms})
    cold = one.side(OURS)  # in the ablation its compiler finds the cache of before
    started = ours.model_copy(update={"start_s": cold.start_s}) if cold is not None else ours
    pays = _pays(side, started) if name in ("compile", "compiled", "graphs") else ""
    return f"{_ratio(result.ratio(side, ours))}{pays}"


def _pays(side: Side, ours: Side) -> str:
    """After how many steps the slower start is made good for by the faster step."""
    slow, quick = sorted((side, ours), key=lambda each: -each.step_ms)
    assert slow.start_s is not None
    assert quick.start_s is not None
    longer, saved = quick.start_s - slow.start_s, (slow.step_ms - quick.step_ms) / 1000
    if longer <= 0 or saved <= 0:
        return ""
    return f", pays after {longer / saved:,.0f} steps"


def _of(one: Result, name: str) -> Side | None:
    return next((side for side in one.ablation if side.name == name), None)


def _ratio(found: Ratio | None) -> str:
    if found is None:
        return NONE
    interval = f" ({found.low:.2f} to {found.high:.2f})" if found.low is not None and found.high is not None else ""
    return f"{found.value:.2f}{interval}"


def _machine(one: Result) -> str:
    gpu = one.conditions.get("gpu")
    return str(gpu) if gpu else f"{one.device.get('cpu')}, {one.conditions['threads']} threads"


def _beneath(found: list[Result]) -> list[str]:
    said = [_conditions(one) for one in found]
    first = found[0]
    known = ", ".join(f"{name} {version}" for name, version in sorted(first.versions.items()) if name in WANTED)
    return [*said, f"* Load {first.conditions['load']} before it; {known}; {first.created[:10]}; `{first.command}`."]


def _conditions(one: Result) -> str:
    facts, ours, agreed = one.conditions, one.side(OURS), one.agreement(OURS)
    notes = ours.notes if ours else {}
    loaders = {side.notes["loader"] for side in one.sides if "loader" in side.notes}
    parts = [
        f"* {one.about}: {facts['images']}",
        f"teacher {facts['teacher']}",
        f"batch {one.batch}",
        f"{facts['turns']} turns of {facts['steps_in_a_turn']} steps",
        *([f"curves over {agreed.steps} steps"] if agreed else []),
        f"kd2edge in {notes.get('precision')}, compile {notes.get('compile')}",
        *notes.get("said", []),
        f"the others by {', '.join(sorted(loaders))}",
    ]
    return f"{'; '.join(part.rstrip('.') for part in parts)}."


WANTED = ("kd2edge", "torch", "torchvision", "numpy")


def _line(*texts: str) -> str:
    return f"| {' | '.join(texts)} |"
