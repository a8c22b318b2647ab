"""Colour profiles and gamma: a remark where they are far from sRGB.

Stored values are taken for sRGB, as training programs take them. A remark is made where a file's colour profile or
gamma has viewers show it very differently.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image

__all__ = ["remark_on_colors"]

FAR = 16.0
"""Grey levels, on average over all colours: Display P3 and Adobe RGB are 11 away from sRGB (3 or 4 in photos), ProPhoto
24 and linear light 41."""

SRGB_GAMMA = 0.45455
SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "P": "RGB ", "L": "GRAY", "LA": "GRAY", "I;16": "GRAY", "CMYK": "CMYK"}
"""Pillow's modes and what ICC profiles call them."""


def remark_on_colors(image: Image.Image, remarks: list[str]) -> None:
    """Add a remark if the file's profile or gamma gives stored values very different colours."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if isinstance(profile, bytes) and profile:
        if _distance(profile, SPACES.get(image.mode, "")) > FAR:
            remarks.append(
                "its colour profile is far from sRGB and is not applied, so its colours are not those that viewers "
                "show; convert it to sRGB"
            )
    elif isinstance(gamma, float) and gamma > 0 and "srgb" not in image.info:
        values = np.arange(256) / 255
        if np.abs(values ** (SRGB_GAMMA / gamma) - values).mean() * 255 > FAR:
            remarks.append(
                f"its gamma of {gamma:g} is far from that of sRGB and is not applied, so it is not as bright as "
                "viewers show it; convert it to sRGB"
            )


@lru_cache(maxsize=8)
def _distance(profile: bytes, space: str) -> float:
    """Return the mean distance of a profile's colours from sRGB in grey levels; 0 if the profile cannot be used."""
    from PIL import ImageCms

    levels = np.linspace(0, 255, 9).astype(np.uint8)
    bands = {"GRAY": 1, "RGB ": 3, "CMYK": 4}.get(space, 0)
    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if bands == 0 or theirs.profile.xcolor_space != space:
            return 0.0
        colors = np.stack(np.meshgrid(*[levels] * bands), -1).reshape(9, -1, bands)
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[bands]
        chart = Image.frombytes(mode, (colors.shape[1], 9), colors.tobytes())
        shown = ImageCms.profileToProfile(chart, theirs, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # a damaged profile, or a Pillow without LittleCMS
        return 0.0
    assert shown is not None
    return float(np.abs(np.asarray(shown).astype(int) - np.asarray(chart.convert("RGB"))).mean())
