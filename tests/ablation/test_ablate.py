"""A study from end to end on a few tiny photos: its files, going on after a break, sharing runs, refusing others."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flat_recipes import flat
from PIL import Image

import terrazzo
from terrazzo.ablation.ablate import ablate
from terrazzo.ablation.figures import study_png
from terrazzo.ablation.results import Result
from terrazzo.ablation.studies import STUDIES, Study, Variant
from terrazzo.cli.main import main
from terrazzo.errors import ConfigError, TrainingError
from terrazzo.models import DECODERS, ModelSpec, Part, find_spec
from terrazzo.models.segformer import segformer_spec
from terrazzo.models.setr import setr_spec
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.recipe import Recipe
from terrazzo.training.trainer import Trainer
from tiny_backbones import TINY_BACKBONES

SIZES: dict[str, Any] = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}
NARROW = segformer_spec("segformer_b0", SIZES, 16)
NANO = {"embed_dim": 16, "depth": 4, "num_heads": 2}
SHORT: dict[str, Any] = {"steps": 4, "crop": (32, 32), "batch_size": 2, "precision": "fp32"}


def run(study: str, data: Path, output: Path, **changes: Any) -> Result:
    sides = None if TINY[study].measures in (None, "masks") else (24, 48)
    return ablate(TINY[study], data, output, overrides={**SHORT, **changes}, sides=sides, device="cpu")


def narrow(variant: Variant) -> Variant:
    """A SegFormer of one narrow block a stage, changed as the variant is."""
    if variant.model == "segformer_b0":
        return replace(variant, model=NARROW)
    assert isinstance(variant.model, ModelSpec)
    spec = variant.model.with_encoder(**SIZES)
    if spec.decoder.fields["embed_dim"] == 256:
        spec = spec.with_decoder(embed_dim=16)
    return replace(variant, model=replace(spec, name=variant.model.name))


def on(backbone: str, decoder: str) -> ModelSpec:
    return find_spec(decoder, TINY_BACKBONES[backbone])


TINY = {
    name: replace(study, variants=tuple(map(narrow, study.variants)))
    for name, study in STUDIES.items()
    if name not in ("decoders", "models")
}
TINY["models"] = replace(
    STUDIES["models"],
    variants=(
        Variant("segformer_b0", "SegFormer", NARROW),
        Variant("pvt", "PVT", on("pvt_v2", "all_mlp")),
        Variant("setr", "SETR", setr_spec("setr_mla_nano", NANO, "mla", (1, 2, 3, 4), (4,))),
        Variant("fcn", "FCN", on("resnet", "fcn_dilated")),
    ),
)


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    output = tmp_path_factory.mktemp("out") / "studies"
    return output, run("position", tiny_data, output)


def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every training's model is added from now on."""
    names: list[str] = []
    really = Trainer.run

    def noted(trainer: Trainer) -> None:
        names.append(trainer.recipe.model.name)
        really(trainer)

    monkeypatch.setattr(Trainer, "run", noted)
    return names


def test_the_result_has_every_network_and_size(finished: tuple[Path, Result]) -> None:
    _, result = finished
    assert [row.key for row in result.rows] == ["segformer_b0", "learned_positions", "no_positions"]
    for row in result.rows:
        assert row.steps == 4
        assert 0 <= row.mIoU <= 100 and set(row.curves["mIoU_by_side"]) == {24, 48}
        assert 0 <= row.curves["mIoU_in_windows"][48] <= 100
        # 48 is the size of the photos, at which training validates.
        assert row.curves["mIoU_by_side"][48] == pytest.approx(row.mIoU, abs=0.011)
    paper, learned, none = result.rows
    assert learned.parameters - none.parameters == 8 * 8 * 8 + 4 * 4 * 16 + 2 * 2 * 20 + 32
    assert paper.parameters - none.parameters == sum(4 * dim * 10 for dim in NARROW.encoder.fields["embed_dims"])


def test_the_files_say_the_same(finished: tuple[Path, Result]) -> None:
    output, result = finished
    page = (output / "position.md").read_text()
    assert page == result.markdown()
    assert page.count("| Mix-FFN (the paper's) |") == 3 and "tiles: 5 photos to learn from, 3 to validate on" in page
    assert "4 steps of 2 windows of 32 x 32 from random weights, once, with seed 0" in page
    document = json.loads((output / "position.json").read_text())
    assert [row["mIoU"] for row in document["rows"]] == [row.mIoU for row in result.rows]
    assert document["recipe"]["augment"][1]["size"] == [32, 32] and document["side"] == [48, 64]
    curve = result.rows[0].curves["mIoU_by_side"]
    assert document["rows"][0]["curves"]["mIoU_by_side"] == {str(side): value for side, value in curve.items()}
    with Image.open(output / "position.png") as picture:
        assert picture.format == "PNG" and picture.width > 800


