"""The best and the worst images of a run, with labels and predictions, as one JSON file that the page embeds."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terrazzo.data import Dataset
from terrazzo.imaging.png import encode_png
from terrazzo.inference.predictor import Predictor
from terrazzo.sheet import drawable

__all__ = ["PHOTOS_FILE", "choose_extremes", "photos_json"]

PHOTOS_FILE = "photos.json"
EACH = 4
LONGEST = 640  # pixels of the longer side
JPEG_QUALITY = 85
WRONG = (230, 30, 45)


def photos_json(predictor: Predictor, dataset: Dataset, scores: Sequence[float]) -> bytes:
    """Write the best and worst photos of a split as JSON with embedded images.

    Args:
        predictor: the model.
        dataset: the labelled photos, in the model's classes.
        scores: each photo's mIoU, NaN where nothing is labelled.
    """
    photos = [
        {"which": which, **_photo(predictor, dataset, index, scores[index])} for which, index in choose_extremes(scores)
    ]
    return (json.dumps({"photos": photos}, indent=1) + "\n").encode()


def choose_extremes(scores: Sequence[float], each: int = EACH) -> list[tuple[str, int]]:
    """Return ("worst", place) of the lowest scores, lowest first, then ("best", place) of the highest, highest first.

    No photo comes twice: where there are few, the worst ones are shown.
    """
    ranked = sorted((place for place, score in enumerate(scores) if not np.isnan(score)), key=lambda k: scores[k])
    worst = ranked[:each]
    best = ranked[len(worst) :][::-1][:each]
    return [*(("worst", place) for place in worst), *(("best", place) for place in best)]


def _photo(predictor: Predictor, dataset: Dataset, index: int, score: float) -> dict[str, Any]:
    bands, label = dataset.read(index)
    (prediction,) = predictor.masks([bands])
    labels = dataset.labels
    labelled = label != labels.ignore_index
    wrong = labelled & (label != prediction)
    image = _reduced(predictor.preprocess.as_rgb(bands), Image.Resampling.BOX)
    errors = np.zeros((*label.shape, 4), np.uint8)
    errors[wrong] = (*WRONG, 255)
    maps = {
        "label": np.dstack([labels.colorize(label), labelled.view(np.uint8) * np.uint8(255)]),
        "prediction": labels.colorize(prediction),
        "errors": errors,
    }
    embedded = {name: _png(_reduced(map_, Image.Resampling.NEAREST)) for name, map_ in maps.items()}
    return {
        "name": drawable(dataset.samples[index].image.name),
        "mIoU": round(float(score), 2),
        "wrong": round(float(wrong.sum() / labelled.sum()), 4),
        "width": image.shape[1],
        "height": image.shape[0],
        "photo": _jpeg(image),
        **embedded,
    }


def _reduced(picture: NDArray[np.uint8], how: Image.Resampling) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    factor = min(LONGEST / max(height, width), 1)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return np.asarray(Image.fromarray(picture).resize(size, how), np.uint8)


def _jpeg(picture: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _png(picture: NDArray[np.uint8]) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(np.ascontiguousarray(picture))).decode()}"
