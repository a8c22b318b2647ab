"""Bad masks and data sets: each is found by the check, and by reading or training where it would do harm there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_folder import Folder, halves
from PIL import Image

from terrazzo.data import open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.check_result import DatasetCheck
from terrazzo.data.pixel_counts import count_pixels
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError, TerrazzoError
from terrazzo.labels.spec import LabelSpec
from terrazzo.training.losses.cross_entropy import upsampled_cross_entropy

AB = LabelSpec.from_names(["a", "b"])


def found(folder: Folder, code: str, *, labels: LabelSpec | None = AB, strict: bool = False) -> list[Problem]:
    problems = [problem for problem in check_dataset(folder.root, labels, strict).problems if problem.code == code]
    assert problems, f"nothing of kind {code}"
    assert all(problem.message and problem.fix for problem in problems)
    return problems


def refused(folder: Folder, *, split: str = "train", index: int = 0, labels: LabelSpec | None = AB) -> TerrazzoError:
    """Open a split, read one of its pairs, and return the error that this must raise."""
    with pytest.raises(TerrazzoError) as caught:
        open_dataset(folder.root, split, labels).read(index)
    return caught.value


def test_23_mask_of_another_size(folder: Folder) -> None:
    folder.fill()
    mask = folder.mask("train_0.png", halves(size=(6, 9)))
    (problem,) = found(folder, "mask-size")
    assert problem.severity == "error"
    assert problem.file == mask
    assert "the mask is 9 x 6" in problem.message
    assert "train_0.png is 16 x 12" in problem.message
    error = refused(folder)
    assert error.code == "mask-size"
    assert error.message == f"{mask}: {problem.message}"


def test_23_mask_on_its_side_points_to_the_orientation(folder: Folder) -> None:
    folder.fill()
    folder.mask("train_0.png", halves(size=(16, 12)))
    assert "EXIF orientation" in found(folder, "mask-size")[0].fix


def test_23_image_turned_by_exif_fits_the_mask_of_the_turned_view(folder: Folder) -> None:
    folder.fill()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 16)).save(folder.root / "train/images/train_0.png", exif=exif)  # shown 16 wide and 12 high
    assert open_dataset(folder.root, "train", AB).read(0)[0].shape == (12, 16, 3)
    check = check_dataset(folder.root, AB)
    assert not check.errors
    assert [problem.code for problem in check.problems] == ["photo-turned"]
    assert check.problems[0].severity == "note"


def test_24_labels_beyond_the_classes(folder: Folder) -> None:
    folder.fill(train=14)
    for number in range(12):
        values = halves()
        values[:2, :3] = 7
        values[2, : number + 1] = 200
        folder.mask(f"train_{number}.png", values)
    problems = found(folder, "mask-values")
    assert len(problems) == 12
    assert all(problem.severity == "error" for problem in problems)
    messages = {problem.file.stem: problem.message for problem in problems if problem.file is not None}
    assert messages["train_0"] == "holds 7 (6 pixels), 200 (1 pixel)"
    assert messages["train_11"] == "holds 200 (12 pixels), 7 (6 pixels)"
    train = check_dataset(folder.root, AB).splits[0]
    assert [(count.name, count.pixels, count.images) for count in train.unexplained] == [
        ("value 200", 78, 12),
        ("value 7", 72, 12),
    ]


def test_24_all_such_files_are_listed_before_the_first_step(folder: Folder) -> None:
    folder.fill(train=14)
    dataset = open_dataset(folder.root, "train", AB)
    assert count_pixels(dataset).sum(axis=0).tolist() == [14 * 96, 14 * 96]
    mask = folder.mask("train_3.png", halves(0, 9))
    with pytest.raises(DatasetError, match=r"train_3\.png: .* 9 \(96 pixels\)") as caught:
        count_pixels(dataset)
    assert caught.value.code == "mask-values"
    for number in range(12):
        folder.mask(f"train_{number}.png", halves(0, 9))
    with pytest.raises(DatasetError, match="12 masks of train cannot be used") as caught:
        count_pixels(dataset)
    assert str(mask) in caught.value.message
    assert "and 2 more" in caught.value.message
    assert "check-data" in caught.value.fix
    assert "9 (96 pixels)" in refused(folder).message


def test_25_colour_mask_without_a_map(folder: Folder) -> None:
    folder.fill()
    colors = np.zeros((12, 16, 3), np.uint8)
    colors[:, 4:] = (128, 64, 0)
    mask = folder.mask("train_0.png", colors)
    (problem,) = found(folder, "mask-colors", labels=None)
    assert problem.severity == "error"
    assert problem.file == mask
    assert "(128, 64, 0) (144 pixels), (0, 0, 0) (48 pixels)" in problem.message
    assert "colors:" in problem.fix
    error = refused(folder, labels=None)
    assert error.code == "mask-colors"
    assert "(128, 64, 0)" in error.message


def test_25_grey_masks_saved_as_rgb_are_index_masks(folder: Folder) -> None:
    folder.fill()
    folder.mask("train_0.png", np.repeat(halves()[..., None], 3, axis=2))
    assert not check_dataset(folder.root).problems
    np.testing.assert_array_equal(open_dataset(folder.root, "train", AB).read(0)[1], halves())


def test_25_colour_mask_with_a_map_is_read_and_its_unknown_colours_listed(folder: Folder) -> None:
    folder.labels('{names: [a, b], colors: {"0,0,0": 0, "128,64,0": 1}}')
    colors = np.zeros((12, 16, 3), np.uint8)
    colors[:, 4:] = (128, 64, 0)
    for split in ("train", "val"):
        folder.pair("x", split=split)
        folder.mask("x.png", colors, split=split)
    check = check_dataset(folder.root)
    assert not check.problems
    assert [(count.pixels, count.images) for count in check.splits[0].classes] == [(48, 1), (144, 1)]
    colors[0, 0] = (128, 64, 1)
    folder.mask("x.png", colors)
    (problem,) = found(folder, "mask-values", labels=None)
    assert "(128, 64, 1) (1 pixel)" in problem.message
    assert "colors:" in problem.fix


def test_25_two_classes_of_one_colour_cannot_be_told_apart(folder: Folder) -> None:
    labels = LabelSpec.from_names(["a", "b"], [(9, 9, 9), (9, 9, 9)])
    folder.fill()
    folder.mask("train_0.png", np.full((12, 16, 3), 9, np.uint8))
    (problem,) = found(folder, "mask-values", labels=labels)
    assert "both drawn" in problem.message


def test_26_palette_mask_is_read_as_indices(folder: Folder) -> None:
    folder.fill()
    image = Image.frombytes("P", (16, 12), halves().tobytes())
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(folder.root / "train/masks/train_0.png")
    np.testing.assert_array_equal(open_dataset(folder.root, "train", AB).read(0)[1], halves())
    (problem,) = found(folder, "mask-palette")
    assert problem.severity == "note"
    assert problem.message.startswith("palette images among the masks of train: 1;")


def test_27_ignored_labels_count_neither_in_the_loss_nor_as_a_class(folder: Folder) -> None:
    folder.fill()
    folder.mask("train_0.png", halves(255, 1))
    check = check_dataset(folder.root, AB)
    assert [(problem.severity, problem.code) for problem in check.problems] == [("note", "mask-unlabelled")]
    assert check.splits[0].ignored_pixels == 96
    assert [count.pixels for count in check.splits[0].classes] == [192, 288]
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 12, 16, requires_grad=True)
    labels = torch.from_numpy(open_dataset(folder.root, "train", AB).read(0)[1].astype(np.int64))[None]
    upsampled_cross_entropy(logits, labels, AB.ignore_index).backward()
    assert logits.grad is not None
    assert (logits.grad[..., :8] == 0).all()
    assert (logits.grad[..., 8:] != 0).all()
    changed = logits.detach().clone()
    changed[..., :8] = 100.0
    assert torch.equal(upsampled_cross_entropy(changed, labels, 255), upsampled_cross_entropy(logits, labels, 255))


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0])])
def test_28_a_batch_without_labels_costs_nothing_and_moves_nothing(weights: torch.Tensor | None) -> None:
    logits = torch.randn(2, 2, 3, 4, requires_grad=True)
    loss = upsampled_cross_entropy(logits, torch.full((2, 12, 16), 255), 255, weights)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_28_a_mask_without_labels_is_warned_of(folder: Folder) -> None:
    folder.fill()
    mask = folder.mask("train_0.png", halves(255, 255))
    for labels in (AB, None):
        (problem,) = found(folder, "mask-all-ignored", labels=labels)
        assert problem.severity == "warning"
        assert problem.file == mask
    assert (open_dataset(folder.root, "train", AB).read(0)[1] == 255).all()


def test_28_a_split_without_labels_is_refused(folder: Folder) -> None:
    folder.fill()
    folder.mask("val_0.png", halves(255, 255), split="val")
    (problem,) = found(folder, "dataset-unlabelled")
    assert problem.severity == "error"
    assert "of val" in problem.message


@pytest.mark.parametrize("value", [0.5, np.nan, -1.0, 1e30])
def test_29_float_masks(folder: Folder, value: float) -> None:
    folder.fill()
    (folder.root / "train/masks/train_0.png").unlink()
    folder.picture("train/masks/train_0.tif", np.full((12, 16), value, np.float32))
    (problem,) = found(folder, "mask-mode")
    assert problem.severity == "error"
    assert "fractions, NaN or negative" in problem.message
    assert refused(folder).code == "mask-mode"


def test_29_negative_integers(folder: Folder) -> None:
    folder.fill()
    (folder.root / "train/masks/train_0.png").unlink()
    folder.picture("train/masks/train_0.tif", halves().astype(np.int32) - 1)
    assert "-1 (96 pixels)" in found(folder, "mask-values")[0].message
    assert "-1 (96 pixels)" in refused(folder).message
    assert "negative" in found(folder, "dataset-classes", labels=None)[0].message


def test_30_jpeg_mask(folder: Folder) -> None:
    folder.fill()
    (folder.root / "train/masks/train_0.png").unlink()
    mask = folder.mask("train_0.jpg")
    (problem,) = found(folder, "mask-lossy")
    assert (problem.severity, problem.file) == ("error", mask)
    assert refused(folder).code == "mask-lossy"
    mask.rename(mask.with_suffix(".png"))  # by content, not by name
    assert found(folder, "mask-lossy")


def test_31_missing_pairs_are_counted_and_listed(folder: Folder) -> None:
    folder.fill()
    photos = [folder.image(f"lone_{number}.png") for number in range(3)]
    mask = folder.mask("orphan.png")
    assert [problem.file for problem in found(folder, "mask-missing")] == photos
    assert [problem.file for problem in found(folder, "photo-missing")] == [mask]
    error = refused(folder)
    assert error.code == "dataset-pairs"
    assert error.message.startswith("4 files of train")


def test_32_duplicated_stem(folder: Folder) -> None:
    folder.fill()
    folder.image("train_0.jpg")
    folder.mask("train_1.bmp")
    photo, mask = found(folder, "name-shared")
    assert photo.file == folder.root / "train/images/train_0.jpg"
    assert photo.message == "shares its name with train_0.png"
    assert mask.file == folder.root / "train/masks/train_1.bmp"
    assert refused(folder).code == "dataset-pairs"


def test_33_empty_split(folder: Folder) -> None:
    folder.fill()
    for kind in ("images", "masks"):
        shutil.rmtree(folder.root / "val" / kind)
        (folder.root / "val" / kind).mkdir()
    (problem,) = found(folder, "dataset-empty")
    assert (problem.severity, problem.file) == ("error", folder.root / "val")
    assert refused(folder, split="val").code == "dataset-empty"


def test_33_missing_split(folder: Folder) -> None:
    folder.pair("a", split="test")
    messages = [problem.message for problem in found(folder, "dataset-split")]
    assert ["train" in messages[0], "val" in messages[1]] == [True, True]


def test_34_absent_class(folder: Folder) -> None:
    labels = LabelSpec.from_names(["a", "b", "only in val", "nowhere"])
    folder.fill()
    folder.mask("val_0.png", halves(0, 2), split="val")
    train, val = found(folder, "class-absent", labels=labels)
    assert train.severity == val.severity == "warning"
    assert "no pixel of train shows 'only in val', 'nowhere'" in train.message
    assert "cannot be learnt" in train.message
    assert "no pixel of val shows 'b', 'nowhere'" in val.message
    assert "left out of the mean" in val.message


def test_35_images_in_two_splits(folder: Folder) -> None:
    folder.fill()
    folder.pair("x", seed=9)
    photo, _ = folder.pair("y", split="val", seed=9)
    with Image.open(photo) as image:
        image.save(photo.with_suffix(".bmp"))  # other bytes, same pixels
    photo.unlink()
    (problem,) = found(folder, "split-overlap")
    assert (problem.severity, problem.file) == ("warning", photo.with_suffix(".bmp"))
    assert "x.png in train" in problem.message
    assert [problem.severity for problem in found(folder, "split-overlap", strict=True)] == ["error"]


def test_35_images_of_equal_bytes_and_other_shape_are_different(folder: Folder) -> None:
    folder.fill()
    folder.picture("train/images/train_0.png", np.zeros((12, 16, 3), np.uint8))
    folder.picture("val/images/val_0.png", np.zeros((16, 12, 3), np.uint8))
    folder.mask("val_0.png", halves(size=(16, 12)), split="val")
    assert not check_dataset(folder.root, AB).problems


def test_36_a_file_removed_since_the_listing_is_named(folder: Folder) -> None:
    folder.fill()
    dataset = open_dataset(folder.root, "train", AB)
    dataset.samples[1].image.file.unlink()
    with pytest.raises(DatasetError, match=r"train_1\.png: it has disappeared") as caught:
        dataset.read(1)
    assert caught.value.code == "dataset-file-gone"


def snapshot(root: Path) -> dict[str, tuple[int, int, str]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
        if path.is_file()
        else (path.stat().st_mtime_ns, path.stat().st_mode, "")
        for path in [root, *root.rglob("*")]
    }


def test_37_the_data_set_is_never_modified(folder: Folder) -> None:
    folder.fill()
    folder.mask("train_0.png", halves(0, 9))
    folder.image("lone.png")
    for path in folder.root.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(folder.root)
    check_dataset(folder.root)
    check_dataset(folder.root, AB, strict=True)
    dataset = open_dataset(folder.root, "val", AB)
    dataset.read(0)
    count_pixels(dataset)
    assert snapshot(folder.root) == before
    for path in folder.root.rglob("*"):
        path.chmod(0o755)


def test_a_broken_file_never_ends_the_check(folder: Folder) -> None:
    """Everything at once: each finding is there, and the good pairs are counted."""
    folder.fill(train=8, val=2)
    images, masks = folder.root / "train/images", folder.root / "train/masks"
    (images / "train_0.png").write_bytes((images / "train_0.png").read_bytes()[:200])
    (images / "train_1.png").write_bytes(b"")
    (images / "train_2.png").write_text("<html>")
    (masks / "train_3.png").write_bytes((masks / "train_3.png").read_bytes()[:60])
    folder.picture("train/masks/train_4.jpg", halves()).rename(masks / "train_4.png")
    folder.mask("train_5.png", halves(0, 77))
    folder.mask("train_6.png", halves(size=(3, 4)))
    folder.image("lone.png")
    check = check_dataset(folder.root, AB)
    assert sorted(problem.code for problem in check.errors) == [
        "image-empty", "image-format", "image-truncated", "mask-damaged", "mask-lossy", "mask-missing", "mask-size",
        "mask-values",
    ]  # fmt: skip
    assert all(problem.file is not None and problem.file.exists() for problem in check.errors)
    assert no_path_in_messages(check)
    train, val = check.splits
    assert train.images == 8
    assert [count.images for count in train.classes] == [6, 5]
    assert [count.images for count in val.classes] == [2, 2]


def no_path_in_messages(check: DatasetCheck) -> bool:
    return not any(str(check.root) in problem.message for problem in check.problems)
