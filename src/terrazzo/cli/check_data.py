"""`terrazzo check-data`."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from terrazzo.cli.advice import fitting
from terrazzo.cli.options import (
    FrameOption,
    LearntBandsOption,
    NodataOption,
    ValueRangeOption,
    learnt_bands,
    read_options,
)
from terrazzo.cli.progress import progress_bar
from terrazzo.errors import ConfigError
from terrazzo.ownership import check_outputs, write_result
from terrazzo.text import printable, shown_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from terrazzo.data.check import DatasetCheck, SplitCheck
    from terrazzo.data.problems import Problem
    from terrazzo.data.rules import DataRules

__all__ = ["check_data"]

SHOWN_FILES = 10
SHOWN_VALUES = 20  # stored values, where there are no classes
NAME_WIDTH = 20
NUMBERS_WIDTH = 25  # of one split, beside its bar
SHORTEST_BAR, LONGEST_BAR = 4, 24
USUAL_BANDS = ("1 of uint8", "3 of uint8")
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}
TITLES = {  # what the files of one code have in common
    "file-ignored": "files that are left out",
    "list-entry": "lines that do not name a photo",
    "crowds-only": "classes of which only crowds are outlined",
    "mask-all-ignored": "masks without any label",
    "mask-colors": "masks in colours whose class is not known",
    "mask-damaged": "masks that cannot be read",
    "mask-lossy": "masks in a lossy format",
    "mask-missing": "photos without a mask",
    "mask-mode": "masks that hold something else than class numbers",
    "mask-palette": "masks whose palette disagrees with their numbers",
    "mask-several": "photos with several masks each",
    "mask-size": "masks of another size than their photo",
    "mask-soft": "masks with soft borders",
    "mask-values": "masks with values or colours that have no class",
    "name-shared": "names that several files share",
    "not-a-file": "names that are not files",
    "outline-damaged": "outlines that cannot be read",
    "outline-empty": "outlines that hold nothing",
    "outline-missing": "objects without an outline",
    "photo-reading": "photos that may be meant to be read in another way",
    "photo-missing": "masks, or names in lists, without a photo",
    "split-overlap": "photos that are in another split too",
}


def check_data(
    data: Path,
    *,
    labels: Annotated[str | None, Parameter(name=["--labels", "-l"])] = None,
    val: float | None = None,
    group_by: str | None = None,
    crowds: Literal["ignore", "objects"] = "ignore",
    strict: bool = False,
    bands: LearntBandsOption = None,
    nodata: NodataOption = None,
    frame: FrameOption = None,
    value_range: ValueRangeOption = None,
    json: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Check a data set before training, and list all that is wrong with it.

    Says what kind of data set DATA is taken for: a folder of photos and masks, a published data set such as ADE20K,
    Cityscapes or Pascal VOC, or the export of a labelling tool such as CVAT, labelme, Label Studio, Roboflow,
    Supervisely, Segments.ai, COCO JSON or YOLO. Reads every photo and mask, and shows how many there are, their sizes,
    and how much of them each class fills. Changes nothing. The exit status is 0 where a training run can start, and 2
    where something must be put right first.

    Examples:
        terrazzo check-data my-folder
        terrazzo check-data camvid --labels camvid --json report.json

    Parameters
    ----------
    data
        Read the data set in this folder.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file; by default from labels.yaml in the
        folder, else from what the kind of data set is known to have, else from the numbers in the masks.
    val
        Split the photos as train --val does, such as 0.1, where nobody has split them.
    group_by
        Keep photos together whose names begin alike by this regular expression, as train --group-by does.
    crowds
        Take iscrowd: 1 in COCO JSON for areas to ignore, or for objects.
    strict
        Refuse splits that share a photo.
    json
        Write all numbers and all problems into this file.
    overwrite
        Replace the --json file even if it is not a result of `terrazzo check-data`. Data are never replaced.
    """
    from rich.console import Console

    from terrazzo.data.check import check_dataset
    from terrazzo.labels.spec import LabelSpec

    if json is not None:
        inputs = [data, *([] if labels is None else [Path(labels)])]
        check_outputs([json], "check-data", inputs=inputs, overwrite=overwrite, option="--json")
    if nodata is not None and bands is None:
        raise ConfigError("--nodata is given without --bands", fix="name the bands too, as in --bands 1,2,3,4")
    with progress_bar("check") as progress:
        check = check_dataset(
            data,
            None if labels is None else LabelSpec.named(labels),
            strict,
            rules=_rules(val, group_by, crowds),
            reading=read_options(None, frame, value_range),
            bands=learnt_bands(bands),
            nodata=nodata,
            progress=progress,
        )
    console = Console(highlight=False)
    _print_overview(console, check)
    _print_classes(console, check)
    for problems in _groups(check.problems):
        _print_group(console, check, problems)
    if json is not None:
        _write_json(json, check)
        _print(console, f"everything as JSON: {json}")
        console.print()
    _print(console, _verdict(check), style=STYLES["error"] if check.errors else "bold green")
    if check.errors:
        raise SystemExit(2)


