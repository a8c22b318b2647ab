"""The papers' recipes: their values, what their first lines say, and two steps of each on a tiny copy of its data.

What is expected is written down here a second time, from the papers and their code.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from flat_recipes import flat as flat_values
from PIL import Image
from tiny_runs import ALONE, TINY

from terrazzo.labels.spec import LabelSpec
from terrazzo.models import MODELS, Segmenter
from terrazzo.preprocess import Preprocess
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.optim import create_optimizer, learning_rate_factor, set_learning_rate
from terrazzo.training.recipe import Recipe
from terrazzo.training.sections import OPTIONAL
from terrazzo.training.trainer import Trainer
from terrazzo.weights.create import create_model

FOLDER = Path(__file__).parents[2] / "recipes"

# Single-scale mIoU on val: SegFormer's table 1; SETR's tables 2 (40k and 80k), 4 and 5.
PUBLISHED = {
    "segformer_b0": {"ade20k": 37.4, "cityscapes": 76.2, "coco_stuff": 35.6},
    "segformer_b1": {"ade20k": 42.2, "cityscapes": 78.5, "coco_stuff": 40.2},
    "segformer_b2": {"ade20k": 46.5, "cityscapes": 81.0, "coco_stuff": 44.6},
    "segformer_b3": {"ade20k": 49.4, "cityscapes": 81.7, "coco_stuff": 45.5},
    "segformer_b4": {"ade20k": 50.3, "cityscapes": 82.3, "coco_stuff": 46.5},
    "segformer_b5": {"ade20k": 51.0, "cityscapes": 82.4, "coco_stuff": 46.7},
    "setr_naive_large": {
        "cityscapes_40k": 77.37, "cityscapes_80k": 77.90, "ade20k": 48.06, "pascal_context": 52.89,
    },
    "setr_pup_large": {"cityscapes_40k": 78.39, "cityscapes_80k": 79.34, "ade20k": 48.58, "pascal_context": 54.40},
    "setr_mla_large": {"cityscapes_40k": 76.65, "cityscapes_80k": 77.24, "ade20k": 48.64, "pascal_context": 54.87},
    "setr_naive_base": {"cityscapes_40k": 75.54, "cityscapes_80k": 76.25},
    "setr_pup_base": {"cityscapes_40k": 76.71, "cityscapes_80k": 78.02},
    "setr_mla_base": {"cityscapes_40k": 75.60, "cityscapes_80k": 76.87},
    "setr_naive_deit_base": {"cityscapes_40k": 77.85, "cityscapes_80k": 78.66},
    "setr_pup_deit_base": {
        "cityscapes_40k": 78.79, "cityscapes_80k": 79.45, "ade20k": 46.34, "pascal_context": 52.71,
    },
    "setr_mla_deit_base": {
        "cityscapes_40k": 78.04, "cityscapes_80k": 78.98, "ade20k": 46.15, "pascal_context": 52.91,
    },
}  # fmt: skip
RUNS = [(model, run) for model, runs in PUBLISHED.items() for run in runs]
NAMES = [f"{model}_{run}" for model, run in RUNS]

SEGFORMER = {"optimizer": "adamw", "lr": 6e-5, "weight_decay": 0.01, "power": 1.0, "min_lr": 0.0, "drop_path": 0.1,
             "warmup_steps": 1500, "warmup_ratio": 1e-6, "auxiliary_weight": 0.0}  # fmt: skip
SETR = {"optimizer": "sgd", "weight_decay": 0.0, "power": 0.9, "min_lr": 1e-4, "drop_path": 0.0, "warmup_steps": 0,
        "auxiliary_weight": 0.4}  # fmt: skip
BOTH = {
    "ratio_range": [0.5, 2.0], "cat_max_ratio": 0.75, "flip": 0.5, "brightness": 32.0, "contrast": [0.5, 1.5],
    "saturation": [0.5, 1.5], "hue": 18, "gamma": 0.0, "gray": 0.0, "blur": 0.0, "rotate": 0.0, "momentum": 0.9,
    "decoder_lr_factor": 10.0, "clip_norm": None, "sync_batchnorm": True, "class_weight_power": 0.0,
    "normalize_by": "all", "ema_decay": None, "precision": "fp32", "epochs": None, "holdout": [], "patience": None,
}  # fmt: skip
DATA = {
    ("segformer", "ade20k"): (512, (2048, 512), 16, 160_000, "segformer-ade20k", Preprocess(512, 2048, 32)),
    ("segformer", "cityscapes"): (1024, (2048, 1024), 8, 160_000, "segformer-cityscapes", Preprocess(1024, 2048)),
    ("segformer", "coco_stuff"): (512, (2048, 512), 16, 80_000, "segformer-coco-stuff", Preprocess(512, 2048, 32)),
    ("setr", "ade20k"): (512, (2048, 512), 16, 160_000, "setr-ade20k", Preprocess(512, 2048)),
    ("setr", "cityscapes_40k"): (768, (2049, 1025), 8, 40_000, "setr-cityscapes", Preprocess(1025, 2049)),
    ("setr", "cityscapes_80k"): (768, (2049, 1025), 8, 80_000, "setr-cityscapes", Preprocess(1025, 2049)),
    ("setr", "pascal_context"): (480, (520, 520), 16, 80_000, "setr-pascal-context", Preprocess(520)),
}
B5_ADE20K = (640, (2048, 640), 16, 160_000, "segformer-ade20k-640", Preprocess(640, 2048, 32))
ENCODERS = {
    "large": "jx_vit_large_p16_384-b3be5167.pth",
    "deit_base": "deit_base_distilled_patch16_384-d0272ac0.pth",
    "base": "jx_vit_base_p16_384-83fb41ba.pth",
}


@cache
def read(name: str) -> Recipe:
    return Recipe.from_file(FOLDER / f"{name}.yaml")


def family(model: str) -> str:
    return model.partition("_")[0]


def test_every_run_of_the_papers_has_its_recipe() -> None:
    there = {
        path.stem
        for path in FOLDER.glob("*.yaml")
        if path.stem.rpartition("_")[2] != "nuclei" and "camvid" not in path.stem
    }
    assert there == set(NAMES)


@pytest.mark.parametrize(("model", "run"), RUNS, ids=NAMES)
def test_values_are_the_papers(model: str, run: str) -> None:
    recipe = read(f"{model}_{run}")
    assert recipe.model.name == model and model in MODELS
    flat = flat_values(recipe)
    expected = B5_ADE20K if (model, run) == ("segformer_b5", "ade20k") else DATA[family(model), run]
    side, box, batch, steps, protocol, preprocess = expected
    assert [flat[key] for key in ("crop", "resize", "batch_size", "steps")] == [[side, side], [*box], batch, steps]
    assert (recipe.run.protocol, recipe.data.preprocess) == (protocol, preprocess)
    # ImageNet's colours on the scale 0-255; plain bilinear resizing, whose sides are rounded to the nearest pixel.
    assert (preprocess.mean, preprocess.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert (preprocess.interpolation, preprocess.antialias, preprocess.rounding) == ("bilinear", False, "nearest")
    assert recipe.data.labels == run.removesuffix("_40k").removesuffix("_80k")
    for values in (BOTH, SEGFORMER if family(model) == "segformer" else SETR):
        assert {key: flat[key] for key in values} == values
    assert len(recipe.loss) == 1 and recipe.loss[0].weight == 1.0
    if family(model) == "setr":
        naive, mla = "_naive_" in model, "_mla_" in model
        on_streets = recipe.data.labels == "cityscapes"
        assert recipe.optimizer.lr == ((0.002 if mla else 0.01) if on_streets else 0.01 if naive else 0.001)
        assert recipe.model.weights == next(file for size, file in ENCODERS.items() if model.endswith(size))
    else:
        assert recipe.model.weights == model.replace("segformer", "mit") + ".pth"


@pytest.mark.parametrize(("model", "run"), RUNS, ids=NAMES)
def test_the_steps_of_augmentation_are_the_papers(model: str, run: str) -> None:
    """Resize, crop, flip, photometric distortion, in this order and with these numbers; nothing of ours."""
    side, box, *_ = B5_ADE20K if (model, run) == ("segformer_b5", "ade20k") else DATA[family(model), run]
    found = [(type(step).__name__, vars(step)) for step in read(f"{model}_{run}").augment]
    assert found == [
        ("RandomResize", {"box": box, "ratio_range": (0.5, 2.0)}),
        ("RandomCrop", {"size": (side, side), "cat_max_ratio": 0.75, "rare": 0.0, "rarer_than": 0.02}),
        ("RandomFlip", {"p": 0.5}),
        ("PhotometricDistortion", {"brightness": 32, "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": 18}),
    ]


@pytest.mark.parametrize(("model", "run"), RUNS, ids=NAMES)
def test_first_lines_say_what_one_needs_to_know(model: str, run: str) -> None:
    name = f"{model}_{run}"
    text = (FOLDER / f"{name}.yaml").read_text()
    head = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    assert f"terrazzo train --recipe recipes/{name}.yaml --data " in head
    assert f"--weights {read(name).model.weights} --output runs/" in head
    decimals = 1 if family(model) == "segformer" else 2
    assert f"Expected val mIoU {PUBLISHED[model][run]:.{decimals}f}, " in " ".join(head.split())
    assert "Not yet repeated by this project." in head
    for word in ("Paper ", "Hardware ", "Starts from ", "Data "):
        assert head.count(word) == 1, word
    sections = [field.name for field in dataclasses.fields(Recipe)]
    assert list(yaml.safe_load(text)) == [name for name in sections if name not in OPTIONAL]


def test_the_overview_has_the_published_values() -> None:
    titles = {"b": "SegFormer-B", "naive": "SETR-Naive, ", "pup": "SETR-PUP, ", "mla": "SETR-MLA, "}
    sizes = {"large": "T-Large", "base": "T-Base", "deit_base": "DeiT-Base"}
    rows = {}
    for line in (FOLDER / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith(("SegFormer-", "SETR-")):
            rows[cells[0]] = [float(cell) for cell in cells[1:] if cell]
    expected = {}
    for model, runs in PUBLISHED.items():
        if family(model) == "segformer":
            expected[titles["b"] + model[-1]] = list(runs.values())
        else:
            _, decoder, size = model.split("_", 2)
            expected[titles[decoder] + sizes[size]] = list(runs.values())
    assert rows == expected


# -- learning rates ---------------------------------------------------------------------------------------------------

SEGFORMER_RATES = {
    0: 6.0e-11, 1: 4.005971e-8, 750: 2.985940e-5, 1500: 5.94375e-5, 80_000: 3.0e-5, 159_999: 3.75e-10,
}  # fmt: skip
HALF_TIME = {0.01: (5.405278640e-3, 5.363508446e-2), 0.002: (1.118184789e-3, 1.076414595e-2),
             0.001: (5.822980581e-4, 5.405278640e-3)}  # fmt: skip
"""SETR's rates of encoder and heads in the middle, by the base rate: (base - 1e-4) 0.5 ** 0.9 + 1e-4."""


