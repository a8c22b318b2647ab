"""Converts transformers' image processors (``preprocessor_config.json``) to a Preprocess and back.

What transformers' Pillow processors do to a photo is done here to the pixel. The exception is the centre crop, which is
for classification: a mask of the whole photo is wanted, so the whole resized photo is shown. What would change pixels
and cannot be followed is refused; what is left aside is listed by `left_aside`, so that it can be said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.preprocess import Preprocess
from terrazzo.text import list_names, printable, show
from terrazzo.weights.metadata import read_json

__all__ = [
    "PROCESSOR_FILE",
    "left_aside",
    "lost_in_processor",
    "normalisation",
    "preprocess_from_processor",
    "processor_from_preprocess",
    "read_processor",
]

PROCESSOR_FILE = "preprocessor_config.json"
NESTED_FILE, NESTED_KEY = "processor_config.json", "image_processor"

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
HALVES = {"image_mean": 0.5, "image_std": 0.5}
DEFAULTS: dict[str, dict[str, Any]] = {
    "Segformer": {"size": 512, "resample": 2, **IMAGENET},
    "ViT": {"size": 224, "resample": 2, **HALVES},
    "Beit": {"size": 224, "resample": 3, "crop_size": 224, **HALVES},
    "DeiT": {"size": 256, "resample": 3, "crop_size": 224, "do_center_crop": True, **IMAGENET},
}
"""What a processor takes where its file says nothing, or null. transformers' SegFormer has the first by default."""

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area", 5: "hamming"}
"""Pillow's codes."""

FOLLOWED = {
    *("do_resize", "size", "default_to_square", "resample", "do_rescale", "rescale_factor", "do_normalize"),
    *("image_mean", "image_std", "do_reduce_labels", "reduce_labels", "image_processor_type", "feature_extractor_type"),
    *("image_scale", "keep_ratio", "size_divisor", "align"),  # the very first SegFormer folders
}
OF_NO_EFFECT = {
    *("do_convert_rgb", "do_random_crop", "crop_size", "pad_size", "processor_class", "auto_map", "data_format"),
    *("input_data_format", "device", "return_tensors", "disable_grouping", "image_seq_length", "ignore_index"),
    *("_valid_processor_keys", "_valid_kwargs_names", "num_labels", "id2label", "label2id", "_commit_hash"),
}
"""On the pixels of one photo in RGB."""

REFUSED = {"rescale_offset": False, "ensure_multiple_of": 1, "keep_aspect_ratio": False, "crop_pct": None}
"""What other models' processors do besides, and the value that does nothing."""


def read_processor(folder: Path) -> dict[str, Any] | None:
    """Read a folder's image processor, where transformers looks for it, if there is one.

    Raises:
        CheckpointError: the file cannot be read.
    """
    nested = read_json(folder / NESTED_FILE).get(NESTED_KEY) if (folder / NESTED_FILE).is_file() else None
    if isinstance(nested, dict):
        return nested
    return read_json(folder / PROCESSOR_FILE) if (folder / PROCESSOR_FILE).is_file() else None


def preprocess_from_processor(values: Mapping[str, Any], where: str) -> Preprocess:
    """Read a ``preprocessor_config.json``, of any age.

    Raises:
        CheckpointError: a value is of the wrong kind, or asks for what `Preprocess` cannot do.
    """
    said = _complete(values)
    try:
        if unable := _unable(said):
            raise ValueError(f"it asks for {list_names(unable)}, which this program cannot do")
        code = said["resample"]
        if not isinstance(code, int) or isinstance(code, bool) or code not in INTERPOLATIONS:
            raise ValueError(f"its resample is {show(code)}, and Pillow's codes are 0 to 5")
        resampling = {"interpolation": INTERPOLATIONS[code], "antialias": True}
        resizing = _resize_rule(said)
        scaled = _scaled(said)
        return Preprocess.from_dict(
            {**resizing, **(resampling if resizing else {}), **scaled, **_bands(scaled["mean"])}
        )
    except (TypeError, ValueError, KeyError, ZeroDivisionError, OverflowError, ConfigError) as error:
        reason = error.message if isinstance(error, ConfigError) else printable(str(error))[:200]
        raise CheckpointError(
            f"{where} does not say how photos are prepared: {reason}",
            fix="correct its size, resample, image_mean and image_std, or remove what cannot be done",
            code="checkpoint-preprocess",
        ) from error


def normalisation(values: Mapping[str, Any], where: str) -> Preprocess:
    """Read mean and std alone, for an encoder whose photos are resized by a rule of ours.

    Raises:
        CheckpointError: they are of the wrong kind.
    """
    scaling = {"do_rescale", "rescale_factor", "rescale_offset", "do_normalize", "image_mean", "image_std"}
    scaling |= {"do_flip_channel_order", "image_processor_type", "feature_extractor_type"}
    kept = {key: value for key, value in values.items() if key in scaling}
    return preprocess_from_processor({**kept, "do_resize": False}, where)


