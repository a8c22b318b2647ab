"""Which of the files, folders and patterns that a user names are videos, and which are for photos."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from terrazzo.data.sources.animation import is_animated
from terrazzo.data.sources.video import VIDEO_SUFFIXES, opened_video, video_format
from terrazzo.errors import ImageError
from terrazzo.imaging.find_images import IMAGE_SUFFIXES, files_in
from terrazzo.marks import MARK
from terrazzo.notes import note
from terrazzo.ownership import leave_out_results
from terrazzo.text import shown_path

__all__ = ["find_videos", "is_video"]

ANIMATED_SUFFIXES = (".gif", ".webp")


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a video or an animated image, by its content."""
    return video_format(path) is not None or is_animated(path)


def find_videos(arguments: Sequence[str | os.PathLike[str]]) -> tuple[list[Path], list[str | os.PathLike[str]]]:
    """Separate videos from the arguments that are for photos.

    A file is told by its content, and a pattern stands for the videos among its matches. A folder's videos are taken
    where it has no photos; else a note says that they are left out. So are results of earlier runs.

    Returns:
        The videos, and the other arguments.

    Raises:
        ImageError: as `leave_out_results`.
    """
    videos: dict[Path, None] = {}
    others: list[str | os.PathLike[str]] = []
    for argument in arguments:
        text = os.fsdecode(argument)
        if os.path.isdir(text):
            inside = files_in(text)
            found = [Path(file) for file in inside if file.lower().endswith(VIDEO_SUFFIXES) and video_format(file)]
            has_photos = any(file.lower().endswith(IMAGE_SUFFIXES) for file in inside)
            if found and has_photos:
                note(f"left out {len(found)} videos beside photos, such as {shown_path(found[0])}; name them for masks")
                found = []
        elif os.path.lexists(text):
            found = [Path(text)] if is_video(text) else []
            has_photos = not found
        else:
            matches = glob.glob(text, recursive=True) if glob.has_magic(text) else []
            named = [match for match in matches if match.lower().endswith((*VIDEO_SUFFIXES, *ANIMATED_SUFFIXES))]
            found = [Path(match) for match in sorted(named) if is_video(match)]
            stills = {match for match in matches if match.lower().endswith(IMAGE_SUFFIXES)} - set(map(str, found))
            has_photos = bool(stills) or not found
            if found and stills:
                others.extend(sorted(stills))
                has_photos = False
        videos.update(dict.fromkeys(found))
        if has_photos or not found:
            others.append(argument)
    if not videos:
        return [], others
    return leave_out_results(list(videos), arguments, is_ours=_is_ours)[0], others


def _is_ours(path: Path) -> bool:
    """Whether a video was written by this program, changed since or not."""
    try:
        with opened_video(path) as container:
            comments = [text for name, text in container.metadata.items() if name.lower() == "comment"]
    except ImageError:
        return False
    return any(MARK.search(text.encode("utf-8", "replace")) for text in comments)