def _rules(val: float | None, group_by: str | None, crowds: Literal["ignore", "objects"]) -> DataRules:
    from terrazzo.data.rules import DataRules
    from terrazzo.data.splits import SplitRule

    return DataRules(split=SplitRule.of_options(val, group_by), crowds=crowds)


def _print_overview(console: Console, check: DatasetCheck) -> None:
    from rich.text import Text  # a class called [red] is not markup

    images = sum(split.images for split in check.splits)
    classes = "unknown classes" if check.labels is None else f"{check.labels.num_classes} classes"
    _print(console, shown_path(check.root))
    _print(console, f"taken for {check.layout}")
    _print(console, f"{_counted(images, 'labelled photo')}, {classes}")
    if check.labels is not None and check.labels_from == "guessed":
        _print(console, "The classes are guessed from the numbers in the masks: name them in labels.yaml.")
    console.print()
    table = _table()
    table.add_column("split")
    table.add_column("photos", justify="right")
    table.add_column("labelled", justify="right")
    stored = {bands for split in check.splits for bands in split.stored}
    tells_bands = not stored <= set(USUAL_BANDS)
    table.add_column("width x height")
    if tells_bands:
        table.add_column("bands")
    for split in check.splits:
        table.add_row(
            Text(shown_path(split.name)),
            f"{split.images:,}",
            _share(split.labelled_pixels, _all_pixels(split)),
            _sizes(split),
            *([", ".join(split.stored)] if tells_bands else []),
        )
    console.print(table)
    console.print()
    _print_bands(console, check)


def _print_bands(console: Console, check: DatasetCheck) -> None:
    """Print the numbers of each band that was chosen."""
    from rich.text import Text

    if not any(split.bands for split in check.splits):
        return
    table = _table()
    table.add_column("split")
    for title in ("band", "lowest", "highest", "mean", "std", "no value"):
        table.add_column(title, justify="right")
    table.add_column("name")
    for split in check.splits:
        for place, band in enumerate(split.bands):
            name = Text("" if place else shown_path(split.name))
            numbers = (f"{value:.5g}" for value in (band.lowest, band.highest, band.mean, band.std))
            table.add_row(name, str(band.band), *numbers, f"{band.gaps:.1%}", Text(printable(band.name)))
    console.print(table)
    console.print()


