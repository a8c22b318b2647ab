"""The kinds of results that a video can become, and where they are written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from terrazzo.errors import ConfigError, OutputError
from terrazzo.inference.kinds import stem_of
from terrazzo.ownership import check_outputs, is_unchanged
from terrazzo.text import show, shown_path

__all__ = ["DEFAULT_VIDEO_KINDS", "VIDEO_KINDS", "check_mask_folder", "check_video_kinds", "video_destinations"]

VIDEO_KINDS = {
    "overlay": "_overlay.mp4",
    "color": "_color.mp4",
    "mask": "_mask",
    "mask-video": "_mask.mkv",
    "csv": ".csv",
    "json": ".json",
}
"""What a video can become, and how the names of the files end; of ``mask``, a folder with a PNG for each frame."""

DEFAULT_VIDEO_KINDS = ("overlay", "csv", "json")


def check_video_kinds(save: str | Iterable[str]) -> list[str]:
    """Return the kinds of results that were asked for, each once; with a table its summary, by which it is known.

    Raises:
        ConfigError: there is no such kind, or none was chosen (code "config-save").
    """
    kinds = list(dict.fromkeys(kind.strip() for kind in (save.split(",") if isinstance(save, str) else save)))
    unknown = [kind for kind in kinds if kind not in VIDEO_KINDS]
    if unknown or not kinds:
        what = (
            f"there is nothing called {show(unknown[0])} to save of a video"
            if unknown
            else "nothing was chosen to save"
        )
        raise ConfigError(what, fix=f"choose from {', '.join(VIDEO_KINDS)}", code="config-save")
    return [*kinds, "json"] if "csv" in kinds and "json" not in kinds else kinds


def video_destinations(output: Path, kinds: list[str], path: Path, stem: str | None) -> dict[str, Path]:
    """Return the file of each kind, or its folder: in the folder `output`, or that file for a single kind.

    Raises:
        ConfigError: `output` looks like a file, and is not one for these kinds (code "config-save").
    """
    if output.suffix.lower() in (".mp4", ".mkv", ".csv", ".json") and not output.is_dir():
        suffix = output.suffix.lower()
        if kinds == list(DEFAULT_VIDEO_KINDS) and suffix == ".mp4":
            return {"overlay": output}  # which is what is meant where no kinds are named
        if len(kinds) == 1 and kinds != ["csv"] and VIDEO_KINDS[kinds[0]].endswith(suffix):
            return {kinds[0]: output}
        raise ConfigError(
            f"{shown_path(output)} cannot be the file for {', '.join(kinds)}",
            fix="name a folder; or for overlay or color alone a .mp4 file, for mask-video alone a .mkv file",
            code="config-save",
        )
    return {kind: output / f"{stem or stem_of(path)}{VIDEO_KINDS[kind]}" for kind in kinds}


def check_mask_folder(folder: Path, overwrite: bool) -> bool:
    """Refuse to replace a folder with anything in it but masks; return whether what is in it must stay.

    Raises:
        OutputError: it has other files, or nothing can be written there.
    """
    check_outputs([folder / "000000.png"], "predict", overwrite=True)
    foreign = [entry for entry in folder.iterdir() if not is_unchanged(entry, "predict")] if folder.is_dir() else []
    if foreign and not overwrite:
        raise OutputError(
            f"{shown_path(folder)} would be replaced, and {shown_path(foreign[0])} in it is not as `terrazzo predict` "
            "wrote it",
            fix="choose another --output, or add --overwrite (in Python overwrite=True), which keeps other files",
            code="output-not-ours",
        )
    return bool(foreign)
