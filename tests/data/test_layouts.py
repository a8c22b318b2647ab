"""Every known layout, on a tiny faithful copy: what it is taken for, its splits, names and masks, and the check."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import made_layouts
import numpy as np
import pytest
from made_folder import Folder
from made_layouts import ALL, Made, quarters

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.layouts import parallel_folders
from terrazzo.data.pixel_counts import count_pixels
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec


@pytest.fixture(params=ALL)
def made(request: pytest.FixtureRequest, folder: Folder) -> Made:
    return ALL[request.param](folder)


def test_layout_splits_classes_names_and_masks(made: Made, folder: Folder) -> None:
    layout = find_layout(folder.root)
    assert layout.name == made.layout
    assert set(layout.splits) == made.masks.keys()
    for split, masks in made.masks.items():
        dataset = open_dataset(folder.root, split)
        assert dataset.layout == made.layout
        assert dataset.root == folder.root
        assert dataset.labels.num_classes == made.classes
        assert [sample.name for sample in dataset.samples] == sorted(masks)
        for index, sample in enumerate(dataset.samples):
            image, mask = dataset.read(index)
            assert image.shape == (*mask.shape, 3)
            np.testing.assert_array_equal(mask, masks[sample.name])


def test_check_data_counts_the_same(made: Made, folder: Folder) -> None:
    check = check_dataset(folder.root)
    assert check.layout == made.layout
    assert [str(error) for error in check.errors] == []
    for split in check.splits:
        masks = np.concatenate([mask.ravel() for mask in made.masks[split.name].values()])
        assert split.images == len(made.masks[split.name])
        assert [c.pixels for c in split.classes] == np.bincount(masks, minlength=256)[: made.classes].tolist()
        assert split.ignored_pixels == np.count_nonzero(masks == 255)


def test_a_data_set_crosses_process_borders(made: Made, folder: Folder) -> None:
    dataset = open_dataset(folder.root, "train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert count_pixels(copy).tolist() == count_pixels(dataset).tolist()


def test_nothing_is_decoded_before_it_is_read(made: Made, folder: Folder) -> None:
    for path in folder.root.rglob("*"):
        if path.suffix in (".png", ".jpg"):
            path.write_bytes(b"")
    labels = LabelSpec.from_names([f"class {k}" for k in range(made.classes)])
    assert len(open_dataset(folder.root, "train", labels)) == len(made.masks["train"])


@pytest.mark.parametrize("name", sorted(set(ALL) - {"folders", "color_map", "listed_names", "listed_pairs"}))
def test_a_split_that_is_not_there_is_told_with_those_that_are(name: str, folder: Folder) -> None:
    ALL[name](folder)
    with pytest.raises(DatasetError, match="has no split 'nowhere'") as caught:
        open_dataset(folder.root, "nowhere")
    assert caught.value.code == "dataset-split"
    assert "train" in caught.value.fix


@pytest.mark.parametrize(
    "name", ["ade20k", "cityscapes", "coco_stuff_train_ids", "voc", "camvid_published", "coco_json"]
)
def test_a_missing_image_or_mask_is_told(name: str, folder: Folder) -> None:
    ALL[name](folder)
    sample = open_dataset(folder.root, "train").samples[0]
    expected = {sample.image.file: "photo-missing", sample.mask.file: "mask-missing"}
    for path, code in expected.items():
        if path.suffix != ".json":
            path.rename(path.with_suffix(".away"))
            problems = find_layout(folder.root).pairs("train")[1]
            assert [problem.code for problem in problems if problem.severity == "error"] == [code]
            with pytest.raises(DatasetError, match="1 files of train"):
                open_dataset(folder.root, "train")
            path.with_suffix(".away").rename(path)


# -- which layout -----------------------------------------------------------------------------------------------------


def test_the_folder_above_will_do_if_it_holds_one_data_set(folder: Folder) -> None:
    made_layouts.voc(Folder(folder.root / "VOC2012"))
    (folder.root / "notes").mkdir()
    assert find_layout(folder.root).root == folder.root / "VOC2012"
    assert len(open_dataset(folder.root, "train")) == 2
    made_layouts.ade20k(Folder(folder.root / "ade"))
    with pytest.raises(DatasetError) as caught:
        find_layout(folder.root)
    assert caught.value.code == "dataset-ambiguous"
    assert f"{folder.root / 'VOC2012'} for Pascal VOC; {folder.root / 'ade'} for ADE20K" in caught.value.fix


def test_two_data_sets_in_one_folder_are_told_apart_by_what_only_one_has(folder: Folder) -> None:
    made_layouts.coco_json(folder)
    made_layouts.coco_stuff(folder)
    with pytest.raises(DatasetError, match=r"COCO-Stuff 164k .*, COCO JSON") as caught:
        open_dataset(folder.root, "train")
    assert caught.value.code == "dataset-ambiguous"
    things, stuff = folder.root / "annotations/instances_train2017.json", folder.root / "stuffthingmaps"
    assert f"{stuff} for COCO-Stuff" in caught.value.fix
    assert f"{things} for COCO JSON" in caught.value.fix
    assert len(open_dataset(things, "val")) == 1
    assert open_dataset(things, "val").labels.num_classes == 4
    assert open_dataset(stuff, "val").labels.num_classes == 171
    assert check_dataset(stuff).root == folder.root
    assert (
        len(open_dataset(folder.root / "annotations", "val")) == 1
    )  # the documents' own folder finds photos beside it


def test_context_and_voc_share_images(folder: Folder) -> None:
    made_layouts.voc(folder)
    made_layouts.pascal_context(folder)
    with pytest.raises(DatasetError, match="can be taken for 2 data sets"):
        find_layout(folder.root)
    assert find_layout(folder.root / "SegmentationClass").name == "Pascal VOC"
    assert find_layout(folder.root / "SegmentationClassContext").name == "Pascal Context"


def test_a_relative_path_to_a_marker(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    made_layouts.yolo(folder)
    monkeypatch.chdir(folder.root)
    assert find_layout("data.yaml").name == "YOLO polygons"
    assert find_layout(".").name == "YOLO polygons"
    assert len(open_dataset("data.yaml", "train")) == 3


def test_an_unknown_folder_is_described(folder: Folder) -> None:
    folder.text("readme.txt", "hello")
    (folder.root / "things").mkdir()
    with pytest.raises(DatasetError) as caught:
        find_layout(folder.root)
    assert caught.value.code == "dataset-layout"
    assert "it holds readme.txt, things/" in caught.value.message
    assert "train/images, train/masks" in caught.value.fix


@pytest.mark.parametrize(
    ("files", "message", "fix"),
    [
        (["images/a.jpg"], "nearest is photos and masks, which lacks masks", "add masks"),
        (
            ["JPEGImages/a.jpg", "SegmentationClas/a.png"],
            "nearest is Pascal VOC, which lacks SegmentationClass, ImageSets/Segmentation",
            "rename SegmentationClas to SegmentationClass, add ImageSets/Segmentation",
        ),
        (["train/a.jpg", "val/a.jpg"], "nearest is a folder of photos and masks", "add train/images, add train/masks"),
        (["a.jpg", "b.jpg"], "holds 2 images, and nothing that says which of them are masks", "--val 0.1"),
        (["train/images/a.jpg", "train/labels/a.txt"], "train/labels/ holds no images", "write data.yaml"),
    ],
)
def test_the_nearest_layout_is_named_with_what_it_lacks(
    files: list[str], message: str, fix: str, folder: Folder
) -> None:
    for file in files:
        folder.text(file, "")
    with pytest.raises(DatasetError) as caught:
        find_layout(folder.root)
    assert message in caught.value.message and fix in caught.value.fix


@pytest.mark.parametrize(
    ("name", "removed", "message"),
    [
        ("folders", ["train/masks", "val/masks"], "train/ has images/ and no masks/"),
        ("ade20k", ["annotations"], "almost ADE20K, but annotations/training is missing"),
        ("cityscapes", ["gtFine"], "almost Cityscapes, but gtFine/train is missing"),
        ("cityscapes", ["leftImg8bit"], "almost Cityscapes, but leftImg8bit/train is missing"),
        ("coco_stuff", ["train2017", "val2017"], "the photos of train2017 and val2017 are missing"),
        ("coco_stuff", ["stuffthingmaps/train2017", "stuffthingmaps/val2017"], "neither train2017 nor val2017"),
        ("pascal_context", ["ImageSets"], "ImageSets/SegmentationContext/train.txt is missing"),
        ("voc", ["ImageSets"], "ImageSets/Segmentation/train.txt is missing"),
        ("voc", ["JPEGImages"], "JPEGImages is missing"),
        ("camvid_published", ["LabeledApproved_full"], "LabeledApproved_full is missing"),
        ("camvid_published", ["701_StillsRaw_full"], "701_StillsRaw_full is missing"),
        (
            "coco_json",
            ["annotations/instances_train2017.json", "annotations/instances_val2017.json"],
            "named after a split: 'captions_train2017.json'",
        ),
        ("yolo", ["data.yaml"], "data.yaml is missing"),
    ],
)
def test_near_misses_say_what_is_missing(name: str, removed: list[str], message: str, folder: Folder) -> None:
    ALL[name](folder)
    for part in removed:
        path = folder.root / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetError) as caught:
        find_layout(folder.root)
    assert caught.value.code == "dataset-layout"
    assert message in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [("ade20k", "ADE_", "my_"), ("camvid", "0001TP", "street"), ("camvid_published", "0", "x"), ("voc", "2007_", "v")],
)
def test_other_images_in_well_known_folders_are_not_read_with_well_known_classes(
    make: str, old: str, new: str, folder: Folder
) -> None:
    ALL[make](folder)
    for path in [path for path in folder.root.rglob("*") if path.is_file()]:
        path.rename(path.with_name(path.name.replace(old, new).replace("Seq05VD", "y")))
    for path in folder.root.rglob("*.txt"):
        path.write_text(path.read_text().replace(old, new))
    other = {
        "voc": "Pascal VOC layout with other photos",
        "ade20k": f"{parallel_folders.NAME} (images/ and annotations/)",
    }
    if make in other:
        assert find_layout(folder.root).name == other[make]
        with pytest.raises(DatasetError, match="too many gaps"):
            open_dataset(folder.root, "train")
    elif make == "camvid_published":
        with pytest.raises(DatasetError, match=r"no photo is called"):
            find_layout(folder.root)
    else:
        layout = find_layout(folder.root)
        assert layout.name == "photos and masks, split by folders" and layout.labels is None


# -- classes ----------------------------------------------------------------------------------------------------------


def test_pascal_context_is_read_with_59_classes_on_request(folder: Folder) -> None:
    made_layouts.pascal_context(folder)
    dataset = open_dataset(folder.root, "train", LabelSpec.bundled("pascal_context_59"))
    np.testing.assert_array_equal(dataset.read(0)[1], quarters(255, 0, 1, 58))


@pytest.mark.parametrize(
    ("make", "plain"), [("cityscapes", "cityscapes"), ("coco_stuff", "coco_stuff"), ("camvid_published", "camvid")]
)
def test_a_plain_list_of_the_layouts_own_names_is_read_as_the_layout_stores_them(
    make: str, plain: str, folder: Folder
) -> None:
    """`--labels cityscapes` must not read labelIds as if they were labelTrainIds."""
    made = ALL[make](folder)
    dataset = open_dataset(folder.root, "val", LabelSpec.bundled(plain))
    (mask,) = made.masks["val"].values()
    np.testing.assert_array_equal(dataset.read(0)[1], mask)


def test_labels_yaml_comes_before_the_layouts_own_classes(folder: Folder) -> None:
    made_layouts.ade20k(folder)
    folder.labels("{names: [wall, other], map: {0: ignore, 1: 0, 2: 1, 150: 1}}")
    dataset = open_dataset(folder.root, "train")
    np.testing.assert_array_equal(dataset.read(0)[1], quarters(255, 0, 1, 1))
    assert check_dataset(folder.root).labels_from == "labels.yaml"


def test_the_fallback_counts_only_where_the_folder_says_nothing(folder: Folder) -> None:
    made_layouts.ade20k(folder)
    fallback = LabelSpec.from_names(["x", "y"])
    assert open_dataset(folder.root, "train", fallback=fallback).labels.num_classes == 150
    other = Folder(folder.root.with_name("other")).fill()
    assert open_dataset(other.root, "train", fallback=fallback).labels is fallback


def test_cityscapes_reads_all_splits_from_one_kind_of_mask(folder: Folder) -> None:
    """labelTrainIds for train alone would be read with another map than val's labelIds."""
    made_layouts.cityscapes_train_ids(folder)
    for path in (folder.root / "gtFine/val").rglob("*labelTrainIds*"):
        path.unlink()
    assert find_layout(folder.root).name == "Cityscapes (labelIds masks)"
    np.testing.assert_array_equal(open_dataset(folder.root, "train").read(0)[1], quarters(0, 18, 255, 2))


