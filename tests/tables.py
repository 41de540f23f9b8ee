"""The tables of the READMEs, made from the drawers' files and from measured results (`make tables` writes them)."""

import re
import statistics
import textwrap
from collections.abc import Iterator
from pathlib import Path

from kd2edge import drawers
from kd2edge.report import figures
from kd2edge.report.model import Report, read_report
from kd2edge.report.study import Summary
from kd2edge.report.study_table import markdown
from kd2edge.verbs.study_table import table
from tests import published

ROOT = Path(__file__).parents[1]
READMES = {
    "recipes": "recipes/README.md",
    "targets": "export/README.md",
    "suites": "benchmarks/README.md",
    "studies": "benchmarks/studies/README.md",
}


def rows(drawer: str) -> list[str]:
    """A drawer's files as lines of Markdown, a file a line."""
    return [f"| `{name}` | {' | '.join(ABOUT[drawer](name))} |" for name in drawers.names(drawer)]


def current(drawer: str) -> list[str]:
    """The lines that the README has now: those that open with a name in code type."""
    return [line for line in _lines(drawer) if line.startswith("| `")]


def write(drawer: str) -> None:
    """Put the lines anew under the rule of the README's table."""
    lines = [line for line in _lines(drawer) if not line.startswith("| `")]
    rule = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    text = "\n".join([*lines[: rule + 1], *rows(drawer), *lines[rule + 1 :]])
    (ROOT / READMES[drawer]).write_text(f"{text}\n", encoding="utf-8")


def _lines(drawer: str) -> list[str]:
    return (ROOT / READMES[drawer]).read_text(encoding="utf-8").splitlines()


def _recipe(name: str) -> tuple[str, ...]:
    recipe = drawers.read_recipe(name)
    return recipe.task, recipe.method.name, recipe.student.model.name, recipe.data.name, recipe.about


def _target(name: str) -> tuple[str, ...]:
    target = drawers.read_target(name)
    return target.about, f"`{target.backend}`", ", ".join(target.precisions)


def _suite(name: str) -> tuple[str, ...]:
    suite = drawers.read_suite(name)
    return suite.about, f"{suite.latency.seconds:g} s", str(len(suite.rules))


def _study(name: str) -> tuple[str, ...]:
    study = drawers.read_study(name)
    trials = len(study.rows[study.against].trials)
    return (
        f"`{study.recipe}`",
        ", ".join(study.rows),
        str(len(study.seeds)),
        str(trials) if trials else "–",
        study.about,
    )


RESULTS = ROOT / "benchmarks" / "results"
MARKS = "<!-- results: made by `make tables` -->", "<!-- end of results -->"
MEASURED = re.compile(r"(<!-- measured:(\w+(?:\|\w+)*) -->)\n.*?(<!-- end -->)", re.DOTALL)
STUDY_MARKS = "<!-- studies: made by `make tables` -->", "<!-- end of studies -->"
COLUMNS = {"tar@1e-3": 2, "eer": 2, "oneshot_20way": 2, "size": 3, "latency_p50": 3}
ROLES = {
    "teacher": "teacher",
    "plain": "student, plain",
    "fp32": "student, distilled",
    "int8": "student, distilled, INT8",
}


def results(target: str, recipe: str) -> str:
    """The measured rows of a recipe, mean ± standard deviation over its seeds, and the conditions beneath."""
    reports = [read_report(path) for path in sorted((RESULTS / target / recipe).glob("seed-*.json"))]
    head = "| net | parameters | TAR@FAR 1e-3 % | EER % | 20-way one-shot % | size MiB | p50 ms | n |"
    lines = [head, "|---|---|---|---|---|---|---|---|", *(_row(role, reports) for role in ROLES), "", _under(reports)]
    return "\n".join(lines)


def put_results(text: str) -> str:
    """A README with its results table made anew between the marks."""
    return _put(text, MARKS, results("onnx-cpu", drawers.DEFAULT_RECIPE))


def put_studies(text: str) -> str:
    """The studies' README with the table of every study, as its results are now, between the marks."""
    told = [
        f"## {name}\n\n{drawers.read_study(name).about}.\n\n{markdown(table(name))}"
        for name in drawers.names("studies")
    ]
    return _put(text, STUDY_MARKS, "\n" + "\n\n".join(told) + "\n")


def put_measured(text: str) -> str:
    """The page on methods with what each row came to in every study that has finished it, between its own marks."""
    studies = [table(name) for name in drawers.names("studies")]
    return MEASURED.sub(lambda found: f"{found[1]}\n{_measured(found[2].split('|'), studies)}\n  {found[3]}", text)


def _measured(rows: list[str], studies: list[Summary]) -> str:
    """What studies found of a method, which not all of them call by the same name."""
    told = []
    for study in studies:
        line = next((line for line in study.lines if line.row in rows and not line.missing), None)
        if line and line.fp32 and line.fp32.std is not None:
            over = f", {line.over:+.1f} σ from {study.against}" if line.over is not None else ""
            told.append(f"`{study.study}` {line.fp32.mean:.2f} ± {line.fp32.std:.2f} {study.unit}{over}")
    words = f"{'; '.join(told)}." if told else "no study has finished it."
    return textwrap.fill(words, 120, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _put(text: str, marks: tuple[str, str], made: str) -> str:
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{made}\n{marks[1]}{rest.split(marks[1])[1]}"


def _row(role: str, reports: list[Report]) -> str:
    parameters = next(_values("parameters", role, reports))
    cells = [_spread(list(_values(metric, role, reports)), digits) for metric, digits in COLUMNS.items()]
    return f"| {ROLES[role]} | {parameters:,.0f} | {' | '.join(cells)} | {len(reports)} |"


def _values(metric: str, role: str, reports: list[Report]) -> Iterator[float]:
    for report in reports:
        row = report.row(role)
        assert row is not None
        value = row.numbers[metric].value
        assert value is not None
        yield value


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    deviation = statistics.stdev(values)
    return mean if deviation < 0.5 * 10**-digits else f"{mean} ± {deviation:.{digits}f}"


def _under(reports: list[Report]) -> str:
    first = reports[0]
    row = first.row("fp32")
    assert row is not None
    conditions = row.conditions
    pairs = f"{conditions['genuine_pairs']:,} genuine and {conditions['impostor_pairs']:,} impostor pairs"
    runtime = f"onnxruntime {first.versions['onnxruntime']}, {conditions['threads']} thread, batch 1"
    return (
        f"Mean ± standard deviation over {len(reports)} seeds (the teacher is one net). {pairs} of characters from "
        f"alphabets never seen in training; {figures.processor(first.device)}, {runtime}; "
        f"`make results` repeats it, reports in `benchmarks/results/{first.target}/`."
    )


ABOUT = {"recipes": _recipe, "targets": _target, "suites": _suite, "studies": _study}
MADE = {
    "README.md": put_results,
    READMES["studies"]: put_studies,
    "docs/methods.md": put_measured,
    "docs/published.md": published.put,
}

if __name__ == "__main__":
    for drawer in ABOUT:
        write(drawer)
    for readme, put in MADE.items():
        path = ROOT / readme
        path.write_text(put(path.read_text(encoding="utf-8")), encoding="utf-8")
