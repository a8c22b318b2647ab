"""Masks whose numbers are not classes: refused before they are learnt, with the cause and the way out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_masks import Mask, discs, labels, masks, save, smooth
from numpy.typing import NDArray
from PIL import Image

from terrazzo.data import open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.check_result import DatasetCheck
from terrazzo.data.mask_evidence import is_soft
from terrazzo.data.masks import read_stored_mask
from terrazzo.data.pixel_counts import count_pixels
from terrazzo.errors import DatasetError, LabelError
from terrazzo.evaluation.evaluator import evaluate
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.training.data import labelled_pixels

OBJECT = discs([255] * 6)
MAPPED = "names: [background, object]\nmap: {0-127: 0, 128-255: 1}"


def refused(root: Path) -> DatasetError:
    """What the check and training's own reading say, which is the same."""
    first = check_dataset(root).errors[0]
    with pytest.raises(DatasetError) as caught:
        count_pixels(open_dataset(root, "train"))
    assert caught.value.code == first.code and caught.value.fix == first.fix and first.message in caught.value.message
    return caught.value


def warned(check: DatasetCheck) -> list[str]:
    assert not check.errors, check.errors
    return [problem.code for problem in check.warnings]


def jpeg(mask: Mask) -> Mask:
    """What a mask is after it was saved as JPEG, whatever it is saved as afterwards."""
    decoded = cv2.imdecode(cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_GRAYSCALE)
    return np.asarray(decoded, np.uint8)


# -- smooth borders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [smooth, jpeg, lambda mask: cv2.GaussianBlur(mask, (3, 3), 0)])
def test_object_masks_resized_or_saved_smoothly_are_refused(spoil: object, tmp_path: Path) -> None:
    root = masks(tmp_path, [spoil(OBJECT)] * 3)  # type: ignore[operator]
    error = refused(root)
    assert error.code == "dataset-classes"
    assert "3 of 3 masks have soft borders" in error.message or "4 of 4 masks have soft borders" in error.message
    assert "nearest neighbour" in error.fix and "map: {0-127: 0, 128-255: 1}" in error.fix


def test_the_map_that_is_advised_cuts_in_the_middle(tmp_path: Path) -> None:
    soft = smooth(OBJECT)
    root = labels(masks(tmp_path, [soft]), MAPPED)
    assert not check_dataset(root).problems
    dataset = open_dataset(root, "train")
    np.testing.assert_array_equal(dataset.read(0)[1], (soft > 127).astype(np.uint8))
    assert count_pixels(dataset).tolist() == [[(soft < 128).sum(), (soft > 127).sum()]]


def test_ranges_of_a_map_are_bounded() -> None:
    spec = LabelSpec.from_dict({"names": ["a", "b"], "map": {"0-2": 0, "3": 1, "250-255": "ignore"}})
    assert spec.encode(np.array([[0, 2, 3, 250]])).tolist() == [[0, 0, 1, 255]]
    for broken in ({"9-2": 0}, {"0-99999": 0}, {"0-60000": 0, "1-60000": 0}, {"-3": 0}, {"a-b": 0}):
        with pytest.raises(LabelError):
            LabelSpec.from_dict({"names": ["a", "b"], "map": broken})


class Sure:
    """An engine that sees class 0 everywhere."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = np.zeros((len(images), self.classes, *images.shape[2:]), np.float32)
        logits[:, 0] = 1
        return logits


def test_evaluation_tells_what_it_leaves_out(tmp_path: Path) -> None:
    """A data set without labels.yaml has the model's classes."""
    for drawn, names, message in (
        (OBJECT, ["background", "object"], "masks hold only 0 and 255"),
        (smooth(discs([4, 4, 2, 3, 4, 4])), list("abcde"), "2 of 2 masks have borders that run through classes"),
    ):
        root = masks(tmp_path / names[0], [drawn], [drawn] * 2)
        model = Predictor(Sure(len(names)), Preprocess(), LabelSpec.from_names(names), "sure", WHOLE)
        with pytest.warns(TerrazzoWarning) as said:
            evaluate(model, root)
        texts = [str(warning.message) for warning in said]
        assert len(texts) == 2 and "names no classes" in texts[0] and message in texts[1]


