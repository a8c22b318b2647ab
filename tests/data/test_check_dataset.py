"""check_dataset: the numbers it gives, where it takes the classes from, and what a program reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_folder import Folder, halves

from terrazzo.data.check import check_dataset
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning

AB = LabelSpec.from_names(["a", "b"])


def test_counts_by_hand(folder: Folder) -> None:
    folder.pair("x", [[0, 0, 1], [0, 255, 1]])
    folder.pair("y", [[0, 0], [0, 0]])
    folder.pair("z", [[1]], split="val")
    check = check_dataset(folder.root, AB)
    train, val = check.splits
    assert (train.name, train.images, val.name, val.images) == ("train", 2, "val", 1)
    assert [(c.name, c.pixels, c.images) for c in train.classes] == [("a", 7, 2), ("b", 2, 1)]
    assert [(c.name, c.pixels, c.images) for c in val.classes] == [("a", 0, 0), ("b", 1, 1)]
    assert (train.labelled_pixels, train.ignored_pixels) == (9, 1)
    assert [problem.code for problem in check.problems] == ["class-absent", "mask-unlabelled"]


def test_a_class_stored_in_two_ways_counts_each_image_once(folder: Folder) -> None:
    folder.pair("x", [[1, 2, 3, 9]])
    folder.pair("x", [[3, 3, 9, 9]], split="val")
    labels = LabelSpec.from_names(["a", "b"], id_map={1: 0, 2: 0, 3: 1, 9: "ignore"})
    train, val = check_dataset(folder.root, labels).splits
    assert [(c.pixels, c.images) for c in train.classes] == [(2, 1), (1, 1)]
    assert [(c.pixels, c.images) for c in val.classes] == [(0, 0), (2, 1)]
    assert (train.ignored_pixels, val.ignored_pixels) == (1, 2)


def test_more_than_255_classes(folder: Folder) -> None:
    labels = LabelSpec.from_names([f"c{i}" for i in range(300)])
    values = np.array([[0, 299, 65535, 65535]], np.uint16)
    folder.pair("x", values)
    folder.pair("y", values, split="val")
    check = check_dataset(folder.root, labels)
    assert not check.errors
    assert check.splits[0].classes[299].pixels == 1
    assert check.splits[0].ignored_pixels == 2


def test_sizes_are_ordered_by_area(folder: Folder) -> None:
    for name, size in {"a": (4, 30), "b": (8, 8), "c": (8, 8), "d": (20, 20), "e": (3, 5)}.items():
        folder.pair(name, halves(size=size))
    sizes = check_dataset(folder.root, AB).splits[0].sizes
    assert sizes is not None
    assert (sizes.smallest, sizes.median, sizes.largest, sizes.distinct) == ((3, 5), (8, 8), (20, 20), 4)


def test_where_labels_come_from(folder: Folder) -> None:
    folder.fill()
    guessed = check_dataset(folder.root)
    assert guessed.labels is not None
    assert (guessed.labels.names, guessed.labels_from) == (("background", "foreground"), "guessed")
    folder.labels("names: [x, y]")
    read = check_dataset(folder.root)
    assert read.labels is not None
    assert (read.labels.names, read.labels_from) == (("x", "y"), "labels.yaml")
    with pytest.warns(TerrazzoWarning, match="take their places"):
        assert check_dataset(folder.root, AB).labels_from == "given"
    assert [check.splits[0].classes[1].pixels for check in (guessed, read)] == [288, 288]


def test_a_broken_labels_file_is_a_problem_and_stored_values_are_counted(folder: Folder) -> None:
    folder.fill()
    folder.labels("names: [x")
    check = check_dataset(folder.root)
    assert [(problem.code, problem.file) for problem in check.errors] == [("labels-file", folder.root / "labels.yaml")]
    assert check.labels is None
    assert [(c.name, c.images) for c in check.splits[0].classes] == [("value 0", 3), ("value 1", 3)]


def test_masks_of_0_and_255_are_told_what_to_do(folder: Folder) -> None:
    for split in ("train", "val"):
        folder.pair("x", halves(0, 255), split=split)
    check = check_dataset(folder.root)
    (problem,) = check.errors
    assert problem.code == "dataset-classes"
    assert "map: {0: 0, 255: 1}" in problem.fix
    assert [(c.name, c.pixels) for c in check.splits[0].classes] == [("value 0", 96), ("value 255", 96)]
    folder.labels("{names: [background, object], map: {0: 0, 255: 1}}")
    fixed = check_dataset(folder.root)
    assert not fixed.problems
    assert [c.pixels for c in fixed.splits[0].classes] == [96, 96]


def test_colour_masks_beside_index_masks_do_not_hide_the_classes(folder: Folder) -> None:
    folder.fill()
    folder.mask("train_0.png", np.full((12, 16, 3), (0, 0, 9), np.uint8))
    check = check_dataset(folder.root)
    assert [problem.code for problem in check.errors] == ["mask-colors"]
    assert check.labels is not None
    assert check.splits[0].labelled_pixels == 2 * 192
    assert [c.images for c in check.splits[0].classes] == [2, 2]


def test_a_image_in_the_place_of_a_mask_does_not_fill_the_memory(folder: Folder) -> None:
    folder.fill()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    folder.picture("train/images/train_0.png", noise)
    folder.picture("train/masks/train_0.png", noise)
    for labels in (None, AB):
        check = check_dataset(folder.root, labels)
        assert len(check.errors) == 1
        assert len(check.errors[0].message) < 500
        assert sum(len(split.unexplained) + len(split.classes) for split in check.splits) <= 70


def test_progress_counts_every_pair_of_every_split(folder: Folder) -> None:
    folder.fill(train=3, val=2)
    folder.image("lone.png")
    calls: list[tuple[int, int]] = []
    check_dataset(folder.root, AB, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 5) for done in range(1, 6)]


def test_text_splits_are_checked_too(folder: Folder) -> None:
    for stem in ("a", "b", "c"):
        folder.pair(stem, split=".")
    (folder.root / "train.txt").write_text("a\nb\nmissing\n")
    (folder.root / "val.txt").write_text("c\na\n")
    check = check_dataset(folder.root, AB)
    assert [(split.name, split.images) for split in check.splits] == [("train", 2), ("val", 2)]
    assert [problem.code for problem in check.problems] == ["photo-missing", "split-overlap"]


def test_json_is_plain_and_relative(folder: Folder) -> None:
    folder.fill()
    folder.image("lone.png")
    document = json.loads(json.dumps(check_dataset(folder.root).to_dict()))
    assert document["ready"] is False
    assert LabelSpec.from_dict(document["labels"]).names == ("background", "foreground")
    assert document["splits"][0]["classes"][1] == {"name": "foreground", "pixels": 288, "images": 3}
    assert document["splits"][0]["sizes"] == {
        "smallest": [12, 16],
        "median": [12, 16],
        "largest": [12, 16],
        "distinct": 1,
    }
    (problem,) = document["problems"]
    assert (problem["file"], problem["code"], problem["severity"]) == ("train/images/lone.png", "mask-missing", "error")


def test_no_such_place_and_no_split(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        check_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="not a data set in a known layout"):
        check_dataset(tmp_path)


def test_paths_may_be_given_as_text(folder: Folder) -> None:
    folder.fill()
    assert check_dataset(str(folder.root), AB).splits[0].images == 3


def some_of(source: Path, root: Path, count: int) -> Path:
    """Make a data set of every few photos of a real one, by links and lists."""
    root.mkdir()
    for kind in ("images", "masks"):
        (root / kind).mkdir()
        for split in ("train", "val"):
            (root / kind / split).symlink_to(source / split / kind)
    for split in ("train", "val"):
        names = sorted(path.stem for path in (source / split / "images").iterdir())
        chosen = names[:: len(names) // count][:count]
        (root / f"{split}.txt").write_text("".join(f"{split}/{name}\n" for name in chosen))
    return root


def test_camvid(shared_data: Path, tmp_path: Path) -> None:
    check = check_dataset(some_of(shared_data / "camvid", tmp_path / "d", 20), LabelSpec.bundled("camvid"), strict=True)
    assert not check.problems
    for split in check.splits:
        assert split.images == 20
        assert split.labelled_pixels + split.ignored_pixels == 20 * 360 * 480
        assert max(split.classes, key=lambda count: count.pixels).name in ("Road", "Building")


def test_nuclei(shared_data: Path, tmp_path: Path) -> None:
    check = check_dataset(some_of(shared_data / "nuclei", tmp_path / "d", 20), strict=True)
    assert not check.problems
    assert check.labels is not None
    assert check.labels.names == ("background", "foreground")
    assert [split.images for split in check.splits] == [20, 20]
    sizes = check.splits[0].sizes
    assert sizes is not None
    assert sizes.distinct > 1
