"""The models that every tool quantizes, each as one folded FP32 ONNX file with the same arrays for all tools.

Published nets come as state dicts of their authors and cross kd2edge's own bridge; a run's net is taken as it is. Made
once into a working folder: `fp32.onnx`, `calibration.npy` (float32 [500, C, H, W]), `test.npy`, `labels.npy`.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kd2edge.artifact import open_artifact
from kd2edge.data import Source, Split, normalize, open_source
from kd2edge.errors import UserError
from kd2edge.files import sha256, write_atomic

ROOT = Path(__file__).parents[3]
CALIBRATION, SEED = 500, 0  # training images, and what draws them
MOST_TESTED = 10_000  # images; of a larger embedding test set every fourth, since pairs grow with the square
Floats = npt.NDArray[np.float32]
Output = Literal["logits", "embedding"]


@dataclass(frozen=True)
class Sources:
    """Where the user has what may not be shipped: CIFAR-10, aligned faces, published weights, further runs."""

    cifar: Path | None = None
    faces: Path | None = None
    weights: Path | None = None
    runs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A model of the comparison in its folder; `torch` says how to build it as a module, where that can be done."""

    name: str
    output: Output
    folder: Path
    torch: Mapping[str, Any] | None

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.asarray(np.load(self.path("labels.npy")), np.int64)

    def images(self, name: str) -> Floats:
        """`calibration` or `test`, float32 [N, C, H, W], mapped into memory."""
        return np.load(self.path(f"{name}.npy"), mmap_mode="r")  # type: ignore[no-any-return]


CIFAR = {"model": {"name": "resnet_cifar", "shortcut": "option_a"}, "classes": 10, "size": 32}
PUBLISHED: dict[str, dict[str, Any]] = {
    "resnet20": {**CIFAR, "arch": "20", "weights": "resnet20-12fca82f.th"},
    "resnet56": {**CIFAR, "arch": "56", "weights": "resnet56-4bfd9763.th"},
    "facexzoo-mobilefacenet": {
        "model": {"name": "mobilefacenet"},
        "neck": "gdc",
        "embedding": 512,
        "classes": 2,
        "size": 112,
        "weights": "facexzoo_mobilefacenet_mv_1.0_state_dict.pt",
    },
}
EMBEDDED = {"omniglot-student": ROOT / "tests" / "data" / "omniglot" / "fp32.onnx"}


def names(sources: Sources) -> list[str]:
    """Every model that may be asked for."""
    return [*PUBLISHED, *EMBEDDED, *(run.name for run in sources.runs)]


def prepare(name: str, sources: Sources, work: Path) -> Subject:
    """The subject, made where it is not there. Raises `UserError` for an unknown name, and where data is missing."""
    folder = work / name
    if name in PUBLISHED:
        subject = Subject(name, _output(name), folder, _module(name, sources))
    elif name in names(sources):
        subject = Subject(name, "embedding", folder, None)
    else:
        raise UserError(f"There is no model {name!r} here.", ", ".join(names(sources)))
    if not subject.path("labels.npy").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        source = _images(name, sources)
        _arrays(subject, source)
        _model(subject, sources)
        _save(subject.path("labels.npy"), _tested(source.split("test"), subject.output)[1])
    return subject


def _output(name: str) -> Output:
    return "embedding" if "embedding" in PUBLISHED[name] else "logits"


def _module(name: str, sources: Sources) -> dict[str, Any]:
    weights = "" if sources.weights is None else str(sources.weights / PUBLISHED[name]["weights"])
    return {**PUBLISHED[name], "weights": weights}


def _images(name: str, sources: Sources) -> Source:
    if name == "facexzoo-mobilefacenet":
        return _Faces(_given(sources.faces, "--faces", "train.rec and lfw_dev_test.bin"))
    if name in PUBLISHED:
        path = _given(sources.cifar, "--cifar", "CIFAR-10")
        return open_source({"name": "cifar10", "path": str(path)})
    data = open_artifact(_file(name, sources)).manifest.data
    if data is None:
        raise UserError(f"The manifest of {name} names no data set.")
    return open_source({"name": data.name, **data.options})


class _Faces(Source):
    """The two readers of insightface's files as one data set: train from the one, test from the other."""

    def __init__(self, folder: Path) -> None:
        same = {"std": 128 / 255}  # (x - 127.5) / 128, as FaceX-Zoo has it
        names = folder / "lfw_dev_test_names.txt"
        self.train = open_source({"name": "insightface_rec", "path": str(folder), **same})
        pairs = {"name": "insightface_bin", "path": str(folder / "lfw_dev_test.bin"), "names": str(names), **same}
        self.test = open_source(pairs)

    def split(self, name: str) -> Split:
        return (self.test if name == "test" else self.train).split(name)

    def preprocessing(self) -> Any:
        return self.test.preprocessing()


def _given(path: Path | None, option: str, what: str) -> Path:
    if path is None:
        raise UserError(f"This model needs {what}, which cannot be shipped.", f"give its folder as {option}")
    return path


def _file(name: str, sources: Sources) -> Path:
    run = next((run for run in sources.runs if run.name == name), None)
    return EMBEDDED[name] if run is None else run / "fp32.onnx"


def _arrays(subject: Subject, source: Source) -> None:
    p, train, test = source.preprocessing(), source.split("train"), source.split("test")
    drawn = np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION].astype(np.int64)
    _save(subject.path("calibration.npy"), normalize(train.read(drawn), p))
    _save(subject.path("test.npy"), normalize(test.read(_tested(test, subject.output)[0]), p))


def _tested(split: Split, output: Output) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of the images to judge by, and their labels."""
    step = 4 if output == "embedding" and len(split) > MOST_TESTED else 1
    index = np.arange(0, len(split), step)
    return index, split.labels[index]


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    write_atomic(path, lambda file: np.save(file, values))


def _model(subject: Subject, sources: Sources) -> None:
    if subject.torch is None:
        shutil.copy(_file(subject.name, sources), subject.path("fp32.onnx"))
        return
    from benchmarks.peers.quantization.published import build
    from kd2edge.kd.to_onnx import export

    _given(sources.weights, "--weights", "published weights")
    samples = np.array(subject.images("calibration")[:8])
    export(build(subject.torch), subject.output, samples, subject.path("fp32.onnx"))


def fingerprint(subject: Subject) -> str:
    """What a cell must have been made of to be still valid."""
    return sha256(subject.path("fp32.onnx"))