def test_one_soft_mask_among_sharp_ones_is_named(tmp_path: Path) -> None:
    root = masks(tmp_path, [discs([1, 2]), OBJECT, smooth(OBJECT), discs([1]), discs([2]), discs([1])])
    error = refused(root)
    assert "1 of 7 masks have soft borders" in error.message and "first 2.png" in error.message


def test_classes_resized_smoothly_are_refused_though_all_values_are_classes(tmp_path: Path) -> None:
    drawn = [smooth(discs([4, 4, 2, 3, 4, 4])), smooth(discs([4, 1, 4]))]
    assert "soft borders" in refused(masks(tmp_path, drawn)).message
    labels(tmp_path, "names: [a, b, c, d, e]")  # whose numbers are classes: a warning that names the files
    assert warned(check_dataset(tmp_path)) == ["mask-soft"] * 3
    with pytest.warns(TerrazzoWarning, match="2 of 2 masks have borders that run through classes in between"):
        count_pixels(open_dataset(tmp_path, "train"))


def test_real_masks_are_not_soft_and_are_after_resizing(shared_data: Path) -> None:
    for name in ("camvid", "solar_cells", "aerial"):
        files = sorted((shared_data / name / "train/masks").glob("*.png"))[::9][:30]
        read = [read_stored_mask(file).values for file in files]
        assert not any(map(is_soft, read)), name
        assert sum(is_soft(smooth(mask.astype(np.uint8), 1.3)) for mask in read) >= 0.8 * len(read), name


def test_colours_between_those_of_classes_are_explained(tmp_path: Path) -> None:
    red = np.zeros((48, 80, 3), np.uint8)
    cv2.circle(red, (40, 24), 15, (255, 0, 0), -1, cv2.LINE_AA)
    root = labels(masks(tmp_path, [red]), 'names: [a, b]\ncolors: {"0,0,0": 0, "255,0,0": 1}')
    problem = check_dataset(root).errors[0]
    assert problem.code == "mask-values" and "colours between those of classes, along their borders" in problem.message
    assert "without anti-aliasing" in problem.fix


# -- numbers of objects -----------------------------------------------------------------------------------------------


def test_object_numbers_are_refused(tmp_path: Path) -> None:
    error = refused(masks(tmp_path, [discs(range(1, n + 1)) for n in (17, 3, 9)]))
    assert "1, 2, 3 ... up to between 3 and 17" in error.message
    assert error.code == "dataset-classes"


def test_object_numbers_under_names_are_a_warning(tmp_path: Path) -> None:
    root = masks(tmp_path, [discs(range(1, n + 1)) for n in (6, 3, 5)])
    labels(root, "names: [a, b, c, d, e, f, g]")
    assert "mask-objects" in warned(check_dataset(root))
    with pytest.warns(TerrazzoWarning, match="object numbers"):
        count_pixels(open_dataset(root, "train"))


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]],  # the same parts in every photo, as in an atlas
        [[1], [2], [5], [3], [4]],  # one product in each photo
        [[1, 2, 1, 2, 3], [1, 3, 3, 4, 5, 2, 1, 1], [1, 2, 2, 1]],  # classes of several objects each
        [[1], [1, 2], [1, 2, 3]],  # organ, tumour, cyst
    ],
)
def test_classes_of_one_piece_are_no_object_numbers(values: list[list[int]], tmp_path: Path) -> None:
    root = masks(tmp_path, [discs(each) for each in values])
    check = check_dataset(root)
    assert not check.errors
    assert check.labels is not None and check.labels.num_classes == max(map(max, values)) + 1


