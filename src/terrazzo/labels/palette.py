"""Generates colours for classes without any, easy to tell apart, also for colour-blind people."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["generate_palette"]

# Okabe and Ito (2008), "Color Universal Design", without its black.
OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
)
CHOSEN = 255  # colours chosen by distance; nobody tells more apart
DARKEST = 0.42  # least lightness in Oklab: darker ones are lost when drawn over a photo, and close to black
# What protanopes and deuteranopes see, on linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
# Ottosson (2020), "A perceptual color space for image processing": Oklab, where distances match what eyes tell apart.
OKLAB_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
OKLAB_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


@lru_cache(maxsize=8)
def generate_palette(count: int, *, background: bool) -> tuple[tuple[int, int, int], ...]:
    """Choose distinct colours; a longer palette begins with the shorter one.

    Args:
        count: how many.
        background: the first class is what lies behind the objects, and is black. Otherwise no colour is black, which
            stays free for ignored pixels.
    """
    colors = [(0, 0, 0)] if background else []
    colors += _far_apart(min(CHOSEN, max(count - len(colors), 0)))
    taken = {(0, 0, 0), *colors}
    code = 1
    while len(colors) < count:
        color = _bit_color(code)
        if color not in taken:
            colors.append(color)
        code += 1
    return tuple(colors[:count])


def _far_apart(count: int) -> list[tuple[int, int, int]]:
    """Add to Okabe and Ito's colours, each time, the grid colour farthest from all chosen and from black and white."""
    if count <= len(OKABE_ITO):
        return list(OKABE_ITO[:count])
    levels = np.linspace(0, 255, 10).round()
    grid_N3 = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    grid_N3 = grid_N3[_seen_by_eyes(grid_N3)[0, :, 0] >= DARKEST]
    grid_VN3 = _seen_by_eyes(grid_N3)
    fixed_VM3 = _seen_by_eyes(np.array([(0, 0, 0), (255, 255, 255), *OKABE_ITO], float))
    distance_N = np.min([_distance(grid_VN3, fixed_VM3[:, m]) for m in range(fixed_VM3.shape[1])], axis=0)
    chosen = list(OKABE_ITO)
    while len(chosen) < count:
        best = int(distance_N.argmax())
        red, green, blue = (int(v) for v in grid_N3[best])
        chosen.append((red, green, blue))
        distance_N = np.minimum(distance_N, _distance(grid_VN3, grid_VN3[:, best]))
    return chosen


def _seen_by_eyes(rgb_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Oklab coordinates of 8-bit colours as three kinds of eyes see them: (3, N, 3)."""
    x_N3 = rgb_N3 / 255
    linear_N3 = np.where(x_N3 <= 0.04045, x_N3 / 12.92, ((x_N3 + 0.055) / 1.055) ** 2.4)
    eyes = [linear_N3, *(np.clip(linear_N3 @ np.array(m).T, 0, 1) for m in (PROTANOPIA, DEUTERANOPIA))]
    return np.stack([np.cbrt(eye_N3 @ np.array(OKLAB_LMS).T) @ np.array(OKLAB_LAB).T for eye_N3 in eyes])


def _distance(points_VN3: NDArray[np.float64], point_V3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each point from one, averaged over the kinds of eyes, with common vision counting twice."""
    per_eye_VN = np.linalg.norm(points_VN3 - point_V3[:, None], axis=-1)
    return np.asarray(np.average(per_eye_VN, axis=0, weights=(2, 1, 1)))


def _bit_color(code: int) -> tuple[int, int, int]:
    """Spread the bits of a number over the high bits of red, green and blue: one colour for each of 2^24 numbers."""
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= (code >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
