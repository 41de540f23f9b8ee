"""A kit: all that a far machine needs to build engines and to measure models, and nothing from the network.

`kit.json` names every other file with its size and sha256, so that the sha256 of `kit.json` stands for all of it. What
comes back is named in the same way by `result.json`, which in turn names the kit.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from kd2edge.errors import UserError, first_line
from kd2edge.files import is_plain, sha256
from kd2edge.keys import Digest
from kd2edge.report.model import Number
from kd2edge.schema import Section, Suite, Target

KIT, RESULT, RESULTS = "kit.json", "result.json", "results"
PROBE = "probe.npy"
MOST = 1 << 22  # bytes of a kit.json or result.json: far more than either needs
LARGEST = 16 << 30  # bytes of all results
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]|\\u00(?:[01][0-9a-f]|7f|[89][0-9a-f])", re.IGNORECASE)


def plain(name: str) -> str:
    """A path inside a folder, spelled in the one way there is. Raises `ValueError` for any other."""
    if not all(is_plain(part) for part in name.split("/")):
        raise ValueError(f"{name!r} is no plain path inside a folder")
    return name


Name = Annotated[str, AfterValidator(plain)]
M = TypeVar("M", bound=BaseModel)


class File(Section):
    """What a file has to be."""

    sha256: Digest
    bytes: int = Field(ge=0)


class Model(Section):
    """An ONNX file with its manifest beside it, and the role it plays."""

    role: str
    file: Name
    sha256: Digest


class Data(Section):
    """Where the images lie, how their data set is called, and whether they show people's faces."""

    name: str
    folder: Name
    personal: bool


class Kit(Section):
    """What to do on the far side. `data`, with a suite, asks for a bench, else engines are built and compared.

    The models give their outputs on `PROBE`, float32 [N, C, H, W], and send them back. `numbers` (role → name → number)
    join the report as they are; `command` stands in it.
    """

    kit: Literal[1] = 1
    kd2edge: str
    target_name: str
    target: Target
    models: tuple[Model, ...]
    data: Data | None = None
    suite_name: str | None = None
    suite: Suite | None = None
    numbers: dict[str, dict[str, Number]] = Field(default_factory=dict)
    command: str = ""
    files: dict[Name, File] = Field(default_factory=dict)


class Made(Section):
    """What came of one model on the far side.

    `engine` is its file, None where the back end takes ONNX files; `outputs` a .npy float32 [N, D] on the probe, or
    `unproved` the reason why there are none.
    """

    role: str
    parent: Digest
    engine: Name | None = None
    outputs: Name | None = None
    unproved: str | None = None


class Result(Section):
    """What came of a kit, by its sha256, on which device. `files` are all that belongs to it."""

    result: Literal[1] = 1
    kit: Digest
    kd2edge: str
    target_name: str
    device: dict[str, Any]
    versions: dict[str, str]
    made: tuple[Made, ...] = ()
    report: Name | None = None
    files: dict[Name, File]


def file_of(path: Path) -> File:
    return File(sha256=sha256(path), bytes=path.stat().st_size)


def read_kit(text: bytes) -> Kit:
    """Raises `UserError` for what is no kit."""
    return _read(text, Kit, KIT)


def read_result(text: bytes) -> Result:
    """Raises `UserError` for what is no result."""
    result = _read(refuse_control(text, RESULT), Result, RESULT)
    if sum(file.bytes for file in result.files.values()) > LARGEST:
        raise UserError(f"{RESULT} names more than {LARGEST >> 30} GiB.")
    return result


def refuse_control(text: bytes, name: str) -> bytes:
    """A JSON text itself. Raises `UserError` for one with characters that would steer the terminal it is shown on."""
    if CONTROL.search(text.decode(errors="replace")):
        raise UserError(f"{name} holds control characters.", "the machine that it comes from is not to be trusted")
    return text


def _read(text: bytes, schema: type[M], name: str) -> M:
    if len(text) > MOST:
        raise UserError(f"{name} is too large: {len(text)} bytes.")
    try:
        tree = json.loads(text)
        json.dumps(tree, allow_nan=False)
        read = schema.model_validate(tree)
        read.model_dump_json()  # it will be written again: into a manifest, a ledger, a report
        return read
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
        raise UserError(f"{name} cannot be read: {told!a}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} cannot be read: {first_line(error)}.") from error
