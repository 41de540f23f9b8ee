"""What a net is shown: pixels moved as chance has it, normalised, and the same however a batch is split."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd2edge.kd.augment import Chances, Preparation, draw
from kd2edge.kd.ranks import Ranks
from kd2edge.kd.step import parts
from kd2edge.schema import Affine, Augment, Preprocessing, ResizedCrop

pytestmark = pytest.mark.kd
ALL = Augment(affine=Affine(degrees=20, shear=8, scale=0.2, translate=0.1), flip=True, crop_padding=3)
CPU = torch.device("cpu")


def how(size: tuple[int, int], means: tuple[float, ...], stds: tuple[float, ...]) -> Preprocessing:
    color: Literal["L", "RGB"] = "RGB" if len(means) == 3 else "L"
    return Preprocessing(size=size, channels=len(means), color=color, mean=means, std=stds, decoder="none")


AS_IT_IS = {channels: how((1, 1), (0.0,) * channels, (1 / 255,) * channels) for channels in (1, 3)}


def pixels(count: int, size: tuple[int, int], channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, channels), dtype=np.uint8)


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.sampled_from([1, 3]),
    count=st.integers(1, 6),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pixels_are_cut_and_mirrored_exactly(
    size: tuple[int, int], channels: int, count: int, padding: int, flip: bool, seed: int
) -> None:
    plan, images, (height, width) = Augment(flip=flip, crop_padding=padding), pixels(count, size, channels, seed), size
    chances = draw(plan, count, chance(seed))
    found = Preparation(plan, AS_IT_IS[channels].model_copy(update={"size": size}), CPU)(
        torch.from_numpy(images), chances
    )
    mirrored = [] if chances.mirrored is None else chances.mirrored.tolist()
    for number, image in enumerate(images):
        wanted = image
        if padding:
            assert chances.corners is not None
            top, left = chances.corners[:, number].tolist()
            padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
            wanted = padded[top : top + height, left : left + width]
        wanted = wanted[:, ::-1] if number in mirrored else wanted
        assert np.array_equal(found[number].numpy(), wanted.transpose(2, 0, 1))


def test_chance_reaches_every_corner_and_mirrors_half() -> None:
    chances = draw(Augment(flip=True, crop_padding=2), 2000, chance(1))
    assert chances.corners is not None
    assert chances.mirrored is not None
    counts = np.bincount((chances.corners[0] * 5 + chances.corners[1]).numpy(), minlength=25)
    assert counts.min() > 40  # of 80 expected at each of 25 places
    assert abs(len(chances.mirrored) - 1000) < 100


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.4466, 0.2), (0.922, 0.26)])
def test_normalisation_is_the_formula(mean: float, std: float) -> None:
    images, declared = pixels(4, (6, 5), 3), how((6, 5), (mean, mean + 0.01, mean - 0.02), (std, std + 0.01, 2 * std))
    found = Preparation(Augment(), declared, CPU)(torch.from_numpy(images))
    wanted = (images / 255 - np.array(declared.mean)) / np.array(declared.std)
    np.testing.assert_allclose(found.numpy(), wanted.transpose(0, 3, 1, 2), rtol=0, atol=1e-6)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def bilinear(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values of an image [H, W] at places (y, x) [..., 2] in pixels, black around it."""
    padded = np.pad(image.astype(np.float64), 1)
    at = np.clip(at, -1, np.array(image.shape))
    low = np.minimum(np.floor(at).astype(int), np.array(image.shape) - 1)
    (y, x), (v, u) = np.moveaxis(low + 1, -1, 0), np.moveaxis(at - low, -1, 0)
    above = padded[y, x] * (1 - u) + padded[y, x + 1] * u
    below = padded[y + 1, x] * (1 - u) + padded[y + 1, x + 1] * u
    return np.asarray(above * (1 - v) + below * v)


def test_an_affine_map_reads_each_place_where_the_map_leads() -> None:
    size, count = 8, 5
    plan, images = Augment(affine=ALL.affine), pixels(5, (size, size), 1)
    chances = draw(plan, count, chance(4))
    assert chances.maps is not None
    found = Preparation(plan, how((size, size), (0.0,), (1 / 255,)), CPU)(torch.from_numpy(images), chances)
    unit = (2 * np.arange(size) + 1) / size - 1
    x, y = np.meshgrid(unit, unit)
    for number in range(count):
        led = chances.maps[number].double().numpy() @ np.stack([x.ravel(), y.ravel(), np.ones(size**2)])
        at = ((led[::-1] + 1) * size - 1).T.reshape(size, size, 2) / 2
        np.testing.assert_allclose(found[number, 0].numpy(), bilinear(images[number, :, :, 0], at), atol=2e-3)


