"""A contender's process: opens one model on one runtime, then measures a round whenever it is asked to, and waits.

Contenders take turns, so that a GPU that slows down does so for all of them, and open at the same time, since
torch.compile takes a minute. Lines of JSON go in by stdin and out by what was stdout; whatever libraries print goes to
stderr. Warm-up, sampling and stages are those of `kd2edge bench`.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.leaving import leave_with_parent
from kd2edge.edge.measure import measure
from kd2edge.edge.session import Session, Staged, open_backend
from kd2edge.edge.staged import measure_stages
from kd2edge.errors import UserError, first_line
from kd2edge.schema import Latency, Section, Target

ROUND = "round"


class Asked(Section):
    """What to open, and how to measure. `images` is a .npy of float32 [N, C, H, W] that are normalised already.

    `outputs` receives float32 [N, D]; in `folder` each round leaves `NAME.N.ns.npy` (end to end, int64 [n]) and, of a
    device of its own, `NAME.N.stages.npy` (see `edge.staged`).
    """

    name: str
    model: Path
    target: Target
    images: Path
    outputs: Path
    folder: Path
    latency: Latency


def main() -> None:
    leave_with_parent()
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)

        def reply(**told: Any) -> None:
            print(json.dumps(told), file=replies, flush=True)

        try:
            _serve(Asked.model_validate_json(sys.stdin.readline()), reply)
        except UserError as error:
            reply(fault=error.message)
        except Exception as error:  # a runtime may raise anything
            reply(fault=f"{type(error).__name__}: {first_line(error)}")


def _serve(asked: Asked, reply: Any) -> None:
    images = np.load(asked.images)
    began = time.perf_counter()
    backend = open_backend(asked.target.backend)
    reason = backend.available()
    if reason is not None:
        raise UserError(reason)
    with backend.open(asked.model, asked.target) as session:
        session.infer(images[: asked.latency.batch])
        opened = time.perf_counter() - began
        np.save(asked.outputs, in_batches(session, images, asked.latency.batch))
        reply(provider=session.provider, versions=session.versions, seconds_to_open=opened)
        for line in sys.stdin:
            number = json.loads(line)[ROUND]
            reply(**_round(session, images, asked, asked.folder / f"{asked.name}.{number}"))


def _round(session: Session, images: Any, asked: Asked, place: Path) -> dict[str, Any]:
    began = time.perf_counter_ns()
    samples = measure(session, images, asked.latency)
    np.save(place.with_name(f"{place.name}.ns.npy"), samples.ns)
    told: dict[str, Any] = {"warmup": samples.warmup}
    if hasattr(session, "stages"):
        stages, more = measure_stages(cast(Staged, session), images, asked.latency, time.perf_counter_ns)
        np.save(place.with_name(f"{place.name}.stages.npy"), stages)
        told |= more
    return {**told, "measured": [began, time.perf_counter_ns()]}


if __name__ == "__main__":
    main()
