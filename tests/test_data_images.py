"""Decoding and normalisation: exact values worked out by hand, hostile files, EXIF."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from kd2edge.data import Preprocessing, decode, decoder_name, normalize, shorter_side
from kd2edge.errors import UserError


def preprocessing(size: tuple[int, int] = (4, 4), color: str = "RGB", resize: str = "bilinear") -> Preprocessing:
    channels = {"RGB": 3, "L": 1}[color]
    return Preprocessing.model_validate(
        {
            "size": size,
            "channels": channels,
            "color": color,
            "mean": (0.5, 0.25, 0.0)[:channels],
            "std": (0.5, 0.25, 1.0)[:channels],
            "decoder": decoder_name(resize),
        }
    )


def write(path: Path, pixels: npt.NDArray[Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_normalize_known_values() -> None:
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[0, 1, 2] = (255, 51, 102)
    out = normalize(images, preprocessing())
    assert out.shape == (1, 3, 4, 4)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_allclose(out[0, :, 1, 2], [1.0, -0.2, 0.4], atol=1e-6)
    np.testing.assert_allclose(out[0, :, 0, 0], [-1.0, -1.0, 0.0], atol=1e-6)


@given(st.integers(0, 255))
def test_normalize_undone_gives_the_pixel_back(pixel: int) -> None:
    p = preprocessing()
    out = normalize(np.full((1, 4, 4, 3), pixel, np.uint8), p)[0, :, 0, 0].astype(np.float64)
    np.testing.assert_array_equal(np.rint((out * p.std + p.mean) * 255), pixel)


def test_normalize_refuses_other_shapes() -> None:
    with pytest.raises(UserError, match=r"\(4, 4, 1\).*\(4, 4, 3\)"):
        normalize(np.zeros((2, 4, 4, 1), np.uint8), preprocessing())


@pytest.mark.parametrize(
    "change", [{"channels": 1}, {"mean": (0.0,)}, {"std": (1.0, 0.0, 1.0)}, {"size": (0, 4)}, {"gamma": 1.0}]
)
def test_preprocessing_refuses_what_makes_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing.model_validate(preprocessing().model_dump() | change)


def test_preprocessing_survives_json() -> None:
    p = preprocessing((3, 5), "L", "box")
    assert Preprocessing.model_validate_json(p.model_dump_json()) == p


def test_decode_at_its_own_size_is_lossless(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(write(tmp_path / "a.png", pixels), preprocessing()), pixels)


def test_decode_cuts_the_centre(tmp_path: Path) -> None:
    pixels = np.arange(4 * 10, dtype=np.uint8).reshape(4, 10)
    out = decode(write(tmp_path / "wide.png", pixels), preprocessing(color="L"))
    np.testing.assert_array_equal(out[..., 0], pixels[:, 3:7])


def test_box_filter_averages(tmp_path: Path) -> None:
    pixels = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16, np.ones((3, 3), np.uint8))
    out = decode(write(tmp_path / "a.png", pixels), preprocessing(color="L", resize="box"))
    np.testing.assert_array_equal(out[..., 0], np.arange(16).reshape(4, 4) * 16)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
def test_any_shape_covers_any_size(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, to_height: int, to_width: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.png", np.full((height, width, 3), 7, np.uint8))
    out = decode(path, preprocessing((to_height, to_width)))
    assert out.shape == (to_height, to_width, 3)
    assert (out == 7).all(), "no border may be made up"


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", preprocessing()), np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_what_was_asked(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (6, 5), 0).save(path)
    for color in ("L", "RGB"):
        assert decode(path, preprocessing(color=color)).dtype == np.uint8


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.full((4, 4), 128 * 257, np.uint16))
    assert (decode(path, preprocessing(color="L")) == 128).all()


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="32-bit"):
        decode(write(tmp_path / "a.tif", np.zeros((4, 4), np.float32)), preprocessing())


@pytest.mark.parametrize("keep", [0, 1, 20, 100])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, keep: int) -> None:
    path = write(tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=path.name):
        decode(path, preprocessing())


def test_what_is_no_photograph_is_not_handed_to_other_programs(tmp_path: Path) -> None:
    """Pillow knows formats that it decodes by running a program: the suffix does not tell."""
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    Image.new("L", (4, 4)).save(tmp_path / "b.png", "GIF")
    for name in ("a.jpg", "b.png"):
        with pytest.raises(UserError, match=rf"{name} cannot be decoded: cannot identify"):
            decode(tmp_path / name, preprocessing())


def test_a_size_that_no_photograph_has_is_refused_undecoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(UserError, match="it claims 20 x 30 pixels"):
            decode(tmp_path / "a.png", preprocessing())


@pytest.mark.parametrize(
    ("size", "shorter", "height", "width"), [((4, 4), 5, 20, 33), ((4, 4), 4, 7, 7), ((3, 5), 9, 31, 16)]
)
def test_a_shorter_side_is_reached_before_the_cut(
    size: tuple[int, int], shorter: int, height: int, width: int, tmp_path: Path
) -> None:
    """As torchvision's Resize and CenterCrop: the longer side rounded down, the corner to the even number."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    p = preprocessing(size, resize=f"bilinear {shorter}")
    to = (int(shorter * width / min(height, width)), int(shorter * height / min(height, width)))
    scaled = np.asarray(Image.fromarray(pixels).resize(to, Image.Resampling.BILINEAR))
    top, left = round((to[1] - size[0]) / 2.0), round((to[0] - size[1]) / 2.0)
    found = decode(write(tmp_path / "a.png", pixels), p)
    np.testing.assert_array_equal(found, scaled[top : top + size[0], left : left + size[1]])
    assert shorter_side(p) == shorter
    assert shorter_side(preprocessing()) is None


@pytest.mark.parametrize("shorter", [None, 256])
@pytest.mark.parametrize("shape", [(1, 3000), (200_000, 2)])
def test_a_line_of_pixels_does_not_fill_the_memory(shape: tuple[int, int], shorter: int | None, tmp_path: Path) -> None:
    """A kilobyte that would be scaled to 200 million pixels, or to six gigapixels."""
    path = write(tmp_path / "a.png", np.zeros((*shape, 3), np.uint8))
    p = preprocessing((224, 224)).model_copy(update={"decoder": decoder_name("bilinear", shorter)})
    with pytest.raises(
        UserError, match=rf"a\.png cannot be decoded: it is {shape[0]:,} x {shape[1]:,} pixels, too long"
    ):
        decode(path, p)


def test_missing_file_and_unknown_decoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png"):
        decode(tmp_path / "gone.png", preprocessing())
    for odd in ("turbojpeg 3/area", "pillow 13.0.0/bilinear -4", "pillow 13.0.0/bilinear 4 5"):
        with pytest.raises(UserError, match=odd):
            decode(tmp_path / "gone.png", preprocessing().model_copy(update={"decoder": odd}))
