"""Write the files in data/: models, exports, runs and recipes as terrazzo 0.1.0 at commit 45d9ff7 writes them.

    git worktree add ../before 45d9ff7
    PYTHONPATH=../before/src:../before/tests:../before/tests/training python tests/written_before/write_format_1.py

It runs with that version and not with later ones; that is the point of the files, and why they are committed.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import math
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from probes import DATA, EXPECTED, image, images, noted
from safetensors.torch import load_file
from tiny_runs import make_data

import terrazzo
from terrazzo.ablation.studies import changed_segformer
from terrazzo.exports.export import export
from terrazzo.labels import LabelSpec
from terrazzo.models import Segmenter, segformer, setr
from terrazzo.preprocess import Preprocess
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.distributed import Ranks
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.run_folder import write_recipe
from terrazzo.training.trainer import Trainer
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.huggingface import save_huggingface
from tiny_backbones import TINY_BACKBONES

RECORD = {
    "step": 12,
    "val_mIoU": 61.25,
    "licence": "CC0-1.0",
    "origin": "made by tests/written_before/write_format_1.py",
    "starts from": [{"name": "nvidia/mit-b0", "licence": "NVIDIA Source Code License"}],
}
LABELS = LabelSpec.bundled("camvid")
PERIOD = 251
TABLE = torch.tensor([round(((i * i * 37 + i * 11) % PERIOD - 125) / 125 * 1.75 * 16) / 16 for i in range(PERIOD)])
"""What all weights repeat, near enough to normal, and in so few values that a file of them packs to some kilobytes."""

LARGER = Preprocess(short_side=64, long_side=128)  # a .pt2 file takes no photo that is smaller than its windows
# Of what differs between implementations, each kind of network gets another value than the default.
PLAIN, SQUEEZED = (
    Preprocess(short_side=48, long_side=96),
    Preprocess(size=(40, 56), interpolation="bicubic", antialias=True),
)
PAPERS, SMALLER = (
    Preprocess(short_side=32, long_side=128, multiple_of=32),
    Preprocess(
        short_side=40,
        long_side=160,
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        antialias=True,
        rounding="down",
    ),
)

MODELS: dict[str, tuple[str, dict[str, Any], Preprocess, torch.dtype]] = {
    "segformer_b0": ("segformer_b0", {}, PLAIN, torch.float32),
    "segformer_b0_mmseg": ("segformer_b0_mmseg", {}, PAPERS, torch.float16),
    "setr_naive": ("setr_naive_tiny", {"image_size": (64, 96)}, SMALLER, torch.float32),
    "setr_pup": ("setr_pup_tiny", {"image_size": (64, 96)}, SQUEEZED, torch.float16),
    "setr_mla": ("setr_mla_tiny", {"image_size": (64, 96)}, PLAIN, torch.float16),
    "setr_pup_slim": ("setr_pup_tiny", {"image_size": (48, 48)}, PLAIN, torch.float16),
    "all_mlp_pvt_v2": ("all_mlp", {"encoder": TINY_BACKBONES["pvt_v2"]}, PLAIN, torch.float32),
    "fcn_swin": ("fcn", {"encoder": TINY_BACKBONES["swin"]}, PLAIN, torch.float32),
    "fcn_dilated_resnet": ("fcn_dilated", {"encoder": TINY_BACKBONES["resnet"]}, PLAIN, torch.float32),
    "setr_naive_dinov3": ("setr_naive", {"encoder": TINY_BACKBONES["dinov3_vit"]}, PLAIN, torch.float32),
    "setr_pup_dinov2": ("setr_pup", {"encoder": TINY_BACKBONES["dinov2"]}, SMALLER, torch.float16),
    "setr_mla_dinov2": ("setr_mla", {"encoder": TINY_BACKBONES["dinov2"]}, PLAIN, torch.float16),
}  # fmt: skip
ABLATED = {
    "ablated_patches": ("segformer_b0 (4 x 4, side by side)", {"patch_sizes": (4, 2, 2, 2)}),
    "ablated_positions": (
        "segformer_b0 (learned positions, plain FFN)", {"ffn_convolution": False, "positions": True},
    ),
}  # fmt: skip
RECIPES = (
    "segformer_b0_ade20k",
    "segformer_b5_cityscapes",
    "segformer_b1_coco_stuff",
    "segformer_b0_camvid",
    "setr_naive_large_ade20k",
    "setr_pup_deit_base_cityscapes_80k",
    "setr_mla_large_pascal_context",
    "setr_pup_tiny_camvid",
)


def filled(network: Segmenter) -> Segmenter:
    """Give every tensor values that repeat, at the scale at which a network computes something."""
    with torch.no_grad():
        for number, (name, value) in enumerate(network.state_dict().items()):
            if not value.is_floating_point():
                value.fill_(7)
                continue
            repeated = TABLE[(torch.arange(value.numel()) + 17 * number) % PERIOD].reshape(value.shape)
            if name.endswith("running_var"):
                value.copy_(1 + repeated.abs() / 2)
            elif value.ndim == 1:
                value.copy_(1 + repeated / 4 if name.endswith("weight") else repeated / 32)
            else:
                gain = 8 if "classifier" in name else 1  # so that several classes win
                value.copy_(repeated * gain * 2.0 ** -round(math.log2(math.sqrt(value[0].numel()))))
    # Without this one class wins everywhere.
    logits = network.eval()(torch.from_numpy(images())).detach()
    bias = network.decoder.classifier.bias
    bias.data -= (logits.mean((0, 2, 3)) * 16).round() / 16
    return network


def packed(path: Path) -> None:
    """Replace a file by its packed self."""
    data = lzma.compress(path.read_bytes(), preset=9)
    path.with_name(f"{path.name}.xz").write_bytes(data)
    path.unlink()


def written_models(expected: dict[str, Any]) -> None:
    for name, (architecture, options, preprocess, dtype) in MODELS.items():
        network = filled(create_model(architecture, LABELS.num_classes, **options))
        if name.endswith("_slim"):
            network.drop_auxiliary()
        save_folder(DATA / "models" / name, TrainedModel(architecture, network, LABELS, preprocess, RECORD), dtype)
    for name, (architecture, changes) in ABLATED.items():
        network = filled(changed_segformer(LABELS.num_classes, (64, 96), **changes))
        folder = DATA / "models" / name
        save_folder(folder, TrainedModel(architecture, network, LABELS, PLAIN, RECORD), torch.float16)
        network.load_state_dict(
            {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}, strict=False
        )
        expected[name] = noted(network(torch.from_numpy(images())).detach().numpy())
    network = filled(create_model("segformer_b0", LABELS.num_classes))
    save_huggingface(
        DATA / "models" / "huggingface", TrainedModel("segformer_b0", network, LABELS, SMALLER, RECORD, "before")
    )
    for folder in sorted((DATA / "models").iterdir()):
        if folder.name not in ABLATED:
            model = terrazzo.load(folder)
            with torch.no_grad():
                logits = model.network(torch.from_numpy(images()))
            result = terrazzo.predict(image(), model, probabilities=True, engine="torch")
            expected[folder.name] = noted(logits.numpy())
            expected[f"{folder.name}, photo"] = noted(result.probabilities)
        packed(folder / "model.safetensors")


# -- exports ----------------------------------------------------------------------------------------------------------


def narrow(architecture: str) -> TrainedModel:
    if architecture in segformer.VARIANTS:
        small = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1), "decoder_dim": 16}
        network = segformer.build(dataclasses.replace(segformer.VARIANTS[architecture], **small), LABELS.num_classes)
    else:
        variant = setr.VARIANTS[architecture]
        variant = dataclasses.replace(variant, size=setr.ViTSize(12, 4, 3), layers=(1, 2, 3, 4), auxiliary=(2,))
        network = setr.build(variant, LABELS.num_classes, image_size=(64, 96))
    return TrainedModel(architecture, filled(network), LABELS, LARGER, RECORD, "before")


EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "segformer.onnx": ("segformer_b0", {}),
    "segformer_mmseg.onnx": ("segformer_b0_mmseg", {}),
    "segformer_mask.onnx": ("segformer_b0", {"output_kind": "mask"}),
    "segformer_fp16.onnx": ("segformer_b0", {"precision": "fp16"}),
    "segformer_int8.onnx": ("segformer_b0", {"precision": "int8"}),
    "setr_naive.onnx": ("setr_naive_tiny", {}),
    "segformer.xml": ("segformer_b0", {}),
    "segformer_fp16.xml": ("segformer_b0", {"precision": "fp16"}),
    "segformer_mask.xml": ("segformer_b0", {"output_kind": "mask"}),
    "segformer_int8.xml": ("segformer_b0", {"precision": "int8"}),
    "setr_naive.xml": ("setr_naive_tiny", {}),
    "segformer.pt2": ("segformer_b0", {}),
    "setr_naive.pt2": ("setr_naive_tiny", {}),
}


def written_exports(expected: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(8):
            Image.fromarray(np.roll(image(), 5 * number, axis=(0, 1))).save(Path(folder) / f"{number}.png")
        (DATA / "exports").mkdir(parents=True)
        for name, (architecture, options) in EXPORTS.items():
            path = DATA / "exports" / name
            if options.get("precision") == "int8":
                options = {**options, "calibrate": [folder], "max_loss": 100.0}
            export(narrow(architecture), path, **options)
    for name in EXPORTS:
        path = DATA / "exports" / name
        wants = "mask" not in name
        result = terrazzo.predict(image(), path, probabilities=wants)
        expected[name] = noted(result.probabilities) if wants else {"mask": result.mask[::4, ::4].tolist()}
    for path in sorted((DATA / "exports").iterdir()):
        packed(path)


# -- runs -------------------------------------------------------------------------------------------------------------


def stopped_run(output: Path, recipe: Recipe, data: Path) -> None:
    """Train to the third step of four, as a run that was told to stop leaves it."""
    train, val = open_splits(recipe, data)
    trainer = Trainer(recipe, train, val, labelled_pixels(train), output, Ranks(0, 1, torch.device("cpu")), 0)
    learn = trainer.train_step

    def stopped(batch: Any) -> float:
        if trainer.step == 2:
            trainer.signals.number = signal.SIGTERM
        return learn(batch)

    trainer.train_step = stopped  # type: ignore[method-assign]
    output.mkdir()
    write_recipe(output, recipe)
    try:
        trainer.run()
    except SystemExit as stop:
        assert stop.code == 143
    for name in ("tensorboard", "checkpoints/previous.pt"):
        path = output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def with_repeating_tensors(checkpoints: Path) -> None:
    """Replace a checkpoint's weights by some that pack well; the rest of it stays as it was written."""
    state, _ = load_checkpoint(checkpoints)
    for part, shift in (("model", 0), ("average", 1)):
        for number, (name, value) in enumerate(state[part].items()):
            if value.is_floating_point():
                repeated = TABLE[(torch.arange(value.numel()) + 17 * number + shift) % PERIOD].reshape(value.shape)
                scale = 2.0**-2 if value.ndim == 1 else 2.0 ** -round(math.log2(math.sqrt(value[0].numel())))
                base = 1.0 if value.ndim == 1 and not name.endswith(("bias", "running_mean")) else 0.0
                value.copy_(base + repeated.abs() / 2 if name.endswith("running_var") else base + repeated * scale)
    for number, moments in state["optimizer"]["state"].items():
        size = moments["exp_avg"].numel()
        repeated = TABLE[(torch.arange(size) + 29 * number) % PERIOD].reshape(moments["exp_avg"].shape)
        moments["exp_avg"].copy_(repeated * 2.0**-10)
        moments["exp_avg_sq"].copy_((1 + repeated.abs()) * 2.0**-18)
    save_checkpoint(checkpoints, {**state, "best_mIoU": -1.0})
    (checkpoints / "previous.pt").unlink()


