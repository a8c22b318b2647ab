"""Folder data sets: which files make a pair, which pairs make a split, and which classes the masks show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_folder import Folder, halves

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.classes import guess_labels, infer_labels
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning

AB = LabelSpec.from_names(["a", "b"])


def refused(root: Path, split: str = "train", labels: LabelSpec | None = AB) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, split, labels)
    assert caught.value.fix
    return caught.value


# -- split by folders -------------------------------------------------------------------------------------------------


def test_pairs_by_name_in_a_fixed_order(folder: Folder) -> None:
    for stem in ("b", "a.v2", "c"):
        folder.pair(stem)
    dataset = open_dataset(folder.root, "train", AB)
    assert [sample.name for sample in dataset.samples] == ["a.v2", "b", "c"]
    assert all(
        sample.mask.file.parent.name == "masks" and sample.mask.file.stem == sample.name for sample in dataset.samples
    )
    image, mask = dataset.read(1)
    assert image.shape == (12, 16, 3)
    assert (mask == halves()).all()


def test_suffixes_in_capitals_and_of_different_formats_pair(folder: Folder) -> None:
    folder.image("a.JPG")
    folder.mask("a.PNG")
    folder.image("b.bmp")
    folder.mask("b.tif")
    assert [sample.image.name for sample in open_dataset(folder.root, "train", AB).samples] == ["a.JPG", "b.bmp"]


def test_a_number_that_goes_on_is_no_match(folder: Folder) -> None:
    folder.image("a.png")
    folder.mask("ab.png")
    error = refused(folder.root)
    assert error.code == "dataset-pairs"
    assert "a.png: has no mask" in error.message
    assert "ab.png: this mask has no photo" in error.message
    assert "check-data" in error.fix


def test_links_to_files_are_files_and_links_to_nothing_are_named(folder: Folder, tmp_path: Path) -> None:
    image, _ = folder.pair("a")
    elsewhere = tmp_path / "elsewhere.png"
    image.rename(elsewhere)
    image.symlink_to(elsewhere)
    assert open_dataset(folder.root, "train", AB).read(0)[0].shape == (12, 16, 3)
    elsewhere.unlink()
    error = refused(folder.root)
    assert f"{image}: a link to nothing" in error.message


def test_pipes_and_folders_in_the_place_of_files_do_not_hang(folder: Folder) -> None:
    folder.pair("a")
    os.mkfifo(folder.root / "train/images/b.png")
    (folder.root / "train/masks/b.png").mkdir()
    error = refused(folder.root)
    assert "images/b.png: a folder, pipe or device" in error.message
    assert "masks/b.png: a folder, pipe or device" in error.message


def test_hidden_files_and_other_files_are_left_out(folder: Folder) -> None:
    folder.fill()
    for name in (".DS_Store", "._train_0.png", "Thumbs.db", "notes.txt"):
        (folder.root / "train/images" / name).write_bytes(b"x")
    samples, problems = find_layout(folder.root).pairs("train")
    assert len(samples) == 3
    assert [(problem.code, problem.severity, problem.file) for problem in problems] == [
        ("file-ignored", "warning", folder.root / "train/images" / name) for name in ("notes.txt",)
    ]
    assert len(open_dataset(folder.root, "train", AB)) == 3


def test_many_problems_are_counted_and_the_first_shown(folder: Folder) -> None:
    folder.fill()
    for number in range(8):
        folder.image(f"lone_{number}.png")
    error = refused(folder.root)
    assert "8 files of train" in error.message
    assert "lone_4.png" in error.message
    assert "lone_5.png" not in error.message
    assert "and 3 more" in error.message


def test_images_in_folders_below_are_explained(folder: Folder) -> None:
    folder.picture("train/images/day/a.png", halves())
    folder.picture("train/masks/day/a.png", halves())
    error = refused(folder.root)
    assert error.code == "dataset-empty"
    assert "directly" in error.fix


def test_no_such_place(folder: Folder, tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").code == "dataset-missing"
    folder.fill()
    error = refused(folder.root, "test")
    assert error.code == "dataset-split"
    assert "train, val" in error.fix
    file = folder.image("a.png")
    assert refused(file).code == "dataset-missing"


def test_what_is_not_laid_out_is_told_how(folder: Folder, tmp_path: Path) -> None:
    assert "train/images" in refused(tmp_path).fix
    folder.picture("images/a.png", halves())
    folder.picture("masks/a.png", halves())
    assert "--val 0.1" in refused(folder.root).fix


def test_splits_are_train_val_test_and_then_the_others(folder: Folder) -> None:
    for split in ("zebra", "test", "train", "apple", "val"):
        folder.pair("a", split=split)
    (folder.root / "notes").mkdir()
    assert list(find_layout(folder.root).splits) == ["train", "val", "test", "apple", "zebra"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_named(folder: Folder) -> None:
    folder.fill()
    (folder.root / "train/images").chmod(0)
    try:
        assert refused(folder.root).code == "dataset-unreadable"
    finally:
        (folder.root / "train/images").chmod(0o755)


def test_names_that_are_no_text(folder: Folder) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    folder.fill()
    folder.image(name)
    assert r"caf\udce9.png: has no mask" in refused(folder.root).message  # in letters that print anywhere
    folder.mask(name)
    assert open_dataset(folder.root, "train", AB).read(0)[1].shape == (12, 16)


# -- split by text files ----------------------------------------------------------------------------------------------


@pytest.fixture
def listed(folder: Folder) -> Folder:
    for stem in ("a", "b", "c.d", "night/e"):
        folder.picture(f"images/{stem}.JPG", halves())
        folder.picture(f"masks/{stem}.png", halves())
    return folder


def write_list(folder: Folder, split: str, text: str | bytes) -> None:
    (folder.root / f"{split}.txt").write_bytes(text.encode() if isinstance(text, str) else text)


def test_text_files_name_stems_files_or_paths(listed: Folder) -> None:
    write_list(listed, "train", "\ufeff# first day\nb\r\n\n  a.JPG  \nimages/c.d.JPG\n")
    write_list(listed, "val", "night/e\n")
    train = open_dataset(listed.root, "train", AB)
    assert [sample.image.name for sample in train.samples] == ["b.JPG", "a.JPG", "c.d.JPG"]
    assert train.layout == "photos and masks listed in text files"
    (sample,) = open_dataset(listed.root, "val", AB).samples
    assert sample.mask.file == listed.root / "masks/night/e.png"
    assert list(find_layout(listed.root).splits) == ["train", "val"]


def test_other_text_files_are_splits_only_when_asked_for(listed: Folder) -> None:
    write_list(listed, "train", "a")
    write_list(listed, "README", "Do not read this as a list.")
    write_list(listed, "fold_1", "b")
    assert list(find_layout(listed.root).splits) == ["train"]
    assert open_dataset(listed.root, "fold_1", AB).samples[0].name == "b"


def test_lines_that_name_no_image_are_counted_with_their_numbers(listed: Folder) -> None:
    write_list(listed, "train", "a\nz\n../a\n/etc/passwd\nb.png\n.\n")
    message = refused(listed.root).message
    assert "5 files of train" in message
    for part in (
        "line 2 names 'z'",
        "line 3 leads elsewhere: '../a'",
        "line 4 leads elsewhere",
        "line 5 names 'b.png'",
    ):
        assert part in message


def test_a_line_that_comes_twice_counts_once(listed: Folder) -> None:
    write_list(listed, "train", "a\nb\na.JPG\n")
    samples, problems = find_layout(listed.root).pairs("train")
    assert [sample.name for sample in samples] == ["a", "b"]
    assert [(problem.code, problem.severity) for problem in problems] == [("list-entry", "warning")]


def test_a_listed_image_needs_one_mask(listed: Folder) -> None:
    listed.picture("masks/a.tif", halves())
    listed.picture("images/f.png", halves())
    write_list(listed, "train", "a\nb\nf\n")
    message = refused(listed.root).message
    assert "masks/a.png: shares its name with a.tif" in message
    assert "images/f.png: has no mask" in message


def test_an_exact_name_chooses_among_images_of_one_stem(listed: Folder) -> None:
    listed.picture("images/a.png", halves())
    write_list(listed, "train", "a.png")
    assert open_dataset(listed.root, "train", AB).samples[0].image.name == "a.png"
    write_list(listed, "train", "a")
    assert "shares its name" in refused(listed.root).message


def test_an_empty_list_is_an_empty_split(listed: Folder) -> None:
    write_list(listed, "train", "\n# nothing yet\n")
    error = refused(listed.root)
    assert error.code == "dataset-empty"
    assert error.message.startswith(str(listed.root / "train.txt"))


def test_lists_hold_names_in_any_encoding(listed: Folder) -> None:
    name = os.fsdecode(b"caf\xe9")
    listed.picture(f"images/{name}.png", halves())
    listed.picture(f"masks/{name}.png", halves())
    write_list(listed, "train", b"caf\xe9\n")
    assert open_dataset(listed.root, "train", AB).samples[0].name == name


# -- classes ----------------------------------------------------------------------------------------------------------


def test_labels_come_from_the_argument_then_the_file_then_the_masks(folder: Folder) -> None:
    folder.fill()
    assert open_dataset(folder.root, "train").labels.names == ("background", "foreground")
    folder.labels("names: [sky, ground]")
    assert open_dataset(folder.root, "train").labels.names == ("sky", "ground")
    with pytest.warns(TerrazzoWarning, match="take their places"):
        assert open_dataset(folder.root, "train", AB).labels is AB


def test_a_broken_labels_file_is_not_passed_over(folder: Folder) -> None:
    folder.fill()
    folder.labels("names: [sky")
    with pytest.raises(LabelError, match=r"labels\.yaml"):
        open_dataset(folder.root, "train")


def test_classes_of_all_splits_are_guessed(folder: Folder) -> None:
    folder.pair("a", halves(0, 1))
    folder.pair("b", halves(2, 255), split="val")
    folder.pair("c", halves(0, 4), split="test")
    assert open_dataset(folder.root, "train").labels.names == tuple(f"class_{i}" for i in range(5))


@pytest.mark.parametrize(
    ("values", "message", "fix"),
    [
        ({0, 255}, "only 0 and 255", "map: {0: 0, 255: 1}"),
        ({1, 255}, "only 1 and 255", "map: {1: 0, 255: 1}"),
        ({255}, "fewer than two classes: no labelled pixel", "background"),
        ({3}, "fewer than two classes: 3", "background"),
        ({0, 128}, "0, 128, with too many gaps", "labels.yaml"),
        ({0, 60, 120, 180, 240}, "too many gaps", "labels.yaml"),
        ({-1, 0, 1}, "negative values: -1, 0, 1", "`map:` cannot"),
        ({0, 1, 300}, "values up to 300", "labels.yaml"),
        (set(range(300)), "values up to 299", "labels.yaml"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(values: set[int], message: str, fix: str) -> None:
    with pytest.raises(DatasetError) as caught:
        guess_labels(Path("data"), values)
    assert caught.value.code == "dataset-classes"
    assert message in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("values", "count"), [({0, 1}, 2), ({0, 1, 255}, 2), ({1, 2}, 3), ({0, 2}, 3), (set(range(255)), 255)]
)
def test_what_can_be_guessed(values: set[int], count: int) -> None:
    assert guess_labels(Path("data"), values).num_classes == count


def test_camvid_and_nuclei(shared_data: Path) -> None:
    camvid = open_dataset(shared_data / "camvid", "train", LabelSpec.bundled("camvid"))
    assert len(camvid) == 367
    assert len(open_dataset(shared_data / "camvid", "val", camvid.labels)) == 101
    image, mask = camvid.read(0)
    assert image.shape == (360, 480, 3)
    assert set(mask.ravel().tolist()) <= {*range(11), 255}
    nuclei = shared_data / "nuclei"
    assert [len(find_layout(nuclei).pairs(split)[0]) for split in find_layout(nuclei).splits] == [471, 68]
    assert infer_labels(find_layout(nuclei)).names == ("background", "foreground")
