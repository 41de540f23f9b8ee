"""The test set of a suite that brings its own, such as LFW: its `data` section, completed by the path a user gives."""

from pathlib import Path
from typing import Any

from kd2edge.errors import UserError
from kd2edge.schema import Plugin, Suite

FILES = ("path", "names", "subgroups")  # options that name files


def own_data(suite: Suite, name: str, given: Path | None) -> Plugin | None:
    """The data section of a suite, or None where it has none.

    `given` is the file or folder that becomes `path`, or the folder in which the suite's own `path` (`lfw.bin`) lies.
    The suite's `names` and `subgroups` lie beside it. Raises `UserError` where `path` is missing.
    """
    if suite.data is None:
        return None
    options = {key: value for key, value in suite.data.options.items() if value is not None}
    if given is not None:
        options |= _found(options, given)
    if "path" not in options or not Path(str(options["path"])).exists():
        what = Path(str(options["path"])).name if "path" in options else "its test set"
        raise UserError(f"The suite {name} needs {what}.", "give it by --data, or the folder that it lies in")
    return Plugin.model_validate({"name": suite.data.name, **options})


def _found(options: dict[str, Any], given: Path) -> dict[str, str]:
    """The options that name files, as they lie in the folder of the test set, `given` or the one around it."""
    holds = given.is_dir() and "path" in options and not _is_set(given, Path(str(options["path"])))
    folder = given if holds else given.absolute().parent
    files = {key: str((folder / str(options[key])).resolve()) for key in FILES if key in options}
    return files if holds else {**files, "path": str(given.resolve())}


def _is_set(folder: Path, path: Path) -> bool:
    """Whether a folder is what `path` stands for: it has the name, or `path`, not in it, has no ending of a file's."""
    return not (folder / path).exists() and (folder.absolute().name == path.name or not path.suffix)