@pytest.fixture(scope="module")
def narrow() -> Segmenter:
    with torch.device("meta"):
        return create_model(TINY["segformer_tiny"], 2)


def rates(model: Segmenter, recipe: Recipe, at: Iterable[int]) -> list[tuple[float, float]]:
    """Return the encoder's and the decoder's learning rate at each step, as the optimiser has them."""
    optimizer = create_optimizer(model, recipe.optimizer)
    steps, schedule = recipe.run.steps, recipe.optimizer
    assert steps is not None
    found = []
    for step in at:
        factor = learning_rate_factor(
            step, steps, power=schedule.power, warmup_steps=schedule.warmup_steps, warmup_ratio=schedule.warmup_ratio
        )
        set_learning_rate(optimizer, factor, schedule.min_lr)
        encoder, norms, decoder = (float(group["lr"]) for group in optimizer.param_groups)
        assert encoder == norms
        found.append((encoder, decoder))
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("segformer")])
def test_learning_rates_of_segformer(name: str, narrow: Segmenter) -> None:
    recipe = read(name)
    expected = SEGFORMER_RATES if recipe.run.steps == 160_000 else {1500: 5.8875e-5, 40_000: 3e-5, 79_999: 7.5e-10}
    for found, rate in zip(rates(narrow, recipe, expected), expected.values(), strict=True):
        assert found == pytest.approx((rate, 10 * rate), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("setr")])
