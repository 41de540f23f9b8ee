"""Alignment by landmarks: against Umeyama's own singular value decomposition, and a pixel at a time by hand."""

import importlib
from fractions import Fraction
from math import cos, sin

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd2edge.data import Images
from kd2edge.data._similarity import SIDE, TEMPLATE, align, similarity, warp
from kd2edge.errors import UserError

Doubles = npt.NDArray[np.float64]
PIXELS = np.random.default_rng(0).integers(0, 256, (23, 31, 3)).astype(np.uint8)


def turned(scale: float, angle: float, x: float, y: float) -> Doubles:
    return np.array([[scale * cos(angle), -scale * sin(angle), x], [scale * sin(angle), scale * cos(angle), y]])


def by_umeyama(source: Doubles, target: Doubles) -> Doubles:
    """Equations 40 to 43 of the paper, with the sign that forbids reflections."""
    u, d, vt = np.linalg.svd((target - target.mean(0)).T @ (source - source.mean(0)) / len(source))
    sign = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = np.trace(np.diag(d) @ sign) / source.var(0).sum()
    rotation = scale * u @ sign @ vt
    return np.column_stack([rotation, target.mean(0) - rotation @ source.mean(0)])


def by_pixel(image: Images, matrix: Doubles, side: int) -> Images:
    """The same in whole numbers, a pixel at a time: every rounding that OpenCV does, by Fractions."""
    height, width = image.shape[:2]
    (a, b, c), (d, e, f) = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2].tolist()
    found = np.zeros((side, side, 3), np.uint8)
    for y in range(side):
        for x in range(side):
            at = [
                (round(Fraction(by_y * y + shift) * 1024) + round(Fraction(by_x * x) * 1024) + 16) // 32
                for by_x, by_y, shift in ((a, b, c), (d, e, f))
            ]
            (column, fx), (row, fy) = (divmod(position, 32) for position in at)
            total = np.zeros(3, np.int64)
            for dy, wy in ((0, 32 - fy), (1, fy)):
                for dx, wx in ((0, 32 - fx), (1, fx)):
                    if 0 <= row + dy < height and 0 <= column + dx < width:
                        total += wx * wy * image[row + dy, column + dx].astype(np.int64)
            found[y, x] = (total + 512) // 1024
    return found


@given(st.floats(0.05, 20), st.floats(-3.2, 3.2), st.floats(-500, 500), st.floats(-500, 500))
def test_any_similarity_is_recovered_exactly(scale: float, angle: float, x: float, y: float) -> None:
    truth = turned(scale, angle, x, y)
    points = TEMPLATE @ truth[:, :2].T + truth[:, 2]
    matrix = similarity(points)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-7)
    np.testing.assert_allclose(matrix[:, :2] @ truth[:, :2], np.eye(2), atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_it_is_umeyamas_for_points_that_fit_badly(seed: int) -> None:
    points = TEMPLATE + np.random.default_rng(seed).normal(0, 15, (5, 2))
    np.testing.assert_allclose(similarity(points), by_umeyama(points, TEMPLATE), atol=1e-9)


@pytest.mark.parametrize(
    ("landmarks", "words"),
    [
        (np.full((5, 2), 7.0), "coincide"),
        (np.zeros((5, 2)), "coincide"),
        (np.full((5, 2), 1e8) + np.arange(10).reshape(5, 2) * 1e-9, "coincide"),
        (np.where(TEMPLATE > 92.3, np.nan, TEMPLATE), "not finite"),
        (np.where(TEMPLATE > 92.3, np.inf, TEMPLATE), "not finite"),
        (TEMPLATE * 1e300, "fits"),
    ],
)
def test_landmarks_that_give_no_face_are_refused(landmarks: Doubles, words: str) -> None:
    with pytest.raises(UserError, match=words):
        similarity(landmarks)


@pytest.mark.parametrize(
    "matrix",
    [
        turned(1, 0, 0, 0),
        turned(1, 0, 3, -2),
        turned(0.7, 0.4, 2.5, 1.25),
        turned(3.1, -2.2, 20, 30),
        turned(0.3, 1.1, -4, 9),
        turned(1, 0, 500, 500),
        turned(1e-6, 0.3, 0, 0),
        turned(1e6, 0.3, 0, 0),
    ],
)
def test_the_warp_is_that_of_every_pixel_by_hand(matrix: Doubles) -> None:
    np.testing.assert_array_equal(warp(PIXELS, matrix, 20), by_pixel(PIXELS, matrix, 20))


def test_nothing_changes_where_nothing_is_to_be_done() -> None:
    found = warp(PIXELS, turned(1, 0, 0, 0), 40)
    np.testing.assert_array_equal(found[:23, :31], PIXELS)
    assert not found[23:].any()
    assert not found[:, 31:].any()


def test_a_face_comes_to_lie_on_the_template() -> None:
    """A white dot at each landmark of a turned, doubled face is a bright spot at each point of the template."""
    truth = turned(2.0, 0.5, 90, 20)
    points = TEMPLATE @ truth[:, :2].T + truth[:, 2]
    image = np.zeros((300, 320, 3), np.uint8)
    for x, y in np.rint(points).astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    face = align(image, points.astype(np.float32))
    assert face.shape == (SIDE, SIDE, 3)
    assert face.dtype == np.uint8
    for x, y in np.rint(TEMPLATE).astype(int):
        assert face[y, x].min() > 200
    assert np.mean(face > 0) < 0.02


def test_opencv_gives_the_same() -> None:
    """Its newer releases interpolate in floating point, which may differ by one in the last place."""
    pytest.importorskip("cv2")
    cv2 = importlib.import_module("cv2")
    matrix = turned(0.7, 0.4, 2.5, 1.25)
    theirs = cv2.warpAffine(PIXELS, matrix, (20, 20), borderValue=0.0)
    assert np.abs(theirs.astype(int) - warp(PIXELS, matrix, 20)).max() <= 4