def test_maps_stay_within_what_the_recipe_allows() -> None:
    turned = draw(Augment(affine=Affine(degrees=10)), 500, chance(0)).maps
    assert turned is not None
    angles = torch.rad2deg(torch.atan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert 9 < angles.abs().max() <= 10 + 1e-4
    torch.testing.assert_close(torch.linalg.det(turned[:, :, :2]), torch.ones(500))
    moved = draw(Augment(affine=Affine(translate=0.1)), 500, chance(0)).maps
    assert moved is not None
    assert 0.19 < moved[:, :, 2].abs().max() <= 0.2
    sheared = draw(Augment(affine=Affine(shear=30)), 500, chance(0)).maps
    assert sheared is not None
    assert 0.95 * math.tan(math.radians(30)) < sheared[:, 0, 1].abs().max() <= math.tan(math.radians(30)) + 1e-6


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (1, 4), (2, 2), (4, 1), (3, 1), (1, 5)])
def test_a_batch_looks_the_same_however_it_is_split(count: int, accumulate: int) -> None:
    images = torch.from_numpy(pixels(12, (10, 10), 3))
    prepare = Preparation(ALL, how((10, 10), (0.5,) * 3, (0.25,) * 3), CPU)
    whole = prepare(images, draw(ALL, 12, chance(9)))
    seen = torch.zeros(12, dtype=torch.bool)
    for number in range(count):
        for places in parts(12, Ranks(number, count), accumulate):
            part = prepare(images[places], draw(ALL, 12, chance(9), places))
            assert torch.equal(part, whole[places])
            seen[places] = True
    assert seen.all()


def test_nothing_is_drawn_where_nothing_is_asked_for() -> None:
    generator = chance(3)
    before = generator.get_state()
    assert draw(Augment(), 8, generator) == Chances(None, None, None)
    assert torch.equal(generator.get_state(), before)


def test_a_resized_crop_lies_within_the_image_and_has_the_area_and_shape_asked_for() -> None:
    plan = Augment(resized_crop=ResizedCrop(area=(0.1, 0.5), ratio=(0.5, 2.0)))
    maps = draw(plan, 2000, chance(1)).maps
    assert maps is not None
    wide, high = maps[:, 0, 0], maps[:, 1, 1]
    assert 0.1 - 1e-5 <= (wide * high).min() < 0.11
    assert 0.49 < (wide * high).max() <= 0.5 + 1e-5
    assert 0.5 - 1e-5 <= (wide / high).min() < 0.53
    assert 1.9 < (wide / high).max() <= 2 + 1e-5
    for side, middle in ((wide, maps[:, 0, 2]), (high, maps[:, 1, 2])):
        assert (middle.abs() + side).max() <= 1 + 1e-5
        assert (middle.abs() + side).max() > 0.99
    assert torch.equal(maps[:, 0, 1], torch.zeros(2000))


def test_a_resized_crop_is_torchs_resize_of_the_part() -> None:
    images = torch.from_numpy(pixels(1, (8, 8), 1))
    maps = torch.tensor([[[0.5, 0.0, -0.5], [0.0, 0.5, 0.5]]])  # the left lower quarter: columns 0 to 3, rows 4 to 7
    prepare = Preparation(Augment(resized_crop=ResizedCrop()), how((8, 8), (0.0,), (1 / 255,)), CPU)
    found = prepare(images, Chances(maps, None, None))
    part = images[:, 4:, :4].permute(0, 3, 1, 2).float()
    wanted = torch.nn.functional.interpolate(part, (8, 8), mode="bilinear", align_corners=False)
    inner = (slice(None), slice(None), slice(1, None), slice(None, -1))  # a crop sees its neighbours at inner borders
    torch.testing.assert_close(found[inner], wanted[inner], rtol=0, atol=1e-3)
    white = prepare(
        torch.full((4, 8, 8, 1), 255, dtype=torch.uint8), draw(Augment(resized_crop=ResizedCrop()), 4, chance(2))
    )
    torch.testing.assert_close(white, torch.full_like(white, 255.0))


def test_a_crop_and_a_turn_are_one_after_the_other() -> None:
    plan = Augment(resized_crop=ResizedCrop(area=(0.3, 0.3), ratio=(1.0, 1.0)), affine=Affine(degrees=30))
    both = draw(plan, 50, chance(3)).maps
    assert both is not None
    torch.testing.assert_close(torch.linalg.det(both[:, :, :2]), torch.full((50,), 0.3))


@pytest.mark.parametrize("faulty", [{"area": (0.5, 0.2)}, {"area": (0.0, 1.0)}, {"ratio": (1.5, 2.0)}])
def test_a_crop_that_cannot_be_cut_is_refused(faulty: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="area lies within"):
        ResizedCrop.model_validate(faulty)
