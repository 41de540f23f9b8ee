"""Each kind of damage by its own definition: SciPy's filter, Pillow's JPEG, closed forms, and the laws of chance."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from kd2edge.data import Images, corrupt
from kd2edge.data._corruptions import BLUR, CONTRAST, KINDS, LIGHT, NOISE, QUALITY

SEVERITIES = range(1, 6)
CHANCE = ("gaussian_noise", "shot_noise")


def scenes(count: int = 6, size: tuple[int, int] = (32, 40), channels: int = 3) -> Images:
    """Smooth shapes with edges, uint8 [count, H, W, channels]."""
    random = np.random.default_rng(3)
    rough = ndimage.gaussian_filter(random.standard_normal((count, *size, channels)), (0, 3, 3, 0), mode="wrap")
    return np.asarray(np.clip(120 + 300 * rough + 60 * (rough > 0), 0, 255), np.uint8)


def damaged(images: Images, kind: str, severity: int, seed: int = 0) -> Images:
    return corrupt(images, kind, severity, np.arange(len(images)), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_severity_is_worse_than_the_one_before(kind: str, channels: int) -> None:
    images = scenes(channels=channels)
    before = images.copy()
    made = [damaged(images, kind, severity) for severity in SEVERITIES]
    assert {(one.shape, one.dtype) for one in made} == {(images.shape, np.dtype(np.uint8))}
    apart = [float(np.mean((one.astype(float) - images) ** 2)) for one in made]
    assert apart == sorted(apart)
    assert 0 < apart[0] < apart[4]
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_depends_on_the_place_and_the_seed_alone(kind: str) -> None:
    images = scenes()
    whole = damaged(images, kind, 3)
    order = np.array([4, 1, 1, 5])
    part = corrupt(images[order], kind, 3, order)  # type: ignore[arg-type]
    np.testing.assert_array_equal(part, whole[order])
    twins = np.repeat(images[:1], 2, axis=0)
    one, other = damaged(twins, kind, 3)
    assert (one == other).all() == (kind not in CHANCE)
    assert (damaged(images, kind, 3, seed=1) == whole).all() == (kind not in CHANCE)


@pytest.mark.parametrize("size", [32, 256])
def test_noise_has_the_spread_it_says(size: int) -> None:
    """Both kinds have the same deviation in white; that of shot noise goes with the root of the light."""
    grey = np.full((4, size, size, 1), 128, np.uint8)
    for severity in SEVERITIES:
        spread = 255 * NOISE[severity - 1] * (size / 32) ** (1 / 3)
        gaussian, shot = (damaged(grey, kind, severity).astype(float) for kind in CHANCE)
        kept = np.clip(128 + spread * np.random.default_rng(0).standard_normal(200_000), 0, 255)  # of a clipped normal
        assert gaussian.std() == pytest.approx(kept.std(), rel=0.04)
        assert gaussian.mean() == pytest.approx(kept.mean(), abs=3)
        assert shot.std() == pytest.approx(spread * (128 / 255) ** 0.5, rel=0.06)
        assert shot.mean() == pytest.approx(128, abs=3)
    assert not damaged(np.zeros_like(grey), "shot_noise", 5).any()


@pytest.mark.parametrize("size", [(32, 40), (64, 48), (9, 7)])
def test_blur_is_scipys(size: tuple[int, int]) -> None:
    images = scenes(3, size)
    for severity in SEVERITIES:
        sigma = BLUR[severity - 1] * min(size)
        reach = max(1, round(4 * sigma))
        smooth = ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0), mode="reflect", radius=reach)
        found = damaged(images, "gaussian_blur", severity)
        assert np.abs(found - smooth).max() <= 0.501


def test_jpeg_is_pillows_at_a_quality_that_goes_with_the_size() -> None:
    for size, severity, quality in ((32, 2, QUALITY[1]), (128, 4, QUALITY[3] / 2), (8, 1, 95)):
        images = scenes(2, (size, size))
        file = io.BytesIO()
        Image.fromarray(images[1]).save(file, "JPEG", quality=round(quality))
        np.testing.assert_array_equal(damaged(images, "jpeg", severity)[1], np.asarray(Image.open(file)))


def test_brightness_and_contrast_by_hand() -> None:
    images = np.array([0, 100, 200, 250], np.uint8).reshape(1, 2, 2, 1)
    light, contrast = 255 * LIGHT[1], CONTRAST[1]
    brighter = [min(255, round(level + light)) for level in (0, 100, 200, 250)]
    assert damaged(images, "brightness", 2).ravel().tolist() == brighter
    flatter = [round(137.5 + contrast * (level - 137.5)) for level in (0, 100, 200, 250)]
    assert damaged(images, "contrast", 2).ravel().tolist() == flatter


def test_a_severity_there_is_not() -> None:
    for severity in (0, 6):
        with pytest.raises(ValueError, match=r"1\.\.5"):
            damaged(scenes(1), "jpeg", severity)
