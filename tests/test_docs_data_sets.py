"""The page on data sets lists the shelf, its code runs, and its data sections are ones."""

import re
from pathlib import Path

import yaml

from kd2edge import shelves
from kd2edge.data import Source
from tests.test_docs import fences, run

PAGE = Path(__file__).parents[1] / "docs" / "data-sets.md"


def test_the_table_lists_the_shelf() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| .* \| .* \| .* \| .* \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"\w+", row) if row != "`name`"]
    assert sorted(listed) == shelves.names(shelves.DATA)


def test_its_code_runs_and_its_sections_are_valid(tmp_path: Path) -> None:
    found = list(fences("data-sets.md"))
    assert [language for language, _, _ in found] == ["yaml", "yaml", "python"]
    for language, _, text in found:
        if language == "python":
            run(language, text, tmp_path)
            continue
        section = yaml.safe_load(text)["data"]
        source: type[Source] = shelves.load(shelves.DATA, section.pop("name"), Source)  # type: ignore[type-abstract]
        assert shelves.configure(source.Config, section, "the page's section").model_fields_set == {*section}
