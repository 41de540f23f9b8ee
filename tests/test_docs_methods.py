"""The page on methods has a section for each that there is, and its recipe lines are valid and tell the defaults."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd2edge import shelves
from kd2edge.kd.check import plugin_faults
from kd2edge.kd.companions import Companions
from kd2edge.kd.crd import CRD
from kd2edge.kd.method import configured
from kd2edge.schema import Plugin

pytestmark = pytest.mark.kd

SCREEN = 31  # lines
PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## (`\w+`.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
NAMES = [section.split("`")[1] for section in SECTIONS]
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def method(block: str) -> dict[str, Any]:
    tree = yaml.safe_load(block)
    assert list(tree) == ["method"]
    section: dict[str, Any] = tree["method"]
    return section


def options(section: dict[str, Any]) -> dict[str, Any]:
    """Every option of a method section, defaults filled in."""
    _, config = configured(Plugin.model_validate(section))
    filled: dict[str, Any] = config.model_dump()
    return filled


def test_each_method_and_companion_has_a_section_and_nothing_else_has() -> None:
    assert {*NAMES} == {*shelves.names(shelves.METHODS), *Companions.model_fields}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_a_section_fits_a_screen_and_says_what_each_must(section: str) -> None:
    assert len(section.rstrip().splitlines()) <= SCREEN
    assert "```yaml\n" in section
    points = re.findall(r"^\* \*\*(.+?)\*\*", section, re.MULTILINE)
    assert [point for point in ("When", "Cost", "Ships", "Measured here", "Source") if point not in points] == []


@pytest.mark.parametrize("block", BLOCKS)
def test_a_recipe_line_is_valid(block: str) -> None:
    section = method(block)
    assert plugin_faults({"method": section}) == []
    assert section["name"] in shelves.names(shelves.METHODS)
    assert options(section).keys() >= section.keys() - {"name"}


@pytest.mark.parametrize(("name", "section"), list(zip(NAMES, SECTIONS, strict=True)))
def test_a_sections_first_line_tells_the_defaults(name: str, section: str) -> None:
    told = method(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    if name == "crd":
        assert CRD.Config.model_validate(told["crd"]) == CRD.Config()
    elif name in Companions.model_fields:
        assert options(told)[name] != Companions.model_fields[name].default
    else:
        assert told["name"] == name
        chosen: dict[str, Any] = {key: told[key] for key in ("name", "form") if key in told}
        assert told.keys() == {"name"} or told.keys() > chosen.keys()
        assert options(told) == options(chosen)
