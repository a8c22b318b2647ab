"""What people hand to `terrazzo.predict`, and networks that they have changed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terrazzo
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import ConfigError, ImageError
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(IMAGE.copy())


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    torch.manual_seed(0)
    network = create_model("segformer_b0", 4).eval()
    return TrainedModel("segformer_b0", network, LabelSpec.from_names(list("abcd")), Preprocess(), name="tiny")


@pytest.fixture(scope="module")
def predictor(model: TrainedModel) -> Predictor:
    return terrazzo.make_predictor(model, "cpu")


@pytest.fixture(scope="module")
def mask(predictor: Predictor) -> np.ndarray:
    return terrazzo.predict(IMAGE, predictor).mask


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.fromarray(IMAGE).save(path)
    return path


def written() -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "PNG")
    return file  # which stands at its end


@pytest.mark.parametrize(
    "made",
    [
        written,
        lambda: written().getvalue(),
        lambda: bytearray(written().getvalue()),
        lambda: memoryview(written().getvalue()),
        lambda: Image.fromarray(IMAGE),
        lambda: TENSOR,
        lambda: TENSOR.permute(2, 0, 1),
        lambda: TENSOR.permute(2, 0, 1) / 255,
        lambda: TENSOR.double() / 255,
    ],
    ids=["BytesIO", "bytes", "bytearray", "memoryview", "PIL", "HWC", "CHW", "CHW float", "HWC double"],
)
def test_every_form_of_one_image(made: Callable[[], Any], predictor: Predictor, mask: np.ndarray) -> None:
    np.testing.assert_array_equal(terrazzo.predict(made(), predictor).mask, mask)


def test_open_files(file: Path, predictor: Predictor, mask: np.ndarray) -> None:
    with file.open("rb") as opened:
        np.testing.assert_array_equal(terrazzo.predict(opened, predictor).mask, mask)
    with pytest.raises(ImageError, match="cannot be read: I/O operation on closed file"):
        terrazzo.predict(opened, predictor)
    with file.open(encoding="latin-1") as text, pytest.raises(ImageError, match="open as text"):
        terrazzo.predict(text, predictor)


def test_lists_tuples_and_other_iterables_of_anything(file: Path, predictor: Predictor, mask: np.ndarray) -> None:
    for several in (
        [IMAGE, Image.fromarray(IMAGE), TENSOR, file, str(file), written()],
        (file,),
        (path for path in [str(file)]),
        {file},
        [str(file.parent)],
        [str(file.parent / "*.png"), IMAGE],
    ):
        count = len(several) if isinstance(several, list) else 1
        results = terrazzo.predict(several, predictor)
        assert len(results) == count
        assert all(np.array_equal(result.mask, mask) for result in results)
    assert terrazzo.predict([], predictor) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "None is not an image"),
        (3.5, "3.5 is not an image"),
        ({"a": 1}, "a dict is not an image"),
        (TENSOR[None], "give a list of images"),
        (IMAGE.transpose(2, 0, 1), "channels last"),
        (TENSOR.float(), "--value-range 0,255"),
    ],
)
def test_what_is_no_image_is_told_what_to_give(source: Any, said: str, predictor: Predictor) -> None:
    with pytest.raises(ImageError, match=said):
        terrazzo.predict(source, predictor)


def test_a_folder_as_a_string_is_told_to_go_into_a_list(file: Path, predictor: Predictor) -> None:
    with pytest.raises(ImageError, match="into a list") as caught:
        terrazzo.predict(str(file.parent), predictor)
    assert caught.value.code == "image-directory"


def test_what_messages_advise_is_accepted(predictor: Predictor, mask: np.ndarray) -> None:
    deep = IMAGE.astype(np.float32) / 255
    np.testing.assert_array_equal(terrazzo.predict(deep, predictor, value_range=(0, 1)).mask, mask)
    np.testing.assert_array_equal(terrazzo.predict(IMAGE, predictor, bands=(1, 2, 3)).mask, mask)
    frames = io.BytesIO()
    Image.new("RGB", (52, 40)).save(frames, "TIFF", save_all=True, append_images=[Image.fromarray(IMAGE)])
    with pytest.raises(ImageError, match="frame=0"):
        terrazzo.predict(frames, predictor)
    np.testing.assert_array_equal(terrazzo.predict(frames, predictor, frame=1).mask, mask)
    with pytest.raises(ImageError, match="max_pixels"):
        terrazzo.predict(IMAGE, predictor, max_pixels=100)


@pytest.mark.parametrize("kind", ["network", "nothing", "number"])
def test_what_is_no_model_is_told_what_one_is(model: TrainedModel, kind: str) -> None:
    given: Any = {"network": model.network, "nothing": None, "number": 3}[kind]
    for call in (terrazzo.predict, lambda image, wrong: terrazzo.evaluate(wrong, ".")):
        with pytest.raises(ConfigError, match=f"is a {type(given).__name__}, which does not say its classes") as caught:
            call(IMAGE, given)
        assert caught.value.code == "model-type" and "terrazzo.load" in caught.value.fix


@pytest.mark.parametrize(("dtype", "least"), [("half", 0.97), ("bfloat16", 0.9), ("double", 0.999)])
def test_a_network_in_another_precision(model: TrainedModel, mask: np.ndarray, dtype: str, least: float) -> None:
    torch.manual_seed(0)
    network = getattr(create_model("segformer_b0", 4).eval(), dtype)()
    changed = TrainedModel("segformer_b0", network, model.labels, model.preprocess)
    result = terrazzo.predict(IMAGE, changed, device="cpu")
    assert (result.mask == mask).mean() >= least
    assert next(network.parameters()).dtype == getattr(torch, dtype), "its owner's choice stays"


def test_a_network_without_weights() -> None:
    with pytest.raises(ConfigError, match="meta device"):
        TorchEngine(create_model("segformer_b0", 4).to("meta"))


# Numbers of any depth


@pytest.mark.parametrize(
    ("made", "value_range"),
    [
        (lambda: IMAGE.astype(np.float32) / 255, (0, 1)),
        (lambda: IMAGE.astype(np.float64), (0, 255)),
        (lambda: IMAGE.astype(np.uint16) * 16, (0, 4080)),
        (lambda: IMAGE.astype(np.uint16) * 257, None),
        (lambda: TENSOR.permute(2, 0, 1).float() / 255, None),
        (lambda: TENSOR.permute(2, 0, 1).float(), (0, 255)),
        (lambda: TENSOR.float() / 255, (0, 1)),
        (lambda: TENSOR.double() - 128, (-128, 127)),
    ],
)
def test_what_is_black_and_white_is_said(
    made: Callable[[], Any], value_range: tuple[float, float] | None, predictor: Predictor, mask: np.ndarray
) -> None:
    result = terrazzo.predict(made(), predictor, value_range=value_range)
    np.testing.assert_array_equal(result.mask, mask)


# Web addresses


@pytest.fixture
def server(file: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(file.parent))

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_an_address_is_fetched_only_where_that_is_allowed(
    server: str, file: Path, predictor: Predictor, mask: np.ndarray
) -> None:
    address = f"{server}/{file.name}"
    for images in (address, [IMAGE, address], [file, address]):
        with pytest.raises(ImageError, match="web address") as caught:
            terrazzo.predict(images, predictor)
        assert caught.value.code == "image-address" and "allow_download=True" in caught.value.fix
    np.testing.assert_array_equal(terrazzo.predict(address, predictor, allow_download=True).mask, mask)
    both = terrazzo.predict(iter([address, file]), predictor, allow_download=True)
    assert [result.path for result in both] == [None, file]
    for result in both:
        np.testing.assert_array_equal(result.mask, mask)


def test_an_address_that_gives_no_image(server: str, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, said in (
        (f"{server}/none.png", "404"),
        ("http://127.0.0.1:1/a.png", "cannot be downloaded"),
        ("https://[a/b.png", "cannot be downloaded"),
        ("http://a b/c.png", "cannot be downloaded"),
    ):
        with pytest.raises(ImageError, match=said) as caught:
            terrazzo.predict(address, predictor, allow_download=True)
        assert caught.value.code == "image-download"
    with pytest.raises(ImageError) as caught:  # a page that lists the folder
        terrazzo.predict(server, predictor, allow_download=True)
    assert caught.value.code == "image-format"
    monkeypatch.setattr("terrazzo.data.sources.address.MOST_BYTES", 100)
    with pytest.raises(ImageError, match="more than") as caught:
        terrazzo.predict(f"{server}/a.png", predictor, allow_download=True)
    assert caught.value.code == "image-download"