def _print_classes(console: Console, check: DatasetCheck) -> None:
    """Draw the histogram: a line for each class, a bar for each split, as many splits side by side as fit."""
    from rich.text import Text

    names = list(dict.fromkeys(count.name for split in check.splits for count in split.classes))
    if not names:
        return
    what, left_out = "class", 0
    if check.labels is None:
        what, left_out, names = "stored", len(names[SHOWN_VALUES:]), names[:SHOWN_VALUES]
    name_width = min(max(len(name) for name in [what, *names]), NAME_WIDTH)
    per_table = max((console.width - name_width) // (NUMBERS_WIDTH + SHORTEST_BAR), 1)
    top = max(c.pixels / max(split.labelled_pixels, 1) for split in check.splits for c in split.classes)
    for start in range(0, len(check.splits), per_table):
        splits = check.splits[start : start + per_table]
        bar_width = (console.width - name_width) // len(splits) - NUMBERS_WIDTH
        bar_width = max(min(bar_width, LONGEST_BAR), SHORTEST_BAR)
        table = _table()
        table.add_column(what, max_width=name_width, no_wrap=True, overflow="ellipsis")
        for split in splits:
            table.add_column(Text(shown_path(split.name)), width=bar_width, no_wrap=True, overflow="ellipsis")
            table.add_column("pixels", justify="right", no_wrap=True)
            table.add_column("photos", justify="right", no_wrap=True)
            table.add_column("", justify="right", no_wrap=True)
        counts = [{count.name: (count.pixels, count.images) for count in split.classes} for split in splits]
        for name in names:
            cells = []
            for split, by_name in zip(splits, counts, strict=True):
                pixels, images = by_name.get(name, (0, 0))
                share = pixels / max(split.labelled_pixels, 1)
                cells += [_bar(console, share / top if top else 0.0, bar_width), _share(pixels, split.labelled_pixels)]
                cells += [f"{images:,}", _share(images, split.images, digits=0)]
            table.add_row(Text(name), *cells)
        console.print(table)
        console.print()
    if left_out:
        _print(console, f"... and {left_out} more stored values")
        console.print()


def _groups(problems: Sequence[Problem]) -> Iterator[list[Problem]]:
    """Put together the files that have one code and one fix."""
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        own = "" if problem.file is not None else problem.message
        groups.setdefault((problem.severity, problem.code, problem.fix, own), []).append(problem)
    yield from groups.values()


def _print_group(console: Console, check: DatasetCheck, problems: list[Problem]) -> None:
    first = problems[0]
    lines = [
        problem.message if problem.file is None else f"{check.relative(problem.file)}: {problem.message}"
        for problem in problems[:SHOWN_FILES]
    ]
    if len(problems) == 1:
        _print(console, f"{first.severity}: {lines[0]}", style=STYLES[first.severity])
    else:
        title = TITLES.get(first.code, "photos that cannot be read" if first.code.startswith("image") else first.code)
        _print(console, f"{first.severity}: {len(problems):,} {title}", style=STYLES[first.severity])
        for line in lines:
            _print(console, line, indent=2)
        if len(problems) > SHOWN_FILES:
            _print(console, f"... and {len(problems) - SHOWN_FILES:,} more", indent=2)
    if first.code == "mask-values" and len(problems) > 1:
        _print(console, f"in all: {_unexplained(check)}", indent=2)
    _print(console, f"fix: {fitting(first.fix, 'check-data')}", indent=2)
    console.print()


def _unexplained(check: DatasetCheck) -> str:
    """Sum up over the splits what masks hold and the labels do not name."""
    pixels: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for split in check.splits:
        for count in split.unexplained:
            pixels[count.name] += count.pixels
            images[count.name] += count.images
    shown = [
        f"{name} in {_counted(images[name], 'mask')} ({n:,} pixels)" for name, n in pixels.most_common(SHOWN_FILES)
    ]
    return "; ".join(shown) + (f"; and {len(pixels) - SHOWN_FILES} more" if len(pixels) > SHOWN_FILES else "")


def _verdict(check: DatasetCheck) -> str:
    if check.errors:
        return f"Not ready to train: {_counted(len(check.errors), 'error')} must be fixed first."
    if check.warnings:
        return f"Ready to train, with {_counted(len(check.warnings), 'warning')} to look at."
    return "Ready to train."


def _write_json(path: Path, check: DatasetCheck) -> None:
    import json

    write_result(path, json.dumps(check.to_dict(), indent=1).encode(), "check-data")


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def _print(console: Console, text: str, *, style: str = "", indent: int = 0) -> None:
    """Print text as it is, file names in brackets too, wrapped between words with what follows indented."""
    margin = " " * indent
    lines = textwrap.wrap(
        printable(text), console.width, initial_indent=margin, subsequent_indent=margin + "  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    for line in lines:
        console.print(line, style=style, markup=False, emoji=False, soft_wrap=True)


def _all_pixels(split: SplitCheck) -> int:
    return split.labelled_pixels + split.ignored_pixels + sum(count.pixels for count in split.unexplained)


def _sizes(split: SplitCheck) -> str:
    if split.sizes is None:
        return "-"
    smallest, median, largest = (
        f"{width} x {height}" for height, width in (split.sizes.smallest, split.sizes.median, split.sizes.largest)
    )
    if split.sizes.distinct == 1:
        return f"all {smallest}"
    return f"{smallest} to {largest}, median {median}, {split.sizes.distinct} sizes"


def _bar(console: Console, share: float, width: int) -> str:
    """Draw a share of a bar, with at least a sliver of anything that is there."""
    if not console.encoding.startswith("utf"):
        return "#" * (max(round(share * width), 1) if share else 0)
    eighths = max(round(share * width * 8), 1) if share else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _share(part: int, whole: int, digits: int = 1) -> str:
    """Write a percentage that is 0 or 100 only where it is exactly that."""
    if not part or not whole:
        return "-"
    percent, step = 100 * part / whole, 10**-digits
    return "100%" if part == whole else f"{min(max(percent, step), 100 - step):.{digits}f}%"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