def test_learning_rates_of_setr(name: str, narrow: Segmenter) -> None:
    recipe = read(name)
    steps, lr = recipe.run.steps, recipe.optimizer.lr
    assert steps is not None
    first, middle, end = rates(narrow, recipe, (0, steps // 2, steps))
    assert first == pytest.approx((lr, 10 * lr))
    assert middle == pytest.approx(HALF_TIME[lr], rel=1e-7)
    assert end == (1e-4, 1e-4)


# -- two steps --------------------------------------------------------------------------------------------------------


def tiny_copy(root: Path, labels: str) -> Path:
    """Write six photos of 48 x 64 pixels whose masks store what the data set's own masks store."""
    spec = LabelSpec.bundled(labels)
    stored = [value for value, _ in spec.id_map] if spec.id_map else [*range(spec.num_classes), spec.ignore_index]
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.kron(rng.choice(stored, (6, 8)), np.ones((8, 8))).astype(np.uint8)
            image = (mask[..., None] // 2 + rng.integers(0, 100, (48, 64, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("copies")
    return {name: tiny_copy(root / name, name) for name in ("ade20k", "cityscapes", "coco_stuff", "pascal_context")}


def shrunk(recipe: Recipe) -> Recipe:
    """Return a recipe that a test can afford.

    Changed are the model (a narrow one with the same decoder and auxiliary heads), what it starts from (random
    weights), the steps (2), the warm-up (one step, where there is one), the batch (2), and everything that is a size:
    crop, resize box, validation size and protocol. Classes, optimiser, schedule, losses and augmentation stay.
    """
    decoder = recipe.model.name.split("_")[1]
    name = "segformer_tiny" if family(recipe.model.name) == "segformer" else f"setr_{decoder}_nano"
    narrow = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, name=name, spec=TINY[name]))
    return narrow.changed(
        {
            "weights": None,
            "steps": 2,
            "warmup_steps": min(recipe.optimizer.warmup_steps, 1),
            "batch_size": 2,
            "crop": (32, 32),
            "resize": (64, 48),
            "data.preprocess.short_side": 48,
            "data.preprocess.long_side": 64,
            "protocol": "whole",
        }
    )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What two steps did.

    Attributes:
        losses: of both.
        auxiliary: how many auxiliary heads there were.
        num_classes: of the data.
        unmoved: names of the parameters that have their old values.
        bad_steps: steps without finite gradients.
        pixels: labelled ones that were validated on.
    """

    losses: list[float]
    auxiliary: int
    num_classes: int
    unmoved: set[str]
    bad_steps: int
    pixels: int


@cache
def two_steps(written: str, data: Path, output: Path) -> Outcome:
    """Train and validate by a recipe in JSON; recipes that differ in no more than what was shrunk have one run."""
    recipe = Recipe.from_dict(json.loads(written), "shrunk")
    train, val = open_splits(recipe.data, data)
    trainer = Trainer(recipe, train, val, labelled_pixels(train), output, ALONE, workers=0)
    assert trainer.total_steps == 2
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    losses = [trainer.train_step(batch) for batch in trainer.loader.batches(0)]
    unmoved = {name for name, now in trainer.model.named_parameters() if torch.equal(before[name], now)}
    pixels = int(trainer.validate().label_pixels.sum())
    return Outcome(
        losses, len(trainer.model.auxiliary), train.labels.num_classes, unmoved, trainer.state.bad_steps, pixels
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_change_the_weights(name: str, copies: dict[str, Path]) -> None:
    recipe = shrunk(read(name))
    assert recipe.data.labels is not None
    data = copies[recipe.data.labels]
    outcome = two_steps(json.dumps(recipe.to_dict()), data, data / "run")
    heads = {"segformer_tiny": 0, "setr_naive_nano": 3, "setr_pup_nano": 4, "setr_mla_nano": 4}
    assert outcome.auxiliary == heads[recipe.model.name]
    # Guessing costs the logarithm of the classes; unlabelled pixels cost nothing, each head two fifths more.
    chance = math.log(outcome.num_classes) * (1 + 0.4 * outcome.auxiliary)
    assert len(outcome.losses) == 2 and all(0.3 * chance < loss < 2 * chance for loss in outcome.losses)
    assert outcome.bad_steps == 0 and outcome.pixels > 0
    # MLA does not use the class token, BatchNorm takes out what a bias before it adds, and in so small a window the
    # last stages' queries see a single key, whichever they are: on some processors their gradient is exactly zero.
    without_gradient = ("conv.bias", "proj.bias", "stages.2.blocks.0.attn.q.bias", "stages.3.blocks.0.attn.q.bias")
    assert all("cls_" in name or name.endswith(without_gradient) for name in outcome.unmoved), outcome.unmoved
