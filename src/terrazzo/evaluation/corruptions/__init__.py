"""Sixteen corruptions of photos at five severities: noise, blur, weather and digital faults.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019
(arXiv:1903.12261) defined them for ImageNet-C; Kamann & Rother (CVPR 2020, arXiv:1908.05005) applied these sixteen to
Cityscapes, and SegFormer reports them as Cityscapes-C. Constants are those of ImageNet-C, in pixels, whatever the
photo's size. Written anew with numpy and OpenCV from the published definitions; each file says where it departs from
them. Such figures can be compared with each other, and only roughly with published ones.

A corruption takes an (H, W, 3) uint8 RGB photo, a severity from 1 to 5 and a generator, and returns the same kind of
photo.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.errors import ConfigError
from terrazzo.evaluation.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur
from terrazzo.evaluation.corruptions.digital import brightness, contrast, jpeg, saturate
from terrazzo.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from terrazzo.evaluation.corruptions.weather import fog, frost, snow, spatter
from terrazzo.text import did_you_mean, show

__all__ = ["CORRUPTIONS", "GROUPS", "SEVERITIES", "choose_corruptions", "corrupt"]

Photo: TypeAlias = NDArray[np.uint8]
Corruption: TypeAlias = Callable[[Photo, int, np.random.Generator], Photo]

SEVERITIES = (1, 2, 3, 4, 5)
GROUPS: dict[str, dict[str, Corruption]] = {
    "noise": {
        "gaussian_noise": gaussian_noise,
        "shot_noise": shot_noise,
        "impulse_noise": impulse_noise,
        "speckle_noise": speckle_noise,
    },
    "blur": {
        "motion_blur": motion_blur,
        "defocus_blur": defocus_blur,
        "glass_blur": glass_blur,
        "gaussian_blur": gaussian_blur,
    },
    "weather": {"snow": snow, "frost": frost, "fog": fog, "spatter": spatter},
    "digital": {"brightness": brightness, "contrast": contrast, "saturate": saturate, "jpeg": jpeg},
}
CORRUPTIONS: dict[str, Corruption] = {
    name: corruption for group in GROUPS.values() for name, corruption in group.items()
}
ALL = "all"


def choose_corruptions(text: str) -> tuple[str, ...]:
    """Return the corruptions of a list of names with commas: of corruptions, groups, or all.

    Raises:
        ConfigError: none is called so (code "corruption-name").
    """
    chosen: list[str] = []
    for name in (word.strip().replace("-", "_") for word in text.split(",")):
        if name == ALL:
            chosen += CORRUPTIONS
        elif name in GROUPS:
            chosen += GROUPS[name]
        elif name in CORRUPTIONS:
            chosen.append(name)
        else:
            known = [ALL, *GROUPS, *CORRUPTIONS]
            raise ConfigError(
                f"no corruption is called {show(name)}",
                fix=f"{did_you_mean(name, known)}name some of {', '.join(known)}, with commas between them",
                code="corruption-name",
            )
    return tuple(dict.fromkeys(chosen))


def corrupt(image_HW3: Photo, name: str, severity: int, number: int = 0) -> Photo:
    """Return a photo with a corruption.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        name: of the corruption.
        severity: from 1 to 5.
        number: of the photo: each has its own noise, which is always the same.
    """
    rng = np.random.default_rng([zlib.crc32(name.encode()), severity, number])
    return CORRUPTIONS[name](image_HW3, severity, rng)
