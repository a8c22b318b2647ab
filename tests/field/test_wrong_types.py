"""Odd values in every argument of every public name: they are used, or refused by name, and never a raw traceback.

Missing and unknown arguments are Python's own TypeError. What a caller's own function raises is the caller's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import terrazzo
from terrazzo import (
    DataRules,
    LabelSpec,
    Predictor,
    Preprocess,
    PretrainRecipe,
    Recipe,
    Segmentation,
    SplitRule,
    TerrazzoError,
)
from terrazzo.errors import ConfigError
from terrazzo.imaging.read import ReadOptions
from terrazzo.profiling import benchmark as benchmark_module

ODD: dict[str, Any] = {
    "None": None,
    "True": True,
    "nan": math.nan,
    "inf": math.inf,
    "bytes": b"x",
    "no bytes": b"",
    "-1": -1,
    "huge": 10**30,
    "1.5": 1.5,
    "object": object(),
    "[]": [],
    "{}": {},
    "numpy int": np.int64(3),
    "numpy float": np.float32(0.5),
    "numpy array": np.zeros((2, 2)),
    "empty path": Path(""),
    "zero byte": "a\0b",
    "half a character": "\ud800",
    "long": "x" * 5000,
    "set": {1},
    "nested": [[None]],
    "mixed": ["a", None],
    "complex": 1j,
}

LABELS = LabelSpec.from_names(["dark", "bright"])
IMAGE = np.zeros((4, 4, 3), np.uint8)
MASK = np.zeros((4, 4), np.uint8)


def engine(images_B3HW: np.ndarray) -> np.ndarray:
    mean_BHW = images_B3HW.mean(1)
    return np.stack([-mean_BHW, mean_BHW], 1)


PREDICTOR = Predictor(engine, Preprocess(), LABELS)
SHOWN = Segmentation(MASK, LABELS, IMAGE)
PLAIN = {"protocol": "whole", "engine": "torch", "device": "cpu", "trust": False}
NOWHERE = {"data": "nowhere", "labels": None}  # the work itself would take long

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "DataRules": (DataRules, {"split": None, "crowds": "ignore"}),
    "SplitRule": (SplitRule, {"val": 0.1, "group_by": None, "seed": 0, "folds": 2, "fold": 1}),
    "ReadOptions": (ReadOptions, {"bands": None, "frame": None, "value_range": None, "max_pixels": 100}),
    "LabelSpec": (LabelSpec, {"names": ("a",), "palette": ((0, 0, 0),), "id_map": None, "colors": None}),
    "LabelSpec.from_names": (LabelSpec.from_names, {"names": ["a"], "palette": None, "id_map": None, "colors": None}),
    "LabelSpec.bundled": (LabelSpec.bundled, {"name": "camvid"}),
    "LabelSpec.from_dict": (LabelSpec.from_dict, {"document": {"names": ["a"]}}),
    "LabelSpec.from_yaml": (LabelSpec.from_yaml, {"path": "labels.yaml"}),
    "LabelSpec.encode": (LABELS.encode, {"stored_HW": MASK}),
    "LabelSpec.encode_rgb": (LABELS.encode_rgb, {"rgb_HW3": IMAGE}),
    "LabelSpec.unknown_values": (LABELS.unknown_values, {"stored_HW": MASK}),
    "LabelSpec.unknown_colors": (LABELS.unknown_colors, {"rgb_HW3": IMAGE}),
    "LabelSpec.colorize": (LABELS.colorize, {"mask_HW": MASK}),
    "Preprocess": (
        Preprocess,
        {
            "short_side": None,
            "long_side": None,
            "multiple_of": 1,
            "mean": (0.0,) * 3,
            "std": (1.0,) * 3,
            "size": None,
            "interpolation": "bilinear",
            "antialias": False,
            "rounding": "nearest",
        },
    ),
    "Preprocess.from_dict": (Preprocess.from_dict, {"values": {}}),
    "Preprocess.target_size": (Preprocess(short_side=8).target_size, {"height": 4, "width": 4}),
    "Preprocess.resize": (Preprocess(short_side=8).resize, {"image_HWC": IMAGE}),
    "Preprocess.normalize": (Preprocess().normalize, {"image_HWC": IMAGE}),
    "Recipe.from_dict": (Recipe.from_dict, {"values": {}, "where": "here"}),
    "Recipe.from_file": (Recipe.from_file, {"path": Path("recipe.yaml")}),
    "Segmentation": (
        Segmentation,
        {"mask": MASK, "labels": LABELS, "image": IMAGE, "path": None, "probabilities": None, "model": None},
    ),
    "Segmentation.save": (SHOWN.save, {"output": "out", "save": "mask", "stem": None, "overwrite": True}),
    "Segmentation.overlay": (SHOWN.overlay, {"alpha": 0.5, "legend": False}),
    "Segmentation.areas": (SHOWN.areas, {"absent": False}),
    "Predictor": (
        Predictor,
        {"preprocess": Preprocess(), "labels": LABELS, "model": None, "output": "logits", "streams": 1, "record": {}},
    ),
    "ablate": (
        terrazzo.ablate,
        {
            **NOWHERE,
            "study": "resolution",
            "output": "abl",
            "overrides": None,
            "short_side": None,
            "sides": None,
            "only": None,
            "workers": 0,
            "device": "cpu",
            "overwrite": False,
        },
    ),
    "attention_maps": (
        terrazzo.attention_maps,
        {
            "image": "nowhere.png",
            "model": "nothing",
            "points": None,
            "layers": None,
            "device": "cpu",
            "reading": None,
        },
    ),
    "receptive_fields": (
        terrazzo.receptive_fields,
        {"images": "nowhere.png", "model": "nothing", "window": 64, "device": "cpu", "reading": None},
    ),
    "benchmark": (
        terrazzo.benchmark,
        {
            "model": "nothing",
            "size": (32, 32),
            "batch_size": 1,
            "engines": "torch",
            "threads": 1,
            "device": "cpu",
            "images": None,
            "rounds": 1,
            "precision": "fp32",
            "profile": False,
            "trust": False,
        },
    ),
    "calibrate": (
        terrazzo.calibrate,
        {
            **NOWHERE,
            "model": "nothing",
            "output": "new",
            "split": "val",
            "mask_values": None,
            "only": None,
            "crowds": None,
            "protocol": "whole",
            "device": "cpu",
            "reading": None,
            "overwrite": False,
        },
    ),
    "compare": (
        terrazzo.compare,
        {
            **PLAIN,
            **NOWHERE,
            "a": PREDICTOR,
            "b": PREDICTOR,
            "split": "val",
            "mask_values": None,
            "only": None,
            "crowds": None,
            "group_by": None,
            "reading": None,
        },
    ),
    "cross_validate": (
        terrazzo.cross_validate,
        {
            **NOWHERE,
            "output": "folds",
            "model": "segformer_b0",
            "folds": 2,
            "group_by": None,
            "teacher": None,
            "unlabelled": None,
            "encoder": None,
            "recipe": None,
            "weights": None,
            "overrides": None,
            "reset_head": False,
            "resume": False,
            "check": True,
            "workers": 0,
            "device": "cpu",
        },
    ),
    "check_dataset": (
        terrazzo.check_dataset,
        {
            "root": "nowhere",
            "labels": None,
            "strict": False,
            "rules": None,
            "reading": None,
            "bands": None,
            "nodata": None,
            "progress": None,
        },
    ),
    "convert": (
        terrazzo.convert,
        {"source": "nothing", "destination": "new", "to": "terrazzo", "labels": None, "overwrite": False},
    ),
    "create_model": (
        terrazzo.create_model,
        {
            "name": "nothing",
            "num_classes": 1,
            "drop_path_rate": None,
            "image_size": None,
            "encoder": None,
            "in_channels": None,
        },
    ),
    "evaluate": (
        terrazzo.evaluate,
        {
            **PLAIN,
            **NOWHERE,
            "model": PREDICTOR,
            "split": "val",
            "mask_values": None,
            "only": None,
            "crowds": None,
            "reading": None,
            "truth": None,
            "attribute": None,
            "raster": None,
            "group_by": None,
        },
    ),
    "evaluate_corruptions": (
        terrazzo.evaluate_corruptions,
        {
            **PLAIN,
            **NOWHERE,
            "model": PREDICTOR,
            "corruptions": "all",
            "severities": (1,),
            "split": "val",
            "mask_values": None,
            "only": None,
            "crowds": None,
            "reading": None,
            "clean": None,
        },
    ),
    "export": (
        terrazzo.export,
        {
            "model": "nothing",
            "output": "m.onnx",
            "format": None,
            "output_kind": "logits",
            "precision": "fp32",
            "calibrate": (),
            "data": None,
            "split": "val",
            "labels": None,
            "mask_values": None,
            "max_loss": None,
            "overwrite": False,
        },
    ),
    "load": (terrazzo.load, {"model": "nothing"}),
    "make_predictor": (
        terrazzo.make_predictor,
        {**PLAIN, "model": "nothing", "threads": None, "precision": "auto", "compiled": False, "workload": None},
    ),
    "open_dataset": (
        terrazzo.open_dataset,
        {"root": "nowhere", "split": "val", "labels": None, "fallback": None, "rules": None},
    ),
    "predict": (
        terrazzo.predict,
        {
            **PLAIN,
            "images": IMAGE,
            "model": PREDICTOR,
            "probabilities": False,
            "confidence": False,
            "allow_download": False,
            "bands": None,
            "frame": None,
            "value_range": None,
            "max_pixels": 100,
        },
    ),
    "predict_folder": (
        terrazzo.predict_folder,
        {
            **PLAIN,
            "images": "nowhere.png",
            "output": "out",
            "model": PREDICTOR,
            "save": "mask",
            "overwrite": False,
            "threads": None,
            "precision": "auto",
            "compiled": False,
            "batch_size": 1,
            "reading": None,
            "style": None,
            "raster": None,
        },
    ),
    "predict_video": (
        terrazzo.predict_video,
        {
            **PLAIN,
            "video": "nowhere.mp4",
            "output": "out",
            "model": PREDICTOR,
            "save": "mask",
            "stem": None,
            "every": 1,
            "start": 0.0,
            "stop": None,
            "smooth": 0.0,
            "overwrite": False,
            "threads": None,
            "precision": "auto",
            "compiled": False,
            "batch_size": 1,
            "style": None,
        },
    ),
    "PretrainRecipe.from_dict": (PretrainRecipe.from_dict, {"values": {}, "where": "here"}),
    "PretrainRecipe.changed": (PretrainRecipe(model="mit_b0").changed, {"changes": {}}),
    "pretrain": (
        terrazzo.pretrain,
        {
            "photos": "nowhere",
            "output": "run",
            "model": None,
            "recipe": None,
            "overrides": None,
            "resume": False,
            "workers": 0,
            "device": "cpu",
        },
    ),
    "average": (
        terrazzo.average,
        {
            "models": ["a", "b"],
            "output": "soup",
            "data": "nowhere",
            "split": "val",
            "labels": None,
            "protocol": "whole",
            "overwrite": False,
            "device": "cpu",
        },
    ),
    "check_labels": (
        terrazzo.check_labels,
        {**NOWHERE, "models": "nowhere", "split": "val", "worst": 3, "device": "cpu"},
    ),
    "check_weights": (terrazzo.check_weights, {"weights": "nowhere", "photo": "nowhere", "name": "x"}),
    "push": (
        terrazzo.push,
        {
            "model": "nowhere",
            "repo": "a/b",
            "to": "terrazzo",
            "private": False,
            "report": False,
            "overwrite": False,
            "dry_run": True,
        },
    ),
    "report": (terrazzo.report, {"run": "nowhere", "data": None, "output": "x.html", "overwrite": False}),
    "suggest": (
        terrazzo.suggest,
        {"images": "nowhere", "model": "nowhere", "budget": 2, "labelled": None, "device": "cpu", "reading": None},
    ),
    "train": (
        terrazzo.train,
        {
            "log": None,
            **NOWHERE,
            "output": "run",
            "model": "segformer_b0",
            "encoder": None,
            "recipe": None,
            "weights": None,
            "teacher": None,
            "unlabelled": None,
            "overrides": None,
            "reset_head": False,
            "dry_run": True,
            "find_lr": False,
            "resume": False,
            "check": True,
            "workers": 0,
            "device": "cpu",
        },
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_odd_values_are_used_or_refused_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*arguments: Any) -> Any:
        raise ConfigError("no process in this test", fix="none")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark_module, "EngineProcess", no_process)
    Path("labels.yaml").write_text("names: [a]\n")
    function, valid = CALLS[name]
    given = {**({"engine": engine} if name == "Predictor" else {}), **valid}
    raw = []
    for parameter in valid:
        for kind, odd in ODD.items():
            try:
                function(**{**given, parameter: odd})
            except TerrazzoError as error:
                assert error.message and error.fix and len(error.message) < 1500
            except Exception as error:
                raw.append(f"{parameter}={kind}: {type(error).__name__}: {error}"[:200])
    assert not raw, "\n".join(raw)


def test_every_public_function_is_tried() -> None:
    functions = {name for name in terrazzo.__all__ if inspect.isfunction(getattr(terrazzo, name))}
    assert functions - {"list_models"} <= set(CALLS)
    for name in functions & set(CALLS):
        tried, there = set(CALLS[name][1]), set(inspect.signature(getattr(terrazzo, name)).parameters)
        assert tried | {"progress", "started", "within"} >= there, name


@pytest.mark.parametrize(
    ("call", "said", "fix"),
    [
        (lambda: terrazzo.predict(IMAGE, PREDICTOR, frame="2"), "predict: frame is '2'", "a whole number or None"),
        (lambda: terrazzo.export("m", "m.onnx", calibrate="photos"), "calibrate is 'photos'", "each is text"),
        (lambda: terrazzo.train("d", "r", resume=1), "train: resume is 1", "True or False"),
        (lambda: Preprocess(mean=5), "Preprocess: mean is 5", "a tuple of any length, each a number"),
        (lambda: terrazzo.open_dataset("a\0b", "val"), r"root is 'a\\x00b', which cannot be", "zero bytes"),
    ],
)
def test_the_message_names_the_argument_what_was_given_and_what_is_taken(
    call: Callable[[], Any], said: str, fix: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        call()
    assert caught.value.code == "argument-type" and fix in caught.value.fix


def test_numpy_scalars_and_lists_pass_and_python_keeps_its_own_type_error() -> None:
    assert Preprocess(short_side=8).target_size(np.int32(4), np.int32(4)) == (8, 8)
    assert terrazzo.predict(IMAGE, PREDICTOR, bands=[1, 2, 3]).mask.shape == (4, 4)
    with pytest.raises(TypeError, match="unexpected keyword"):
        terrazzo.predict(IMAGE, PREDICTOR, thread=3)