def left_aside(values: Mapping[str, Any]) -> list[str]:
    """What a processor's file says and `preprocess_from_processor` does without, as sentences."""
    said = _complete(values)
    name, notes = said["type"], []
    if name not in DEFAULTS:
        notes.append(f"{name} is not a processor known here; its keys are taken to mean what SegFormer's mean")
    if said.get("do_center_crop"):
        notes.append(
            "it crops the centre, which would leave the rest of a photo without a mask: photos are not cropped"
        )
    rest = said.keys() - FOLLOWED - OF_NO_EFFECT - REFUSED.keys() - {"type", "do_center_crop"}
    unknown = sorted(key for key in rest if not key.startswith("do_"))
    return [*notes, *([f"{list_names(unknown)}: not known here, and left aside"] if unknown else [])]


def processor_from_preprocess(preprocess: Preprocess, reduces_labels: bool) -> dict[str, Any]:
    """Write a rule as transformers' SegFormer processor has it, as far as that can say it."""
    size: dict[str, int] = {}
    if preprocess.size is not None:
        size = dict(zip(("height", "width"), preprocess.size, strict=True))
    elif preprocess.short_side is not None:
        size = {"shortest_edge": preprocess.short_side}
        if preprocess.long_side is not None:
            size["longest_edge"] = preprocess.long_side
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": bool(size),
        **({"size": size} if size else {}),
        "resample": next(code for code, name in INTERPOLATIONS.items() if name == preprocess.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(value / 255, 9) for value in preprocess.mean],
        "image_std": [round(value / 255, 9) for value in preprocess.std],
        "do_reduce_labels": reduces_labels,
    }


def lost_in_processor(preprocess: Preprocess) -> list[str]:
    """What of a rule transformers' processor cannot say, so that it prepares photos a little differently."""
    lost = [f"rounding sides up to multiples of {preprocess.multiple_of}"] if preprocess.multiple_of > 1 else []
    if preprocess.bands is not None:
        lost.append(f"reading {preprocess.bands} and scaling each by its range")
    if preprocess.size is None and preprocess.short_side is None:
        return lost
    if not preprocess.antialias and preprocess.interpolation not in ("nearest", "area"):
        lost.append("resizing without antialiasing")
    if preprocess.size is None and preprocess.rounding != "down":
        lost.append("rounding the longer side to the nearest pixel")
    return lost


def _complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the processor takes by default where the file says nothing or null, and its name under ``type``."""
    given = {key: value for key, value in values.items() if value is not None}
    named = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "Segformer")
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        named = named.removesuffix(ending)
    return {**DEFAULTS.get(named, DEFAULTS["Segformer"]), **given, "type": named}


def _unable(said: Mapping[str, Any]) -> list[str]:
    """Steps that a processor asks for and that would change the pixels."""
    steps = {key for key, value in said.items() if str(key).startswith("do_") and value}
    steps -= FOLLOWED | OF_NO_EFFECT | {"do_center_crop"}
    if said["type"] == "Segformer":
        steps -= {"do_pad"}  # transformers' own does not pad either
    others = {key for key, idle in REFUSED.items() if said.get(key, idle) not in (idle, None)}
    return sorted(map(str, steps | others))


def _scaled(said: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return mean and std on the scale of 0 to 255."""
    factor = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    mean, std = (said["image_mean"], said["image_std"]) if said.get("do_normalize", True) else (0.0, 1.0)
    both = {"mean": mean, "std": std}
    listed = {key: [value] * 3 if isinstance(value, (int, float)) else value for key, value in both.items()}
    return {key: [round(float(value) / factor, 6) for value in values] for key, values in listed.items()}


def _bands(mean: list[float]) -> dict[str, Any]:
    """Return the rule for other bands than red, green and blue: transformers takes 8 bits, in the file's order."""
    count = len(mean)
    if count == 3:
        return {}
    return {"bands": {"chosen": list(range(1, count + 1)), "dtype": "uint8", "ranges": [[0, 255]] * count}}


def _resize_rule(said: Mapping[str, Any]) -> dict[str, Any]:
    if not said.get("do_resize", True):
        return {}
    if isinstance(scale := said.get("image_scale"), (list, tuple)) and said.get("keep_ratio"):
        return {"short_side": min(scale), "long_side": max(scale), "multiple_of": said.get("size_divisor") or 1}
    size = said["size"]
    if isinstance(size, Mapping):
        size = {key: value for key, value in size.items() if value is not None}
        if size.keys() == {"height", "width"}:
            return {"size": (size["height"], size["width"])}
        if "shortest_edge" in size and not size.keys() - {"shortest_edge", "longest_edge"}:
            return {"short_side": size["shortest_edge"], "long_side": size.get("longest_edge"), "rounding": "down"}
        raise ValueError(f"its size has the keys {list_names(map(str, size))}")
    if isinstance(size, (list, tuple)):
        return {"size": tuple(size)}
    return {"size": (size, size)} if said.get("default_to_square", True) else {"short_side": size, "rounding": "down"}
