"""Transparent pixels on a background, and what is not transparency although a file says so."""

from __future__ import annotations

from PIL import Image

from terrazzo.errors import ImageError
from terrazzo.imaging.bands import ADVICE

__all__ = ["composed"]

CLOUDY, OVERCAST = 0.1, 0.5  # shares of half transparent pixels: may be, and is, something else than transparency


def composed(image: Image.Image, background: tuple[int, int, int], remarks: list[str]) -> Image.Image:
    """Put an image on a background; nothing of the colours under transparent pixels shows."""
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    counts = alpha.histogram()
    share = 1 - (counts[0] + counts[255]) / sum(counts)
    if share >= OVERCAST and image.format == "TIFF":
        raise ImageError(
            f"{share:.0%} of its pixels are half transparent: its last band is not transparency, whatever it says",
            fix=ADVICE,
            code="image-bands",
        )
    if share >= CLOUDY:
        remarks.append(
            f"{share:.0%} of its pixels are half transparent and were put on white; if the last band is something "
            "else, such as near-infrared, choose the others: --bands 1,2,3 (bands=(1, 2, 3) in Python)"
        )
    if counts[0] == sum(counts):
        remarks.append(
            "all of its pixels are transparent, so nothing of it is seen; for the colours beneath, choose its bands: "
            "--bands 1,2,3 (bands=(1, 2, 3) in Python)"
        )
    canvas = Image.new("RGBA", rgba.size, (*background, 255))
    canvas.alpha_composite(rgba)
    return canvas.convert("RGB")
