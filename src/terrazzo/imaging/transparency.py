"""Alpha compositing, and doubts about alpha channels that hold something else."""

from __future__ import annotations

from PIL import Image

from terrazzo.errors import ImageError
from terrazzo.imaging.bands import ADVICE

__all__ = ["composed"]

DOUBTFUL, REFUSED = 0.1, 0.5
"""Shares of half transparent pixels from which an alpha channel may be, and is, something else."""


def composed(image: Image.Image, background: tuple[int, int, int], remarks: list[str]) -> Image.Image:
    """Composite an image over a background colour, and return it as RGB.

    Args:
        image: has an alpha channel, or a transparent colour.
        background: the colour.
        remarks: gets a remark if much of the image is half transparent, or all of it is transparent.

    Raises:
        ImageError: a TIFF is half transparent in most pixels: its last band is something else (code "image-bands").
    """
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    counts = alpha.histogram()
    share = 1 - (counts[0] + counts[255]) / sum(counts)
    if share >= REFUSED and image.format == "TIFF":
        raise ImageError(
            f"{share:.0%} of its pixels are half transparent: its last band is not transparency, whatever it says",
            fix=ADVICE,
            code="image-bands",
        )
    if share >= DOUBTFUL:
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