def test_a_run_leaves_its_model_and_no_checkpoints(finished: tuple[Path, Result]) -> None:
    output, _ = finished
    paper, changed = output / "runs" / "segformer_b0", output / "runs" / "learned_positions"
    assert not (paper / "checkpoints").exists() and (paper / "recipe.yaml").exists()
    assert terrazzo.load(paper / "model").architecture == "segformer_b0"
    assert terrazzo.load(changed / "model").spec.encoder.fields["positions"]


@pytest.mark.slow
def test_a_network_of_a_study_is_used_like_any_other(finished: tuple[Path, Result], tmp_path: Path) -> None:
    """Loaded from its run folder by name, it predicts, is explained, and is exported."""
    pytest.importorskip("onnxruntime")
    folder = finished[0] / "runs" / "learned_positions"
    model, variant = terrazzo.load(folder), TINY["position"].variants[1]
    assert model.architecture == "segformer_b0 (learned positions, plain FFN)"
    assert model.spec == variant.model.adapted(3, image_size=(32, 32), drop_path_rate=0.0)
    assert Recipe.from_file(folder / "recipe.yaml").model.spec == variant.model
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    result = terrazzo.predict(image, model, engine="torch", probabilities=True)
    assert result.probabilities is not None and result.mask.shape == (48, 64)
    maps = terrazzo.attention_maps(image, model)
    assert [layer.weights_PNhw.sum((2, 3)) for layer in maps.layers] == [pytest.approx(1, abs=1e-4)] * 4
    exported = terrazzo.export(folder, tmp_path / "positions.onnx")
    again = terrazzo.predict(image, exported.path, probabilities=True)
    assert again.probabilities == pytest.approx(result.probabilities, abs=1e-4)


