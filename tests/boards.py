"""What a board runs: the edge wing alone, no torch, no onnx, no typer, matplotlib or jinja2 anywhere near it.

A tiny ResNet in FP32 and INT8 is made here, benched there by `kd2edge.edge`, and its outputs are compared.
"""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd2edge.artifact import describe
from kd2edge.data import decode, decoder_name, normalize
from kd2edge.edge.worker import Job
from kd2edge.graph.fold import fold
from kd2edge.graph.load import save_model
from kd2edge.graph.quantize import quantize_model
from kd2edge.graph.run import run_onnx
from kd2edge.report.model import Report
from kd2edge.schema import Preprocessing, Suite, Target
from tests.graphs import SIZE, residual_net
from tests.tables import ROOT

# Of the base install, what `kd2edge.edge` imports with the back end onnxruntime.
EDGE = ("numpy", "pillow", "pydantic", "pyyaml", "typing-extensions", "packaging", "cryptography", "onnxruntime")
PREPROCESSING = Preprocessing(
    size=(SIZE, SIZE), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.25,) * 3, decoder=decoder_name("bilinear")
)
TARGET = Target(about="a board", backend="onnxruntime", flavour="tensorrt", precisions=("fp32", "int8"))
SUITE = Suite.model_validate(
    {"about": "brief", "latency": {"warmup_ms": 20, "seconds": 0.1, "min_samples": 12}, "rules": []}
)
CLASSES, EACH = 10, 3
ROLES = ("fp32", "int8")

BENCH = """
import json, sys
from pathlib import Path
from kd2edge.artifact import open_artifact
from kd2edge.data import open_source
from kd2edge.edge.bench import bench
from kd2edge.schema import Suite, Target
asked = json.load(sys.stdin)
sys.executable = asked["python"] or sys.executable
items = [(role, open_artifact(Path(f"{role}.onnx"))) for role in asked["roles"]]
target, suite = Target.model_validate(asked["target"]), Suite.model_validate(asked["suite"])
report = bench(items, target, "board", suite, "brief", open_source(asked["data"]))
heavy = {"torch", "onnx", "typer", "rich", "matplotlib", "jinja2"} & set(sys.modules)
assert not heavy, heavy
print(report.model_dump_json())
"""


def requirements(names: Sequence[str] = EDGE) -> list[str]:
    """The base dependencies of those names, with their bounds, as pyproject.toml has them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r'"([^"]+)"', text.split("\ndependencies = [")[1].split("\n]")[0])
    by_name = {re.split(r"[<>=!~\[; ]", line)[0]: line for line in listed}
    return [by_name[name] for name in names]


@dataclass(frozen=True)
class Board:
    """An interpreter by its command, where the edge wing's dependencies lie, and a folder with models and images.

    `program` is what its Python starts fresh processes by, where that is not the interpreter itself.
    """

    command: tuple[str, ...]
    site: Path | None
    folder: Path
    program: Path | None = None

    def run(self, *arguments: str, given: str = "") -> str:
        path = str(ROOT) if self.site is None else f"{self.site}:{ROOT}"
        environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        environment["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")  # compiled once, not in each process
        command = [*self.command, *arguments]
        done = subprocess.run(command, input=given, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def benched(self, roles: Sequence[str] = ROLES) -> Report:
        """The report of `edge.bench` over these models and all images."""
        asked: Mapping[str, Any] = {
            "python": self.program and str(self.program),
            "roles": roles,
            "target": TARGET.model_dump(mode="json"),
            "suite": SUITE.model_dump(mode="json"),
            "data": {"name": "imagefolder", "path": "images", **_constants()},
        }
        return Report.model_validate_json(self.run("-c", BENCH, given=json.dumps(asked)).splitlines()[-1])

    def differences(self, role: str) -> np.ndarray:
        """How far the outputs of the worker there are from this machine's, image by image, [N].

        Each is the largest difference over the largest output of all; the images are decoded here.
        """
        images = pictures(self.folder / "images")
        np.save(self.folder / "pixels.npy", images)
        job = Job(
            model=self.folder / f"{role}.onnx",
            backend=TARGET.backend,
            target=TARGET,
            images=self.folder / "pixels.npy",
            preprocessing=PREPROCESSING,
            answer=self.folder / "answer.json",
            outputs=self.folder / "outputs.npy",
        )
        self.run("-m", "kd2edge.edge.worker", given=job.model_dump_json())
        assert json.loads((self.folder / "answer.json").read_text())["fault"] is None
        here, there = run_onnx(job.model, normalize(images, PREPROCESSING)), np.load(self.folder / "outputs.npy")
        return np.asarray(np.abs(there - here).max(axis=1) / np.abs(here).max())

    def top1(self, role: str) -> float:
        """The share of the images that this machine classifies rightly, in %."""
        logits = run_onnx(self.folder / f"{role}.onnx", normalize(pictures(self.folder / "images"), PREPROCESSING))
        return float(100 * np.mean(logits.argmax(axis=1) == np.arange(len(logits)) // EACH))


def _constants() -> dict[str, Any]:
    return {"size": PREPROCESSING.size, "color": "RGB", "mean": PREPROCESSING.mean, "std": PREPROCESSING.std}


def pictures(folder: Path) -> np.ndarray:
    """The test images, uint8 [N, H, W, C], in the order of the folder."""
    return np.stack([decode(path, PREPROCESSING) for path in sorted((folder / "test").rglob("*.png"))])


def furnish(folder: Path) -> Path:
    """Put the models, with manifests, and PNG files of `CLASSES` classes into a folder."""
    random = np.random.default_rng(0)
    for place in range(CLASSES * EACH):
        path = folder / "images" / "test" / f"class-{place // EACH}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path)
    images = normalize(pictures(folder / "images"), PREPROCESSING)
    fp32 = fold(residual_net())
    models = {"fp32": fp32, "int8": quantize_model(fp32, [images], TARGET.flavour).model}
    for role, model in models.items():
        save_model(model, folder / f"{role}.onnx")
        describe(
            folder / f"{role}.onnx",
            kind="onnx",
            role=role,
            verb="export",
            precision=role,
            task="classification",
            output="logits",
            preprocessing=PREPROCESSING,
        )
    return folder