def written_runs(expected: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        data = make_data(Path("tiles"), train=4, val=2)
        shutil.rmtree(DATA / "tiles", ignore_errors=True)
        shutil.copytree(data, DATA / "tiles")
        Path("encoder").mkdir()
        Path("encoder/config.json").write_text(json.dumps(TINY_BACKBONES["dinov2"]))
        shutil.copytree("encoder", DATA / "encoder")
        changes = {"crop": (32, 32), "drop_path": 0.0, "precision": "fp32"}
        for name, model, encoder in (
            ("run_dinov2", "setr_naive", "hf:encoder/config.json"), ("run_segformer", "segformer_b0", None)
        ):  # fmt: skip
            recipe = automatic_recipe(model, [(48, 64)] * 4, epochs=2, batch_size=2, encoder=encoder)
            recipe = dataclasses.replace(recipe, **changes)
            stopped_run(Path(name), recipe, data)
            with_repeating_tensors(Path(name, "checkpoints"))
            if name == "run_segformer":
                shutil.rmtree(Path(name, "model"))
            shutil.copytree(name, DATA / name)
            for path in (DATA / name).rglob("*.lock"):
                path.unlink()
            if (DATA / name / "model").exists():
                with torch.no_grad():
                    logits = terrazzo.load(DATA / name).network(torch.from_numpy(images()))
                expected[name] = noted(logits.numpy())
                packed(DATA / name / "model" / "model.safetensors")
            packed(DATA / name / "checkpoints" / "newest.pt")
            terrazzo.train(data, name, resume=True, workers=0, device="cpu")
            rows = Path(name, "log.csv").read_text().splitlines()
            with torch.no_grad():
                logits = terrazzo.load(name).network(torch.from_numpy(images()))
            epoch = dict(zip(rows[0].split(","), rows[2].split(","), strict=True))
            state, _ = load_checkpoint(Path(name, "checkpoints"))
            expected[f"{name}, resumed"] = {
                "losses": state["losses"],
                **{key: float(epoch[key]) for key in ("loss", "lr", "mIoU")},
                "logits": noted(logits.numpy()),
                "weights": {
                    key: round(float(value.double().norm()), 6)
                    for key, value in state["model"].items()
                    if value.is_floating_point() and (value.ndim == 1 or key.startswith("decoder."))
                },
            }


def written_recipes() -> None:
    folder = DATA / "recipes"
    folder.mkdir()
    for name in RECIPES:
        shutil.copyfile(Path(__file__).parents[2] / "recipes" / f"{name}.yaml", folder / f"{name}.yaml")
    for run in ("run_dinov2", "run_segformer"):
        shutil.copyfile(DATA / run / "recipe.yaml", folder / f"{run}.yaml")
    lines = (folder / "run_segformer.yaml").read_text().splitlines(keepends=True)
    later = ("checkpointing:", "compile:", "split:", "crowds:")
    (folder / "run_before_those_fields.yaml").write_text("".join(line for line in lines if not line.startswith(later)))
    values = {path.stem: Recipe.from_file(path).to_dict() for path in sorted(folder.glob("*.yaml"))}
    (folder / "values.json").write_text(json.dumps(values, indent=1) + "\n")


def main() -> None:
    assert terrazzo.__version__ == "0.1.0", sys.path
    torch.set_num_threads(1)
    shutil.rmtree(DATA, ignore_errors=True)
    expected: dict[str, Any] = {}
    for part in (written_models, written_exports, written_runs)[int(os.environ.get("ONLY", 0)) :]:
        part(expected)
    written_recipes()
    EXPECTED.write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