# -- 255, greys, and counting from 1 ----------------------------------------------------------------------------------


def test_0_and_255_under_two_names_say_what_255_means(tmp_path: Path) -> None:
    root = labels(masks(tmp_path, [OBJECT]), "names: [paper, ink]")
    error = refused(root)
    assert error.code == "dataset-classes" and "the masks hold only 0 and 255" in error.message
    assert "names: [paper, ink]` and `map: {0: 0, 255: 1}`" in error.fix
    labels(root, "names: [paper, ink]\nmap: {0: 0, 255: 1}")
    assert not check_dataset(root).problems
    assert count_pixels(open_dataset(root, "train")).tolist() == [[(OBJECT == 0).sum(), (OBJECT == 255).sum()]]


def test_255_beside_classes_is_told(tmp_path: Path) -> None:
    mask = discs([1, 2, 255])
    for text in ("", "names: [a, b, c]"):
        root = labels(masks(tmp_path, [mask]), text) if text else masks(tmp_path, [mask])
        (note, _) = [problem for problem in check_dataset(root).problems if problem.code == "mask-unlabelled"]
        assert note.severity == "note" and "255 is read as unlabelled" in note.message
        assert f"{100 * (mask == 255).mean():.2g}% of the pixels of train" in note.message


def test_grey_levels_are_offered_as_a_map(tmp_path: Path) -> None:
    error = refused(masks(tmp_path, [discs([85, 170, 255, 255])]))
    assert "map: {0: 0, 85: 1, 170: 2, 255: 3}" in error.fix


def test_a_image_in_grey_is_no_mask(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(80), np.arange(160)).astype(np.uint8)
    error = refused(masks(tmp_path, [ramp]))
    assert "grey levels" in error.message and "239 values" in error.message


@pytest.mark.parametrize(
    ("values", "message", "fix"),
    [
        ([2, 3, 2], "count classes from 1: they hold 1 to 3 and no 0", "map: {1: 0, 2: 1, 3: 2}"),
        ([0, 1, 3], "hold the values 0 to 3, one more than the 3 names", "map: {0: ignore, 1: 0, 2: 1, 3: 2}"),
    ],
)
def test_masks_one_up_are_recognised(values: list[int], message: str, fix: str, tmp_path: Path) -> None:
    mask = discs([3, 3, 2]) + (np.uint8(1) if 0 not in values else np.uint8(0))
    mask = np.minimum(mask, 3).astype(np.uint8)
    root = labels(masks(tmp_path, [mask]), "names: [a, b, c]")
    with pytest.raises(DatasetError) as caught:
        count_pixels(open_dataset(root, "train"))
    assert message in caught.value.message and fix in caught.value.fix
    assert check_dataset(root).errors[0].message == caught.value.message.partition("train: ")[2]


def test_masks_without_0_are_told(tmp_path: Path) -> None:
    root = labels(masks(tmp_path, [discs([1, 2]) + np.uint8(1)] * 2), "names: [sky, road, car, tree]")
    check = check_dataset(root)
    assert warned(check)[0] == "mask-values" and check.warnings[0].message == "no mask holds 0, which is 'sky'"
    assert "map: {1: 0, 2: 1, 3: 2}" in check.warnings[0].fix
    with pytest.warns(TerrazzoWarning, match="no mask holds 0"):
        count_pixels(open_dataset(root, "train"))


def test_one_class_alone_is_not_learnt(tmp_path: Path) -> None:
    root = labels(masks(tmp_path, [discs([])], [discs([1])]), "names: [ground, leaf]")
    with pytest.raises(DatasetError, match="every labelled pixel of train is 'ground'"):
        labelled_pixels(open_dataset(root, "train"), learns=True)
    assert "nothing to tell apart" in check_dataset(root).errors[0].message


