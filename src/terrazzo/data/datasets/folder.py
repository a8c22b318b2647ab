"""A folder data set, with an optional ``ROOT/labels.yaml``, laid out in one of two ways.

Split by folders: ``ROOT/{train,val,test}/{images,masks}``. Split by text files: ``ROOT/images``, ``ROOT/masks`` and
``ROOT/{train,val,test}.txt``, where each line names one photo as ``street_01``, ``street_01.jpg`` or
``images/street_01.jpg``; empty lines and lines that begin with # are skipped.

A photo and its mask have the same name but for the ending. Nothing in the folder is ever written to.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.masks import Stored, count_stored, read_stored_mask
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError
from terrazzo.image_headers import shown_path
from terrazzo.images import IMAGE_SUFFIXES
from terrazzo.label_checks import list_counts
from terrazzo.labels import LabelSpec

__all__ = [
    "LABELS_FILE",
    "guess_labels",
    "infer_labels",
    "list_pairs",
    "no_such_split",
    "open_folder",
    "splits",
    "undecoded_colors",
]

LABELS_FILE = "labels.yaml"
USUAL_SPLITS = ("train", "val", "test")
MOST_GUESSED_CLASSES = 255


def open_folder(root: Path, split: str, labels: LabelSpec | None = None) -> Dataset:
    """Open one split.

    Args:
        root: the data set's folder.
        split: the subfolder's name, or the text file's without ``.txt``.
        labels: the classes; by default ``labels.yaml``, else as many numbered classes as the masks show.

    Raises:
        DatasetError: there is no such split, it is empty, a photo or mask has no partner, or two share a name.
        LabelError: ``labels.yaml`` is not usable.
    """
    samples, problems = list_pairs(root, split)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        shown = "; ".join(map(str, errors[:5])) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
        if len(errors) == 1 and errors[0].code == "dataset-empty":
            raise DatasetError(shown, fix=errors[0].fix, code="dataset-empty")
        raise DatasetError(
            f"{len(errors)} files of {split} are no pairs of photo and mask: {shown}",
            fix=f"give every photo one mask of the same name; `terrazzo check-data {shown_path(root)}` lists them all",
            code="dataset-pairs",
        )
    if labels is None:
        document = root / LABELS_FILE
        labels = LabelSpec.from_yaml(document) if document.exists() else infer_labels(root)
    listed = not _is_split_folder(root / split)
    return Dataset(root, split, labels, tuple(samples), f"split by {'text files' if listed else 'folders'}")


def splits(root: Path) -> list[str]:
    """Return the names of the splits that a root holds, train, val and test first.

    Any subfolder with ``images`` and ``masks`` in it is one. Of text files only those with the three usual names are:
    others may hold anything.
    """
    found = {entry.name for entry in _entries(root) if _is_split_folder(Path(entry.path))}
    if _is_split_folder(root):
        found |= {split for split in USUAL_SPLITS if (root / f"{split}.txt").is_file()}
    return [split for split in USUAL_SPLITS if split in found] + sorted(found - set(USUAL_SPLITS))


def list_pairs(root: Path, split: str) -> tuple[list[Sample], list[Problem]]:
    """Pair the photos and masks of a split by name, opening none of them.

    Returns:
        The pairs, by name or in the order of the text file, and what is wrong: files without a partner, several files
        of one name, an empty split.

    Raises:
        DatasetError: there is no such split, or a folder cannot be listed.
    """
    folder, text_file = root / split, root / f"{split}.txt"
    if _is_split_folder(folder):
        samples, problems = _pair_all(folder)
    elif _is_split_folder(root) and text_file.is_file():
        samples, problems = _pair_listed(root, text_file)
    else:
        raise no_such_split(root, split)
    if not samples and not any(problem.severity == "error" for problem in problems):
        problems.append(_empty(folder if _is_split_folder(folder) else text_file, problems))
    return samples, problems


def infer_labels(root: Path) -> LabelSpec:
    """Guess the classes from the masks of all splits, as `guess_labels`.

    Raises:
        DatasetError: as `guess_labels`, or a mask is in colour or cannot be read.
    """
    masks = [sample.mask for split in splits(root) for sample in list_pairs(root, split)[0]]
    counts: Counter[Stored] = Counter()
    with ThreadPoolExecutor(4) as pool:
        for mask, found in zip(masks, pool.map(_count_mask, masks), strict=True):
            if any(isinstance(key, tuple) for key in found):
                problem = undecoded_colors(mask, found)
                raise DatasetError(str(problem), fix=problem.fix, code=problem.code)
            counts.update(found)
    return guess_labels(root, counts)


def guess_labels(root: Path, stored: Collection[Stored]) -> LabelSpec:
    """Return numbered classes, 0 up to the largest value other than 255.

    Raises:
        DatasetError: fewer than two classes, or numbers that are rather grey levels or object numbers than classes.
    """
    values = sorted({value for value in stored if isinstance(value, int)} - {255})
    fix, shown = f"write the classes, and what each stored value means, into {LABELS_FILE}", _shown(values)
    if len(values) == 1 and 255 in stored:
        message = (
            f"the masks hold only {values[0]} and 255, and 255 means unlabelled unless {LABELS_FILE} says otherwise"
        )
        fix = (
            f"if 255 is the object, write {LABELS_FILE} with `names: [background, object]` and "
            f"`map: {{{values[0]}: 0, 255: 1}}`"
        )
    elif len(values) < 2:
        message = f"the masks show fewer than two classes: {shown or 'no labelled pixel'}"
        fix = "label the background as a class of its own, or check that these are the right files"
    elif values[0] < 0:
        message = f"the masks hold negative values: {shown}"
    elif values[-1] >= MOST_GUESSED_CLASSES:
        message = f"the masks hold values up to {values[-1]}, too many to be guessed at as classes"
    elif 2 * len(values) <= values[-1]:
        message = f"the masks hold the values {shown}, with too many gaps to be guessed at as class numbers"
    else:
        count = values[-1] + 1
        return LabelSpec.from_names(
            ["background", "foreground"] if count == 2 else [f"class_{i}" for i in range(count)]
        )
    raise DatasetError(f"{shown_path(root)}: {message}", fix=fix, code="dataset-classes")


def undecoded_colors(mask: Path, counts: dict[Stored, int]) -> Problem:
    """Say that a mask is in colour and nothing tells which class a colour is."""
    is_gray = all(isinstance(key, tuple) and len(set(key)) == 1 for key in counts)
    return Problem(
        "error",
        "mask-colors",
        mask,
        f"it is in colour, and no class is known for {list_counts(counts)}",
        "red, green and blue are equal everywhere: export it as a single-channel PNG"
        if is_gray
        else f'add {LABELS_FILE} with `names:`, and with `colors:` such as {{"255,0,0": 0, "0,0,0": ignore}}',
    )


# -- listing ----------------------------------------------------------------------------------------------------------


@dataclass
class _Listing:
    """The image files that lie directly in a folder, by name without ending, and everything else there."""

    folder: Path
    by_stem: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    others: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        listing = cls(folder)
        for entry in sorted(_entries(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                what = "a folder" if entry.is_dir() else "not an image by its name"
                fix = f"photos and masks lie directly in {folder.name}/, as {', '.join(IMAGE_SUFFIXES)}"
                listing.others.append(Problem("warning", "file-ignored", path, f"{what}, left out", fix))
            elif not entry.is_file():
                what = "a link to nothing" if entry.is_symlink() else "a folder, pipe or device"
                fix = "put the file itself there, or take the name away"
                listing.others.append(Problem("error", "not-a-file", path, f"{what}, not a file", fix))
            else:
                listing.by_stem[path.stem].append(path)
        return listing


def _pair_all(folder: Path) -> tuple[list[Sample], list[Problem]]:
    images, masks = _Listing.of(folder / "images"), _Listing.of(folder / "masks")
    samples: list[Sample] = []
    problems = images.others + masks.others
    for stem in sorted(images.by_stem.keys() | masks.by_stem.keys()):
        pair = _pair(images.by_stem.get(stem, []), masks.by_stem.get(stem, []))
        if isinstance(pair, Sample):
            samples.append(pair)
        else:
            problems.append(pair)
    return samples, problems


def _pair(images: list[Path], masks: list[Path]) -> Sample | Problem:
    """Make a pair of the files of one name, or say why that cannot be done."""
    if len(images) == 1 and len(masks) == 1:
        return Sample(images[0], masks[0])
    for files in (images, masks):
        if len(files) > 1:
            others = " and ".join(shown_path(path.name) for path in files[1:])
            fix = "rename or remove all but one: photo and mask find each other by name"
            return Problem("error", "name-shared", files[0], f"shares its name with {others}", fix)
    if images:
        return Problem("error", "mask-missing", images[0], "has no mask", "add the mask, or take the photo away")
    return Problem("error", "photo-missing", masks[0], "this mask has no photo", "add the photo, or take the mask away")


def _pair_listed(root: Path, text_file: Path) -> tuple[list[Sample], list[Problem]]:
    listings: dict[Path, _Listing] = {}

    def listing(folder: Path) -> _Listing:
        if folder not in listings:
            listings[folder] = _Listing.of(folder) if folder.is_dir() else _Listing(folder)
        return listings[folder]

    samples: dict[Path, Sample] = {}
    problems: list[Problem] = []
    for number, entry in _list_entries(text_file):
        path = PurePosixPath(entry)
        if path.is_absolute() or ".." in path.parts:
            fix = "write names relative to images/"
            problems.append(Problem("error", "list-entry", text_file, f"line {number} leads elsewhere: {entry!r}", fix))
            continue
        if path.parts[:1] == ("images",) and len(path.parts) > 1:
            path = path.relative_to("images")
        exact = path.suffix.lower() in IMAGE_SUFFIXES
        stem = path.stem if exact else path.name
        images = listing(root / "images" / path.parent).by_stem.get(stem, [])
        images = [image for image in images if not exact or image.name == path.name]
        masks = listing(root / "masks" / path.parent).by_stem.get(stem, [])
        if not images:
            message, fix = f"line {number} names {entry!r}, and images/ has no such photo", "add it, or remove the line"
            problems.append(Problem("error", "photo-missing", text_file, message, fix))
            continue
        pair = _pair(images, masks)
        if isinstance(pair, Problem):
            problems.append(pair)
        elif pair.image in samples:
            message = f"line {number} names {entry!r} again"
            problems.append(Problem("warning", "list-entry", text_file, message, "remove the line"))
        else:
            samples[pair.image] = pair
    return list(samples.values()), problems


def _list_entries(text_file: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and entries; file names may be in any encoding."""
    try:
        text = os.fsdecode(text_file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise DatasetError(
            f"{shown_path(text_file)}: cannot be read: {error.strerror}",
            fix="check its permissions",
            code="dataset-list",
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield number, entry


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"{shown_path(folder)} is not a folder",
            fix="give the folder that holds train/ and val/",
            code="dataset-missing",
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{shown_path(folder)}: cannot be listed: {error.strerror}",
            fix="check its permissions",
            code="dataset-unreadable",
        ) from error


def _is_split_folder(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def no_such_split(root: Path, split: str) -> DatasetError:
    """Say what there is in place of a split that is not there."""
    there, where = splits(root), shown_path(root)
    if there:
        fix = f"use one of: {', '.join(there)}"
    elif _is_split_folder(root):
        fix = "name the photos of each split in train.txt and val.txt beside images/ and masks/, one a line"
    else:
        fix = f"lay it out as {where}/{split}/images and {where}/{split}/masks"
    return DatasetError(f"{where} has no split {split!r} with images/ and masks/ in it", fix=fix, code="dataset-split")


def _empty(place: Path, others: list[Problem]) -> Problem:
    if place.suffix == ".txt":
        fix = "name one photo a line"
    elif any(problem.file is not None and problem.file.is_dir() for problem in others):
        fix = "put photos and masks directly into images/ and masks/, not into folders below"
    else:
        fix = "put photos into images/ and masks into masks/"
    return Problem("error", "dataset-empty", place, "this split holds no photos", fix)


def _count_mask(path: Path) -> dict[Stored, int]:
    return count_stored(read_stored_mask(path).values)


def _shown(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
