"""The page on the device: its commands run on a folder of images, and what it says of engines holds for a scripted one.

The runtime in the place of TensorRT is onnxruntime: what is tested is all that stands around it.
"""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from kd2edge.artifact import Artifact, describe, manifest_path
from kd2edge.data import decode, decoder_name, normalize
from kd2edge.edge.in_batches import in_batches
from kd2edge.edge.session import Session, open_backend
from kd2edge.errors import UserError
from kd2edge.graph.fold import fold
from kd2edge.graph.load import save_model
from kd2edge.graph.run import run_onnx
from kd2edge.schema import BatchRange, Preprocessing, Target
from kd2edge.verbs.engines import run_engine
from kd2edge.verbs.predict import Compared, predict
from tests.graphs import SIZE, Net, face_net, images
from tests.test_docs import ROOT, fences, run

CODE = ROOT / "docs" / "serve_embeddings.py"
PREPROCESSING = Preprocessing(
    size=(SIZE, SIZE), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.25,) * 3, decoder=decoder_name("bilinear")
)
TARGET = Target(about="a board", backend="onnxruntime", flavour="tensorrt", precisions=("fp32",))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding with its manifest, five images and the script, as on a board."""
    folder = tmp_path_factory.mktemp("board")
    embedding(folder / "model.onnx")
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(folder / "images" / f"{number}.png")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(random.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(folder / name)
    (folder / CODE.name).write_text(CODE.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def embedding(path: Path) -> Artifact:
    save_model(fold(face_net()), path)
    return describe(
        path,
        kind="onnx",
        role="fp32",
        verb="export",
        preprocessing=PREPROCESSING,
        output="embedding",
        task="verification",
    )


def served(room: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", CODE.name, *arguments]
    environment = {
        "PYTHONPATH": f"{ROOT}:{room / 'opencv'}",
        "PATH": "/usr/bin:/bin",
        "HOME": str(room),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=room, env=environment, capture_output=True, text=True)


def test_the_example_is_short_enough_to_be_read() -> None:
    assert len(CODE.read_text(encoding="utf-8").splitlines()) <= 60


def test_the_pages_commands_do_what_it_says(room: Path) -> None:
    asked, serving = [text for language, _, text in fences("on-the-device.md") if language == "sh"]
    run("sh", asked, room)
    run("sh", serving.replace("python ", f'"{sys.executable}" '), room)
    lines = [json.loads(line) for line in (room / "embeddings.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [f"{number}.png" for number in range(5)]
    pixels = np.stack([decode(room / "images" / line["image"], PREPROCESSING) for line in lines])
    expected = run_onnx(room / "model.onnx", normalize(pixels, PREPROCESSING))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose([line["embedding"] for line in lines], expected, atol=1e-6)


def test_nothing_unsigned_or_altered_is_served(room: Path, tmp_path: Path) -> None:
    refused = served(room, "model.onnx", "images", "--signed")
    assert refused.returncode == 1
    assert "not signed" in refused.stderr
    assert refused.stdout == ""
    copy = tmp_path / "model.onnx"
    copy.write_bytes((room / "model.onnx").read_bytes() + b"\0")
    manifest_path(copy).write_bytes(manifest_path(room / "model.onnx").read_bytes())
    altered = served(room, str(copy), "images")
    assert altered.returncode == 1
    assert altered.stderr.startswith(f"{copy} is not the file its manifest describes")


CV2 = """
import numpy as np
from io import BytesIO
from PIL import Image
CAP_V4L2, CAP_PROP_BUFFERSIZE = 200, 38

class VideoCapture:
    def __init__(self, name, api):
        assert api == CAP_V4L2
        self.frames = [np.full((20, 30, 3), (0, 0, 40 * n), np.uint8) for n in (1, 2)] if name == "/dev/video0" else []
    def set(self, what, value):
        return True
    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

def imencode(kind, frame):
    made = BytesIO()
    Image.fromarray(frame[:, :, ::-1]).save(made, kind[1:])
    return True, np.frombuffer(made.getvalue(), np.uint8)
