"""`export --on`: engines built by another machine, compared with their ONNX files here, entered and signed here."""

import dataclasses
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.artifact import Artifact, manifest_path, read_manifest, signature_path
from kd2edge.edge.kit import Made, refuse_control
from kd2edge.errors import UserError, first_line
from kd2edge.files import read_bounded, sha256, write_atomic
from kd2edge.graph.parity import Parity, compare, require, run_onnx
from kd2edge.run import open_run
from kd2edge.schema import Target
from kd2edge.verbs import remote
from kd2edge.verbs.engines import described, engine_builder, engine_path
from kd2edge.verbs.export import export
from kd2edge.verbs.images import Floats
from kd2edge.verbs.models import is_run
from kd2edge.verbs.remote import Done, Elsewhere
from kd2edge.verbs.remote_kit import new_kit, pack
from kd2edge.verbs.remote_ssh import printable
from kd2edge.verbs.remote_transfer import persist, push

TOLD = ("built_on", "build", "layers", "layers_unknown")  # of what the far side says about an engine
MOST = 1 << 30  # bytes of outputs


def export_elsewhere(source: Path, elsewhere: Elsewhere, sign: str | None = None, **options: Any) -> list[Artifact]:
    """`export` with another machine's builder; `options` are its own. The board gets manifests and signatures.

    Raises as `remote.done` does, and `UserError` for an engine that does not give what its ONNX file gives.
    """
    proved = _Exported(elsewhere, bool(options.get("trt")))
    made = export(source, sign=sign, progress=elsewhere.progress, elsewhere=proved, **options)
    if is_run(source):
        open_run(source).record("export", "elsewhere", target=proved.target, **proved.told)
    if elsewhere.on is not None and proved.engines:
        _send_signed(elsewhere, proved.engines)
    return made


class _Exported:
    """What `export` calls with its ONNX files; afterwards it knows which engine lies where on the far side."""

    def __init__(self, elsewhere: Elsewhere, engines: bool) -> None:
        self.elsewhere, self.wanted = elsewhere, engines
        self.engines: list[tuple[Artifact, str]] = []
        self.target, self.told = "", {}  # type: str, dict[str, Any]

    def __call__(self, files: list[Artifact], name: str, target: Target, samples: Floats) -> list[Artifact]:
        if self.wanted and target.backend == "onnxruntime":
            engine_builder(name, target)  # which says that there are none
        by_role = {str(one.manifest.precision): one for one in files}
        kit = new_kit(name, target)
        work = remote.done(
            self.elsewhere, kit, lambda places, room: pack(kit, list(by_role.items()), places, room, probe=samples)
        )
        with work as done:
            if done.kit.data is not None or done.kit.target_name != kit.target_name:
                raise UserError("These are results of another command, or for another target.", self.elsewhere.again)
            known = {model.role: model.sha256 for model in done.kit.models}
            if known != {role: model.manifest.sha256 for role, model in by_role.items()}:
                raise UserError("These results are of other models than there are now.", "make a new kit")
            parity = {one.role: self._parity(one, by_role[one.role], done, samples) for one in done.result.made}
            made = [one for one in done.result.made if one.engine is not None]
            if len(made) != (0 if target.backend == "onnxruntime" else len(by_role)):
                raise UserError(f"What came back is not an engine of each model, as {name} runs them.")
            engines = [_entered(one, by_role[one.role], name, target, done, parity[one.role]) for one in made]
            self.engines = [(e, f"{done.far}/results/{one.engine}") for e, one in zip(engines, made, strict=True)]
            self.target = name
            self.told = {"kit": done.result.kit, "device": done.result.device, "parity": parity}
        return engines

    def _parity(self, made: Made, model: Artifact, done: Done, samples: Floats) -> dict[str, Any] | None:
        """How near the far side's outputs come to ONNX Runtime's here; None where it could not run, which is told."""
        say, host = self.elsewhere.progress.say, done.result.device.get("board") or done.result.device.get("cpu")
        what = f"{made.role} on {printable(host, 80)}"
        if made.outputs is None:
            say(f"{what}: not proved. {printable(made.unproved)}")
            return None
        found = compare(run_onnx(model.path, samples), _outputs(done.folder / made.outputs))
        _require(found, made.role, what, say)
        say(f"{what}: cosine {found.cosine_mean:.6f} (at worst {found.cosine_min:.6f}) on {len(samples)} images.")
        return {"against": "onnxruntime", "images": len(samples), **dataclasses.asdict(found)}


def _require(found: Parity, precision: str, what: str, say: Any) -> None:
    """Of FP32 the level of FP16 is asked, since TensorRT may multiply it in TF32; of INT8 a fault is told only."""
    try:
        require(found, "int8" if precision == "int8" else "fp16")
    except UserError as alarm:
        if precision != "int8":
            raise UserError(
                f"{what} does not give what its ONNX file gives: cosine {found.cosine_mean:.5f} on average and "
                f"{found.cosine_min:.5f} at worst.",
                "the runtime there is at fault, not the training: try another version of it",
            ) from alarm
        say(f"{what}: {alarm.message}")


def _outputs(path: Path) -> Floats:
    """Outputs float32 [N, D]. Raises `UserError` for any other content."""
    try:
        found = np.load(io.BytesIO(read_bounded(path, MOST)), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise UserError(f"{path.name} holds no outputs: {first_line(error)}.") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.ndim != 2:
        raise UserError(f"{path.name} holds no outputs.")
    return found


def _entered(made: Made, model: Artifact, name: str, target: Target, done: Done, parity: Any) -> Artifact:
    """The engine beside its model, described as ours are: whose child it is is known; how it was built was told."""
    path = engine_path(model.path, name)
    assert made.engine is not None
    source = done.folder / made.engine
    details, versions = _told(source)
    write_atomic(path, partial(_copy, source))
    if sha256(path) != done.result.files[made.engine].sha256:
        raise UserError(f"{path} was changed while it was written.")
    for beside in (".timing_cache", ".layers.json"):
        if f"{made.engine}{beside}" in done.result.files:
            write_atomic(path.with_name(f"{path.name}{beside}"), partial(_copy, done.folder / f"{made.engine}{beside}"))
    details |= {"kit": done.result.kit, "device": done.result.device}
    details |= {} if made.unproved is None else {"parity_not_proved": printable(made.unproved)}
    return described(path, model, name, target, parity, details, versions)


def _told(engine: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What the far side's manifest says about the build, and by which versions; nothing where there is none."""
    if not manifest_path(engine).is_file():
        return {}, {}
    manifest, text = read_manifest(engine)
    refuse_control(text, manifest_path(engine).name)
    details: Mapping[str, Any] = manifest.details
    return {key: details[key] for key in TOLD if key in details}, dict(manifest.versions)


def _copy(source: Path, file: Any) -> None:
    with source.open("rb") as content:
        while block := content.read(1 << 20):
            file.write(block)


def _send_signed(elsewhere: Elsewhere, engines: list[tuple[Artifact, str]]) -> None:
    """Give the board the manifests as they are here, and the signatures where there are some."""
    address, progress = elsewhere.on, elsewhere.progress
    assert address is not None
    for engine, far in engines:
        folder, _, name = far.rpartition("/")
        files = {manifest_path(Path(name)).name: manifest_path(engine.path)}
        if signature_path(engine.path).is_file():
            files[signature_path(Path(name)).name] = signature_path(engine.path)
        persist(partial(push, address, folder, files, progress), address, progress, elsewhere.again)
        progress.say(f"{address.shown} has it as {far}")
