"""Corruptions, against their published definitions where these give one number, and by their statistics elsewhere."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from terrazzo.errors import ConfigError
from terrazzo.evaluation.corruptions import CORRUPTIONS, GROUPS, choose_corruptions, corrupt
from terrazzo.evaluation.corruptions.pixels import blurred_along, clouds

Photo = NDArray[np.uint8]


@pytest.fixture(scope="module")
def scene() -> Photo:
    """A smooth gradient with a square in it."""
    image = np.zeros((60, 90, 3), np.uint8)
    image[..., 0], image[..., 1] = np.linspace(40, 200, 90), np.linspace(60, 180, 60)[:, None]
    image[20:40, 30:60] = (120, 40, 200)
    return image


def flat(value: int) -> Photo:
    return np.full((100, 100, 3), value, np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_keeps_the_form_and_is_the_same_every_time(scene: Photo, name: str) -> None:
    before = scene.copy()
    for severity in (1, 5):
        changed = corrupt(scene, name, severity, 3)
        assert changed.shape == scene.shape and changed.dtype == np.uint8
        assert np.array_equal(changed, corrupt(scene, name, severity, 3))
        assert not np.array_equal(changed, scene)
    assert np.array_equal(scene, before)


@pytest.mark.parametrize("name", [*GROUPS["noise"], "frost", "fog", "snow", "motion_blur", "glass_blur", "spatter"])
def test_each_photo_has_its_own_noise(scene: Photo, name: str) -> None:
    assert not np.array_equal(corrupt(scene, name, 3, 0), corrupt(scene, name, 3, 1))


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in ("saturate", "frost", "snow")])
def test_more_severe_is_further_from_the_photo(scene: Photo, name: str) -> None:
    far = [np.abs(corrupt(scene, name, severity).astype(int) - scene).mean() for severity in (1, 5)]
    assert far[1] > far[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_pixel_is_a_photo_too(name: str) -> None:
    assert corrupt(np.full((1, 1, 3), 90, np.uint8), name, 5).shape == (1, 1, 3)


def test_noise_has_the_published_deviations() -> None:
    deviation = corrupt(flat(128), "gaussian_noise", 2).std()
    assert deviation == pytest.approx(0.12 * 255, rel=0.03)
    assert corrupt(flat(102), "speckle_noise", 1).std() == pytest.approx(0.4 * 0.15 * 255, rel=0.03)
    assert corrupt(flat(128), "shot_noise", 1).std() == pytest.approx(255 * (0.502 / 60) ** 0.5, rel=0.03)
    struck = corrupt(flat(128), "impulse_noise", 4)
    assert (struck == 0).mean() == pytest.approx(0.17 / 2, rel=0.1)
    assert (struck == 255).mean() == pytest.approx(0.17 / 2, rel=0.1)


def test_contrast_and_brightness_by_hand() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = 200  # mean 100: (200 - 100) * 0.4 + 100 and (0 - 100) * 0.4 + 100, fractions dropped
    assert abs(corrupt(image, "contrast", 1)[:, 0, 0].astype(int) - [140, 60]).max() <= 1
    assert abs(corrupt(flat(100), "brightness", 2)[0, 0].astype(int) - (100 + 51)).max() <= 1


def test_saturation_by_hand() -> None:
    image = np.full((1, 1, 3), (200, 150, 100), np.uint8)  # saturation (200 - 100) / 200 = 0.5
    assert abs(corrupt(image, "saturate", 2)[0, 0].astype(int) - (200, 195, 190)).max() <= 1  # 0.05
    assert abs(corrupt(image, "saturate", 3)[0, 0].astype(int) - (200, 100, 0)).max() <= 1  # 1


def test_jpeg_is_that_of_pillow(scene: Photo) -> None:
    file = io.BytesIO()
    Image.fromarray(scene).save(file, "JPEG", quality=15)
    theirs = np.asarray(Image.open(file).convert("RGB")).astype(int)
    assert np.abs(corrupt(scene, "jpeg", 3).astype(int) - theirs).mean() < 1


def test_blur_of_a_point_is_the_kernel() -> None:
    image = np.zeros((61, 61, 3), np.uint8)
    image[30, 30] = 255
    spread = corrupt(image, "gaussian_blur", 1)[..., 0]
    assert spread[30, 30] == int(255 / (2 * np.pi)) and spread[30, 31] == int(255 / (2 * np.pi) * np.exp(-0.5))
    disk = corrupt(image, "defocus_blur", 1)[..., 0]
    assert np.count_nonzero(disk) == 29 and disk[30, 30] == 255 // 29  # pixels within 3 of the centre
    smear = blurred_along((image[..., 0] > 0).astype(np.float32), 10, 3, 90)
    assert np.flatnonzero((smear > 1e-5).any(axis=1)).tolist() == [30] and smear.sum() == pytest.approx(1, abs=1e-5)
    tail = smear[30][smear[30] > 1e-5]
    assert len(tail) > 10 and ((np.diff(tail) > 0).all() or (np.diff(tail) < 0).all())  # to one side


def test_clouds_fill_the_range_and_roughen_with_less_decay() -> None:
    smooth, rough = (clouds(40, 70, decay, np.random.default_rng(0)) for decay in (2.0, 1.4))
    assert smooth.shape == (40, 70) and smooth.min() >= 0 and smooth.max() <= 1
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_fog_hides_contrast_and_keeps_the_brightest_value(scene: Photo) -> None:
    foggy = corrupt(scene, "fog", 3)
    assert cv2.Laplacian(foggy, cv2.CV_32F).std() < 0.6 * cv2.Laplacian(scene, cv2.CV_32F).std()
    assert foggy.max() <= scene.max()


def test_names_groups_and_what_is_none_of_them() -> None:
    assert choose_corruptions("all") == tuple(CORRUPTIONS) and len(CORRUPTIONS) == 16
    assert choose_corruptions("fog, noise,gaussian-noise") == ("fog", *GROUPS["noise"])
    with pytest.raises(ConfigError, match="no corruption is called 'fogg'") as caught:
        choose_corruptions("fogg")
    assert "fog" in caught.value.fix and caught.value.code == "corruption-name"