"""


def test_a_camera_is_served_frame_by_frame_and_one_that_gives_none_is_a_fault(room: Path) -> None:
    """OpenCV is scripted: a camera of two red frames, and no other."""
    (room / "opencv").mkdir(exist_ok=True)
    (room / "opencv" / "cv2.py").write_text(CV2)
    done = served(room, "model.onnx", "/dev/video0")
    pixels = np.stack([np.full((SIZE, SIZE, 3), (40 * n, 0, 0), np.uint8) for n in (1, 2)])
    expected = run_onnx(room / "model.onnx", normalize(pixels, PREPROCESSING))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = [json.loads(line)["embedding"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (done.returncode, done.stderr.strip()) == (1, "/dev/video0 gives no more frames.")
    misspelt = served(room, "model.onnx", "imges")
    assert (misspelt.returncode, misspelt.stderr.strip()) == (1, "imges gives no more frames.")


def test_a_frame_of_a_camera_is_decoded_as_a_file_is(room: Path) -> None:
    file = room / "images" / "0.png"
    with Image.open(file) as opened:
        frame = BytesIO()
        opened.save(frame, "BMP")
    np.testing.assert_array_equal(decode(BytesIO(frame.getvalue()), PREPROCESSING), decode(file, PREPROCESSING))
    with pytest.raises(UserError, match=r"^The image cannot be decoded"):
        decode(BytesIO(b"no image"), PREPROCESSING)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_model_of_one_batch_takes_any_number_of_images(count: int, tmp_path: Path) -> None:
    net = Net()
    fixed = net.model(net.gemm(net.pool(net.relu(net.conv("images", 8, 3))), 5), batch=4)
    save_model(fixed, tmp_path / "fixed.onnx")
    x = images(8)
    expected = run_onnx(tmp_path / "fixed.onnx", x)[:count]
    with open_backend("onnxruntime").open(tmp_path / "fixed.onnx", TARGET) as session:
        assert session.fixed_batch == 4
        np.testing.assert_array_equal(in_batches(session, x[:count], 32), expected)


@pytest.mark.parametrize("most", [1, 3, 100])
def test_batches_are_no_larger_than_the_profile(most: int, room: Path) -> None:
    x = images(7)
    sizes: list[int] = []
    with open_backend("onnxruntime").open(room / "model.onnx", TARGET) as session:

        class Counting:
            fixed_batch = None

            def infer(self, some: np.ndarray) -> np.ndarray:
                sizes.append(len(some))
                return session.infer(some)

        found = in_batches(cast(Session, Counting()), x, most)
    assert (sum(sizes), max(sizes)) == (7, min(most, 7))
    np.testing.assert_allclose(found, run_onnx(room / "model.onnx", x), atol=1e-5)


def test_predict_asks_a_model_of_one_batch(tmp_path: Path, room: Path) -> None:
    net = Net()
    save_model(net.model(net.gemm(net.pool(net.relu(net.conv("images", 8, 3))), 5), batch=4), tmp_path / "fixed.onnx")
    describe(
        tmp_path / "fixed.onnx",
        kind="onnx",
        role="fp32",
        verb="export",
        preprocessing=PREPROCESSING,
        output="embedding",
    )
    found = predict(tmp_path / "fixed.onnx", [room / "a.jpg", room / "b.jpg"])
    assert isinstance(found, Compared)
    assert np.shape(found.cosine) == (2, 2)


def engine(folder: Path, **target: object) -> Artifact:
    """A file that is said to be an engine."""
    stated = TARGET.model_dump(mode="json") | {"batch": BatchRange().model_dump(), **target}
    path = folder / "net.engine"
    path.write_bytes(b"an engine")
    return describe(
        path,
        kind="engine",
        role="fp32",
        verb="export",
        target="jetson-orin-nano",
        preprocessing=PREPROCESSING,
        output="embedding",
        details={"target": stated},
    )


def test_an_engine_that_cannot_run_here_says_what_can(tmp_path: Path, room: Path) -> None:
    backend = open_backend("tensorrt")
    if backend.available() is None:
        pytest.skip("TensorRT runs engines here")
    made = engine(tmp_path, backend="tensorrt")
    with pytest.raises(UserError) as caught:
        predict(made.path, [room / "a.jpg"])
    assert caught.value.message.startswith("net.engine is an engine for jetson-orin-nano. ")
    assert "ONNX file it was built from" in (caught.value.hint or "")


@pytest.mark.parametrize("backend", ["./mine.py", "os.path", "nobody"])
def test_no_manifest_names_code_to_run(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"names the back end .*, which is unknown"):
        run_engine(engine(tmp_path, backend=backend), images(1))


def test_an_engine_that_does_not_say_what_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say what it was built for"):
        run_engine(engine(tmp_path, batch={"min": 5, "opt": 1, "max": 2}), images(1))