def test_nothing_is_trained_twice(
    finished: tuple[Path, Result], tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the same study nor by another one that compares with the same network."""
    output, result = finished
    names = trainings(monkeypatch)
    again = run("position", tiny_data, output)
    assert names == [] and again == result
    stages = run("width", tiny_data, output)
    assert names == ["segformer_b0 (C = 64)", "segformer_b0 (C = 768)"]
    assert stages.rows[0].mIoU == result.rows[0].mIoU


@pytest.mark.parametrize("flat_recipe", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_study_goes_on(
    flat_recipe: bool, finished: tuple[Path, Result], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two epochs of its second network, it ends with the same weights.

    Earlier versions named the network in the checkpoint's flat recipe, and did not say what it is.
    """
    whole, result = finished
    really = Trainer.save

    def stopping(trainer: Trainer) -> None:
        really(trainer)
        if trainer.state.step == 2 and "learned" in trainer.recipe.model.name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", stopping)
        run("position", tiny_data, tmp_path)
    assert (tmp_path / "runs" / "segformer_b0" / "report" / "report.json").exists()
    assert not (tmp_path / "runs" / "learned_positions" / "report").exists()
    assert not (tmp_path / "position.md").exists()
    with pytest.raises(TrainingError, match=r"segformer_b0 was trained with another run\.steps"):
        run("position", tiny_data, tmp_path, steps=6)
    shutil.move(tmp_path / "runs" / "segformer_b0", tmp_path / "aside")
    with pytest.raises(TrainingError, match=r"learned_positions was trained with another run\.steps"):
        ablate(TINY["position"].only(["learned_positions"]), tiny_data, tmp_path, overrides={**SHORT, "steps": 6})
    shutil.move(tmp_path / "aside", tmp_path / "runs" / "segformer_b0")
    if flat_recipe:
        state, _ = load_checkpoint(checkpoints := tmp_path / "runs" / "learned_positions" / "checkpoints")
        save_checkpoint(checkpoints, {**state, "recipe": flat(Recipe.from_dict(state["recipe"], "here"))})
    names = trainings(monkeypatch)
    again = run("position", tiny_data, tmp_path)
    assert names == ["segformer_b0 (learned positions, plain FFN)", "segformer_b0 (plain FFN, no positions)"]
    assert [row.curves for row in again.rows] == [row.curves for row in result.rows]
    weights = Path("runs", "learned_positions", "model", "model.safetensors")
    assert (tmp_path / weights).read_bytes() == (whole / weights).read_bytes()


def test_finished_networks_with_flat_recipes_are_found(
    finished: tuple[Path, Result], tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions wrote them, which name a network and do not say what it is."""
    output, result = finished
    path = output / "runs" / "no_positions" / "recipe.yaml"
    written = path.read_text()
    try:
        path.write_text(json.dumps(flat(Recipe.from_file(path))))
        names = trainings(monkeypatch)
        assert run("position", tiny_data, output) == result and names == []
    finally:
        path.write_text(written)


def test_some_networks_of_a_finished_study(
    finished: tuple[Path, Result], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    names = trainings(monkeypatch)
    keys = ("no_positions", "segformer_b0")
    some = ablate(
        TINY["position"], tiny_data, tmp_path / "out", overrides=SHORT, sides=(24, 48), only=keys, device="cpu"
    )
    assert names == [] and some.rows == (finished[1].rows[0], finished[1].rows[2])


def test_more_networks_than_colours_are_drawn(finished: tuple[Path, Result]) -> None:
    """Of a study of one's own with the sizes, all have a line and a pair of marks."""
    _, result = finished
    many = replace(result, rows=tuple(replace(result.rows[0], title=f"network {n}") for n in range(12)))
    with Image.open(io.BytesIO(study_png(many))) as picture, Image.open(io.BytesIO(study_png(result))) as few:
        assert picture.height > few.height


def test_other_settings_are_refused(finished: tuple[Path, Result], tiny_data: Path) -> None:
    output, _ = finished
    with pytest.raises(TrainingError, match=r"another run\.steps, run\.seed") as caught:
        run("position", tiny_data, output, steps=5, seed=1)
    assert caught.value.code == "ablation-settings"


def test_other_images_are_refused(finished: tuple[Path, Result], tiny_data: Path, tmp_path: Path) -> None:
    output, _ = finished
    other = tmp_path / "other"
    other.symlink_to(tiny_data)
    # A link is the same folder; a folder of another name is not.
    run("position", other, output)
    shutil.copytree(tiny_data, tmp_path / "copy")
    with pytest.raises(TrainingError, match=r"another folder \(give") as caught:
        run("position", tmp_path / "copy", output)
    assert caught.value.code == "ablation-settings"
    shutil.copytree(tiny_data, again := tmp_path / "again" / "tiles")
    (again / "labels.yaml").write_text("names: [dark, grey, white]\n")
    for kind in ("images", "masks"):
        (again / "val" / kind / "0.png").unlink()
    with pytest.raises(TrainingError, match=r"another number of photos, list of classes \(give"):
        run("position", again, output)
    (again / "labels.yaml").write_text("names: [dark, grey, bright]\nmap: {0: 0, 1: 1, 2: 2, 9: ignore}\n")
    with pytest.raises(TrainingError, match=r"another number of photos, set of mask values \(give"):
        run("position", again, output)


@pytest.mark.parametrize("content", ["{", "[]", '{"mIoU": "high"}'])
def test_a_damaged_result_is_named(content: str, finished: tuple[Path, Result], tiny_data: Path) -> None:
    output, _ = finished
    path = output / "runs" / "no_positions" / "report" / "report.json"
    good = path.read_bytes()
    try:
        path.write_text(content)
        with pytest.raises(TrainingError, match="no_positions") as caught:
            run("position", tiny_data, output)
        assert caught.value.code == "ablation-result"
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("study", "sides"), [("position", ()), ("position", (4,)), ("position", (10**20,)), ("stages", (180,))]
)
def test_sides_are_checked(study: str, sides: tuple[int, ...], tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ablate(study, tiny_data, tmp_path, sides=sides)
    assert caught.value.code == "ablation-sides"


def test_the_patches_are_drawn_side_by_side(tiny_data: Path, tmp_path: Path) -> None:
    """And photos are brought to the side that is asked for."""
    result = ablate(
        TINY["patches"], tiny_data, tmp_path, overrides={**SHORT, "steps": 1}, short_side=32, workers=0, device="cpu"
    )
    assert result.recipe.to_dict()["augment"][0]["box"] == [128, 32] and result.side == (32, 42)
    with Image.open(tmp_path / "patches_masks.png") as picture:
        assert picture.width > picture.height > 200


def test_the_command(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "1", "--batch-size", "2", "--crop", "32", "32", "--sides", "32", "64", "--device", "cpu"]
    main(["ablate", "reduction", "--data", str(tiny_data), "--output", str(tmp_path / "out"), *options])
    shown = capsys.readouterr().out
    assert "| 1, 1, 1, 1 (none) |" in shown and "reduction.md" in shown
    rows = json.loads((tmp_path / "out" / "reduction.json").read_text())["rows"]
    none, paper = (rows[place]["curves"]["attention_by_side"] for place in (2, 0))
    assert none["64"] == 16 * none["32"] and none["64"] > 20 * paper["64"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file()) == [
        "reduction.json",
        "reduction.md",
        "reduction.png",
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", "attention", "--data", str(tiny_data), "--output", str(tmp_path / "out")])
    assert "error[ablation-study]" in capsys.readouterr().err


def tiny_with(decoder: str) -> ModelSpec:
    """A network under a decoder, as small as they come."""
    if DECODERS[decoder].maps == "one_size":
        return TINY["models"].variants[2].model  # type: ignore[return-value]
    if DECODERS[decoder].maps == "dilated":
        return on("resnet", decoder).with_decoder(embed_dim=8)
    return replace(NARROW, decoder=Part(decoder, {"embed_dim": 8}), auxiliary=(), name=decoder)


@pytest.mark.parametrize(
    "decoder",
    [pytest.param(name, marks=() if name in ("all_mlp", "setr_mla") else pytest.mark.slow) for name in DECODERS],
)
def test_every_kind_of_network_of_a_study_is_used_like_any_other(decoder: str, tiny_data: Path, tmp_path: Path) -> None:
    """Under each decoder: trained, loaded by its run folder, explained, exported."""
    pytest.importorskip("onnxruntime")
    spec = tiny_with(decoder)
    if spec.encoder.name == "backbone":
        pytest.importorskip("transformers")
    study = Study("kinds", "Kinds", "A claim.", (Variant(decoder, decoder, spec),))
    result = ablate(study, tiny_data, tmp_path, overrides={**SHORT, "steps": 1}, device="cpu")
    folder = tmp_path / "runs" / decoder
    model = terrazzo.load(folder)
    assert (model.spec.title, model.spec.num_classes, result.rows[0].steps) == (spec.title, 3, 1)
    assert (model.spec.encoder.name, model.spec.decoder) == (spec.encoder.name, spec.decoder)
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    expected = terrazzo.predict(image, model, engine="torch", probabilities=True).probabilities
    blocks = 4 * (spec.encoder.name != "backbone") + ("attention" in decoder)  # a ResNet has no attention
    if blocks:
        assert len(terrazzo.attention_maps(image, model).layers) == blocks
    fields = terrazzo.receptive_fields([image], model, window=32).fields
    assert fields[-1].name == "decoder" and fields[-1].share_HW.sum() == pytest.approx(1, abs=1e-4)
    exported = terrazzo.export(folder, tmp_path / "kind.onnx")
    again = terrazzo.predict(image, exported.path, probabilities=True).probabilities
    assert again == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_models_of_all_kinds(tiny_data: Path, tmp_path: Path) -> None:
    """SegFormer, PVT v2, SETR and FCN: trained, timed and weighed, and their receptive fields side by side."""
    pytest.importorskip("transformers")
    result = ablate(
        TINY["models"], tiny_data, tmp_path, overrides={**SHORT, "steps": 1}, sides=(32, 64), workers=0, device="cpu"
    )
    for row in result.rows:
        operations, seconds, memory = row.curves.values()
        assert set(operations) == set(seconds) == set(memory) == {32, 64}
        assert operations[64] > operations[32]
        assert memory[64] > memory[32] > 0
    with Image.open(tmp_path / "models_receptive_fields.png") as picture:
        assert picture.width > picture.height > 200
    model = terrazzo.load(tmp_path / "runs" / "pvt" / "model")
    assert model.architecture == "all_mlp"


def test_a_network_is_trained_by_its_spec(tiny_data: Path, tmp_path: Path) -> None:
    """By `terrazzo.train` itself; the run's recipe holds the spec, and goes on with it."""
    spec = TINY["patches"].variants[1].model
    settings = {**SHORT, "steps": 1}
    run = terrazzo.train(tiny_data, tmp_path / "run", spec, overrides=settings, workers=0, device="cpu")
    assert run is not None and run.steps == 1
    recipe = Recipe.from_file(tmp_path / "run" / "recipe.yaml")
    assert recipe.model.spec == spec and recipe.model.name == "segformer_b0 (4 x 4, side by side)"
    assert terrazzo.load(run.model).spec.encoder.fields["patch_sizes"] == (4, 2, 2, 2)
    again = terrazzo.train(tiny_data, tmp_path / "run", spec, resume=True, workers=0, device="cpu")
    assert again is not None and again.report.metrics.mIoU == run.report.metrics.mIoU
    with pytest.raises(ConfigError, match="the recipe's is another"):
        terrazzo.train(tiny_data, tmp_path / "other", NARROW, recipe=recipe)
    with pytest.raises(ConfigError, match="since the spec has an encoder"):
        terrazzo.train(tiny_data, tmp_path / "other", NARROW, encoder="mit_b0")


def test_a_study_of_ones_own_compares_models_by_name(tiny_data: Path, tmp_path: Path) -> None:
    study = Study("own", "Mine", "A claim.", (Variant("fcn", "FCN on MiT", "mit_b0+fcn"),))
    result = ablate(study, tiny_data, tmp_path, overrides={**SHORT, "steps": 1}, device="cpu")
    assert [row.key for row in result.rows] == ["fcn"] and (tmp_path / "own.png").exists()
    assert terrazzo.load(tmp_path / "runs" / "fcn").spec.title == "mit_b0+fcn"