# -- greys in colour, and palettes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_in_several_channels_is_exact(mode: str, tmp_path: Path) -> None:
    mask = discs([1, 2, 255, 1])
    root = masks(tmp_path, [mask])
    for file in root.rglob("masks/*.png"):
        save(file, mask, mode)
    check = check_dataset(root)
    assert not check.errors and check.labels is not None
    for text in ("", "names: [a, b, c]"):
        if text:
            labels(root, text)
        np.testing.assert_array_equal(open_dataset(root, "train").read(0)[1], mask)


def test_grey_that_is_a_class_in_two_ways_is_refused(tmp_path: Path) -> None:
    mask = np.repeat(discs([1])[..., None], 3, axis=2)
    root = masks(tmp_path, [mask])
    labels(root, "names: [a, b]\npalette: [[1, 1, 1], [0, 0, 0]]")
    assert "classes both as numbers and as colours" in check_dataset(root).errors[0].message
    labels(root, 'names: [a, b]\ncolors: {"1,1,1": 0, "0,0,0": 1}')  # which says that they are colours
    np.testing.assert_array_equal(open_dataset(root, "train").read(0)[1], 1 - discs([1]))
    labels(root, "names: [a, b]\npalette: [[9, 1, 1], [0, 9, 0]]")
    np.testing.assert_array_equal(open_dataset(root, "train").read(0)[1], discs([1]))


def with_palette(path: Path, mask: Mask, colors: list[tuple[int, int, int]]) -> None:
    image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)


def test_palettes_that_differ_from_file_to_file_are_refused(tmp_path: Path) -> None:
    root = masks(tmp_path, [discs([1, 2]), discs([1, 2])])
    red, green, black = (255, 0, 0), (0, 255, 0), (0, 0, 0)
    with_palette(root / "train/masks/0.png", discs([1, 2]), [black, red, green])
    with_palette(root / "train/masks/1.png", discs([1, 2]), [black, green, red])
    error = refused(root)
    assert error.code == "mask-palette"
    assert "its palette shows 1 as (0, 255, 0), and that of 0.png as (255, 0, 0)" in error.message
    with_palette(root / "train/masks/1.png", discs([2, 1]), [black, red, green])
    assert not check_dataset(root).errors


def test_a_palette_in_another_order_than_the_names_is_refused(tmp_path: Path) -> None:
    red, green, black = (255, 0, 0), (0, 255, 0), (0, 0, 0)
    root = masks(tmp_path, [discs([1, 2])])
    for file in root.rglob("masks/*.png"):
        with_palette(file, discs([1, 2]), [black, red, green])
    labels(root, "names: [ground, leaf, fruit]\npalette: [[0, 0, 0], [0, 255, 0], [255, 0, 0]]")
    error = refused(root)
    assert error.code == "mask-palette"
    assert "draws 1 in the colour of 'fruit', and 1 is 'leaf'" in error.message
    labels(root, "names: [ground, fruit, leaf]\npalette: [[0, 0, 0], [255, 0, 0], [0, 255, 0]]")
    assert not check_dataset(root).errors


def test_greys_that_gif_has_numbered_are_refused(tmp_path: Path) -> None:
    root = masks(tmp_path, [discs([2, 5])] * 2)
    for file in list(root.rglob("masks/*.png")):
        Image.open(file).save(file.with_suffix(".gif"))
        file.unlink()
    error = refused(root)
    assert error.code == "mask-palette" and "its palette shows 1 as grey 2" in error.message


def test_a_white_background_is_told(tmp_path: Path) -> None:
    root = labels(masks(tmp_path, [discs([1])]), "names: [background, ink]")
    for file in root.rglob("masks/*.png"):
        with_palette(file, 1 - discs([1]), [(255, 255, 255), (0, 0, 0)])
    (problem,) = check_dataset(root).warnings
    assert "draw 0, which is 'background', white, and 1 black" in problem.message
    assert "map: {0: 1, 1: 0}" in problem.fix
