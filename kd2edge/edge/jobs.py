"""The jobs of one role, each done in a process of its own, once: what an earlier sitting has done is not done again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from kd2edge.artifact import Artifact, open_artifact
from kd2edge.edge.decoded import Decoded
from kd2edge.edge.kept import Cell, Kept, digest
from kd2edge.edge.launch import Died, run_job
from kd2edge.edge.session import Backend
from kd2edge.edge.worker import Answer, Job
from kd2edge.files import sha256
from kd2edge.schema import BatchRange, Target

ANSWER, OUTPUTS, SAMPLES, STAGES, ENGINE = (
    Path(name) for name in ("answer.json", "outputs.npy", "samples.npy", "stages.npy", "engine")
)


class Jobs:
    """What a job is asked for are fields of `Job` by name, of which a relative path is a file that it writes.

    All of it makes the job's place among what is kept, with the role and the images: what is not in it, such as an
    option that only the parent knows, must be put into the `Answer` to be kept, and two jobs alike in all fields need
    different `turn`s.
    """

    def __init__(self, role: str, artifact: Artifact, target: Target, kept: Kept) -> None:
        self.role, self.artifact, self.target, self.kept = role, artifact, target, kept
        self.model, self._sha256 = artifact.path, artifact.manifest.sha256
        self._seen = _seen(self.model)
        self._static: dict[str, int] = {}

    def of_batch(self, backend: Backend, batch: int) -> "Jobs | None":
        """The jobs of an engine that is built for this batch alone; None where what runs here is no engine built here.

        Raises `UserError` as `prepare` does.
        """
        if self.model == self.artifact.path:
            return None
        static = BatchRange(min=batch, opt=batch, max=batch)
        jobs = Jobs(self.role, self.artifact, self.target.model_copy(update={"batch": static}), self.kept)
        jobs._static = {"batch": batch}
        jobs.prepare(backend)
        return jobs

    def prepare(self, backend: Backend) -> Path:
        """The file that runs. An engine made of an ONNX file is kept: another build may choose other tactics.

        Where the target requires a signature it is that of the ONNX file: nobody can have signed what is made here.
        Raises `UserError` as `Backend.build` does, and where that signature is missing.
        """
        if self.artifact.manifest.kind != "onnx":
            return self.model
        if self.target.require_signature:
            open_artifact(self.model, require_signature=True)
        place, key = digest({"role": self.role, "build": self.target.backend, **self._static}), self._key()
        found = self.kept.find(place, key)
        if found is None:
            if backend.build(self.model, self.target, self.kept.work() / ENGINE) == self.model:
                return self.model
            found = self.kept.keep(place, key, Answer())
        self.kept.used.append(found)
        self.target = self.target.model_copy(update={"require_signature": False})
        self.model = self.kept.file(found, ENGINE)
        self._sha256, self._seen = sha256(self.model), _seen(self.model)
        return self.model

    def find(self, images: Decoded, asked: Mapping[str, Any]) -> Cell | None:
        """The job as it was done in an earlier sitting, if it is kept."""
        return self.kept.find(self._place(images, asked), self._key())

    def done(self, images: Decoded, asked: Mapping[str, Any], anew: bool = False) -> tuple[Answer, Cell | None]:
        """Do a job, or, but for `anew`, find it done. There is no cell of a process that died without an answer.

        Nor is there one where the file was replaced since it was looked at: that would tell of another file.

        Raises `UserError` where there is no room for what comes of it.
        """
        found = None if anew else self.find(images, asked)
        if found is None:
            answer = run_job(self._job(images, self.kept.work(), asked))
            if _seen(self.model) != self._seen:
                answer = Died(fault=f"{self.model} was replaced while it was measured")
            if isinstance(answer, Died):
                return answer, None
            found = self.kept.keep(self._place(images, asked), self._key(), answer)
        self.kept.used.append(found)
        return found.answer, found

    def _place(self, images: Decoded, asked: Mapping[str, Any]) -> str:
        return digest({"role": self.role, "images": images.sha256, "asked": to_jsonable_python(dict(asked))})

    def _key(self) -> str:
        """Of the file that runs and of all that it runs by; a plug-in is its file."""
        plugin = Path(self.target.backend)
        return self.kept.key(
            model=self._sha256,
            target=self.target.model_dump(mode="json"),
            preprocessing=to_jsonable_python(self.artifact.manifest.preprocessing),
            backend=sha256(plugin) if plugin.is_file() else self.target.backend,
        )

    def _job(self, images: Decoded, work: Path, asked: Mapping[str, Any]) -> Job:
        return Job.model_validate(
            {
                "model": self.model,
                "backend": self.target.backend,
                "target": self.target,
                "images": images.path,
                "preprocessing": self.artifact.manifest.preprocessing,
                "answer": work / ANSWER,
                **{name: work / value if isinstance(value, Path) else value for name, value in asked.items()},
            }
        )


def _seen(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
