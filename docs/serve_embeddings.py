"""Embeddings as lines of JSON: serve_embeddings.py MODEL SOURCE, which is a folder of images or a camera's device."""

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kd2edge.artifact import open_artifact
from kd2edge.data import Images, Preprocessing, decode, normalize
from kd2edge.edge.built_for import built_for
from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.session import open_backend
from kd2edge.errors import UserError
from kd2edge.schema import Target

CPU = Target(about="a processor", backend="onnxruntime", flavour="ort-x86", precisions=("fp32", "int8"))


def seen(source: Path, p: Preprocessing) -> Iterator[tuple[str, Images]]:
    """(name, uint8 [H, W, C]): a folder's files in order, or frames of a camera by their time."""
    if source.is_dir():
        return (yield from ((path.name, decode(path, p)) for path in sorted(source.iterdir()) if path.is_file()))
    import cv2  # type: ignore[import-not-found]  # pip install opencv-python-headless, or JetPack's own

    camera = cv2.VideoCapture(str(source), cv2.CAP_V4L2)
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest one waiting
    while (frame := camera.read())[0]:
        yield f"{time.time():.3f}", decode(io.BytesIO(cv2.imencode(".bmp", frame[1])[1].tobytes()), p)
    raise UserError(f"{source} gives no more frames.")


def serve(model: Path, source: Path, signed: bool) -> None:
    """One line for each image: its name, and its embedding at unit length, so that cosines are dot products."""
    artifact = open_artifact(model, require_signature=signed)
    made = artifact.manifest
    if made.preprocessing is None or made.output != "embedding":
        raise UserError(f"{model} is no embedding with its preprocessing.", "kd2edge show says what it is")
    target = built_for(artifact) if made.kind == "engine" else CPU
    target = target.model_copy(update={"require_signature": signed or target.require_signature})
    with open_backend(target.backend).open(model, target) as session:
        for name, image in seen(source, made.preprocessing):
            (embedding,) = in_batches(session, normalize(image[None], made.preprocessing), target.batch.max)
            unit = (embedding / np.linalg.norm(embedding)).tolist()
            print(json.dumps({"image": name, "embedding": unit}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--signed", action="store_true", help="refuse what nobody signed")
    try:
        serve(**vars(parser.parse_args()))
    except UserError as fault:
        sys.exit(str(fault))