def test_cityscapes_license_plates_and_other_unnamed_ids_are_refused(folder: Folder) -> None:
    made_layouts.cityscapes(folder)
    mask = next((folder.root / "gtFine/train/aachen").glob("*labelIds*"))
    folder.picture(str(mask.relative_to(folder.root)), quarters(7, 34, 4, 11))
    with pytest.raises(DatasetError, match=r"34 \(48 pixels\)"):
        open_dataset(folder.root, "train").read(0)


def test_voc_lists_by_other_names_and_augmented_masks(folder: Folder) -> None:
    made_layouts.voc(folder)
    assert len(open_dataset(folder.root, "trainval")) == 3
    folder.picture("SegmentationClassAug/2007_000027.png", quarters(0, 7, 7, 255))
    folder.text("ImageSets/Segmentation/trainaug.txt", "2007_000027\n2007_000032\n")
    augmented = open_dataset(folder.root, "trainaug")
    np.testing.assert_array_equal(augmented.read(0)[1], quarters(0, 7, 7, 255))
    assert augmented.samples[1].mask.file.parent.name == "SegmentationClass"


def test_voc_masks_in_its_colours(folder: Folder) -> None:
    made_layouts.voc(folder)
    colors = quarters((0, 0, 0), (128, 0, 0), (0, 64, 128), (224, 224, 192))
    folder.picture("SegmentationClass/2007_000032.png", colors)
    np.testing.assert_array_equal(open_dataset(folder.root, "train").read(0)[1], quarters(0, 1, 20, 255))


def test_a_label_map_that_is_none_names_the_line(folder: Folder) -> None:
    made_layouts.voc_label_map(folder)
    folder.text("labelmap.txt", "background:0,0,0::\nleaf\n")
    with pytest.raises(DatasetError, match="line 2 is not a name and a colour") as caught:
        open_dataset(folder.root, "train")
    assert caught.value.code == "dataset-annotations"
    assert [problem.code for problem in check_dataset(folder.root).errors][:1] == ["dataset-annotations"]


def test_the_split_of_camvid_is_segnets(shared_data: Path) -> None:
    from terrazzo.data.layouts.camvid import segnet_split

    for split in ("train", "val"):
        names = [path.stem for path in (shared_data / "camvid" / split / "images").iterdir()]
        assert {segnet_split(name) for name in names} == {split}
