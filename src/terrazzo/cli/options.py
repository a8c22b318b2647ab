"""Options that several commands have, each with its help text; and how those that are more than a word are read."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

from terrazzo.errors import ConfigError
from terrazzo.imaging.read import MAX_PIXELS, ReadOptions

__all__ = [
    "PHOTOS",
    "BandsOption",
    "CompileOption",
    "DeviceOption",
    "FrameOption",
    "LearntBandsOption",
    "ModelOption",
    "NodataOption",
    "ProtocolOption",
    "SkipBadOption",
    "ThreadsOption",
    "TrustOption",
    "ValueRangeOption",
    "learnt_bands",
    "read_options",
]

PHOTOS = "Name photo files, folders (searched to any depth) and patterns in quotes."

ModelOption: TypeAlias = Annotated[
    str,
    Parameter(
        name=["--model", "-m"],
        help="Use this model: a shipped one, a model folder, the output folder of a training run, a checkpoint file, a "
        "hub id, or an exported file.",
    ),
]
ProtocolOption: TypeAlias = Annotated[
    str,
    Parameter(
        help="Show photos to the network in this way: whole, slide, multi-scale, or as a paper does, such as "
        "segformer-ade20k."
    ),
]
DeviceOption: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="Compute on cpu; cuda, cuda:1 or a GPU's number; mps or xpu. By default it is a GPU where there is one."
    ),
]
ThreadsOption: TypeAlias = Annotated[
    int | None, Parameter(help="Use this many computing threads; by default one for each core.")
]
CompileOption: TypeAlias = Annotated[
    bool, Parameter(negative=(), help="Compile PyTorch's network: it pays on GPUs, with many photos of few sizes.")
]
BandsOption: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="Take these bands of a TIFF for red, green and blue, counted from 1, such as 4,3,2; or one band for grey. "
        "For a model of other bands: where its bands are in these images, if not where they were in training."
    ),
]
LearntBandsOption: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="Let the network read these bands, by number from 1 or by name, such as 1,2,3,4 or red,green,nir; by "
        "default 8-bit red, green and blue."
    ),
]
NodataOption: TypeAlias = Annotated[
    float | None,
    Parameter(help="Take this number for no measurement, with --bands; by default what the images' headers say."),
]
FrameOption: TypeAlias = Annotated[
    int | None, Parameter(help="Read this frame or page of files that have several, counted from 0.")
]
ValueRangeOption: TypeAlias = Annotated[
    str | None, Parameter(help="Take these values for black and white in photos of more than 8 bits, such as 0,4095.")
]
SkipBadOption: TypeAlias = Annotated[
    bool, Parameter(negative=(), help="Exit with status 0 although some photos failed.")
]
TrustOption: TypeAlias = Annotated[
    bool,
    Parameter(
        negative=(),
        help="Open a .pt2 file that was not exported here, and remember it: such files can run any code on this "
        "machine.",
    ),
]


def learnt_bands(bands: str | None) -> list[int | str] | None:
    """Read ``--bands 1,2,nir``: numbers and names.

    Raises:
        ConfigError: there is an empty name.
    """
    if bands is None:
        return None
    listed = [band.strip() for band in bands.split(",")]
    if not all(listed):
        raise ConfigError(f"--bands is {bands!r}", fix="give numbers from 1 or names, as in --bands 1,2,3,4")
    return [int(band) if band.isdecimal() else band for band in listed]


def read_options(
    bands: str | None = None, frame: int | None = None, value_range: str | None = None, max_pixels: int = MAX_PIXELS
) -> ReadOptions:
    """Read what was typed.

    Raises:
        ConfigError: it is not as in ``--bands 4,3,2`` or ``--value-range 0,4095``.
        ImageError: the numbers make no sense.
    """
    try:
        chosen = None if bands is None else tuple(int(band) for band in bands.split(","))
    except ValueError:
        raise ConfigError(f"--bands is {bands!r}", fix="give numbers from 1, as in --bands 4,3,2") from None
    try:
        ends = None if value_range is None else tuple(float(end) for end in value_range.split(","))
        low, high = (0.0, 1.0) if ends is None else ends
    except ValueError:
        raise ConfigError(
            f"--value-range is {value_range!r}", fix="give black and white, as in --value-range 0,4095"
        ) from None
    return ReadOptions(chosen, frame, None if ends is None else (low, high), max_pixels)
