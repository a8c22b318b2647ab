"""From photos to results: order, batching, failures, and equality with the plain way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.errors import ImageError
from terrazzo.imaging.read import ReadOptions
from terrazzo.inference.failure import Failure
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    torch.manual_seed(0)
    network = create_model("segformer_b0", 4).eval()
    labels = LabelSpec.from_names(list("abcd"))
    return TrainedModel("segformer_b0", network, labels, Preprocess(short_side=48), {}, "tiny")


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def plain_logits(model: TrainedModel, image: NDArray[np.uint8]) -> torch.Tensor:
    """Resize, normalise, run, resize to the input's size, resize to the photo's size: nothing clever."""
    x = torch.from_numpy(np.ascontiguousarray(model.preprocess(image)))[None]
    with torch.inference_mode():
        logits = model.network(x)
    logits = F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)
    return F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("size", [(48, 64), (97, 130), (31, 29), (1, 1), (1, 200)])
def test_the_mask_has_the_images_size_and_equals_the_plain_way(model: TrainedModel, size: tuple[int, int]) -> None:
    image = photo(*size)
    result = terrazzo.predict(image, model, probabilities=True)
    logits = plain_logits(model, image)
    assert result.mask.shape == size
    top = logits.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-4).numpy()
    assert np.array_equal(result.mask[clear], logits.argmax(0).numpy()[clear])
    assert result.probabilities is not None
    np.testing.assert_allclose(result.probabilities, logits.softmax(0).numpy(), atol=1e-4)


def test_files_arrays_bytes_and_pil_images_give_the_same_mask(model: TrainedModel, tmp_path: Path) -> None:
    image = photo(60, 80)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    sources = (path, str(path), path.read_bytes(), Image.open(path), image)
    masks = [terrazzo.predict(source, model).mask for source in sources]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_results_come_in_order_whatever_the_batches(model: TrainedModel, batch_size: int, tmp_path: Path) -> None:
    sizes = [(40, 60), (40, 60), (40, 60), (60, 40), (40, 60), (50, 50)]
    paths = []
    for number, size in enumerate(sizes):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(photo(*size, seed=number)).save(paths[-1])
    paths.insert(2, tmp_path / "broken.png")
    paths[2].write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    results = list(make_predictor(model).segment_files(paths, batch_size=batch_size))
    assert len(results) == 7
    for path, result in zip(paths, results, strict=True):
        assert result.path == path
        if path.name == "broken.png":
            assert isinstance(result, Failure)
        else:
            assert not isinstance(result, Failure)
            alone = terrazzo.predict(path, model)
            assert np.mean(result.mask == alone.mask) > 0.999  # batches round differently


def test_images_of_one_shape_that_preprocess_to_another_are_not_mixed() -> None:
    """The engine sees one batch per run of equal sizes, and never two sizes at once."""
    seen = []

    def engine(images: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(images.shape)
        return np.zeros((len(images), 2, 1, 1), np.float32)

    predictor = Predictor(engine, Preprocess(), LabelSpec.from_names(["a", "b"]))
    images = [photo(8, 12), photo(8, 12)]
    assert len(predictor.masks(images)) == 2
    assert seen == [(2, 3, 8, 12)]


def test_a_list_raises_at_the_first_image_that_cannot_be_read(model: TrainedModel, tmp_path: Path) -> None:
    Image.fromarray(photo(20, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        terrazzo.predict([tmp_path], model)
    assert caught.value.code == "image-empty"
    assert [result.path for result in terrazzo.predict([tmp_path / "a.png"], model)] == [tmp_path / "a.png"]


def test_the_pixel_cap_is_passed_on(model: TrainedModel, tmp_path: Path) -> None:
    Image.fromarray(photo(20, 20)).save(tmp_path / "a.png")
    (result,) = make_predictor(model).segment_files([tmp_path / "a.png"], reading=ReadOptions(max_pixels=399))
    assert isinstance(result, Failure)
    assert result.error.code == "image-too-large"
