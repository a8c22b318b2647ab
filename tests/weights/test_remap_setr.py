"""SETR's and ViT's key maps: complete, lossless, and with the levels the right way round."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from foreign_files import key_list, meta_network, save_checkpoint, state_in
from tables import with_rows
from terrazzo.errors import CheckpointError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import Segmenter, find_spec
from terrazzo.models import setr as setr_models
from terrazzo.models.encoders.vit import SIZES, resize_positions
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, load_folder, save_folder
from terrazzo.weights.load import load, load_starting_weights
from terrazzo.weights.recognize import recognize, shapes_of
from terrazzo.weights.remap import setr, vit
from terrazzo.weights.remap.layout import Layout

ADE = "setr_{}_L512_mmseg122_150cls"
CITYSCAPES = "setr_{}_L768_official_19cls"
SMALL_IMAGE = (64, 64)


@pytest.fixture(autouse=True)
def small_mmseg_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmsegmentation's networks exist as T-Large alone; their smallest kin serve to compute with."""
    rows = {}
    for decoder in ("naive", "pup", "mla"):
        tiny = setr_models.VARIANTS[f"setr_{decoder}_tiny"]
        large = setr_models.VARIANTS[f"setr_{decoder}_large_mmseg"]
        layers = tiny.encoder.fields["layers"]
        name = f"setr_{decoder}_tiny_mmseg"
        spec = setr_models.setr_spec(name, SIZES["vit_tiny"], decoder, layers, layers[: len(large.auxiliary)], True)  # type: ignore[arg-type]
        rows[name] = spec
    with_rows(monkeypatch, setr_models.VARIANTS, rows)


def random_setr(name: str, image_size: tuple[int, int] = SMALL_IMAGE) -> Segmenter:
    torch.manual_seed(0)
    model = create_model(setr_models.VARIANTS[name], 5, image_size=image_size).eval()
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if key.endswith("running_var") else value.normal_(std=0.1)
    return model


def equal(model: Segmenter, expected: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[key], value) for key, value in expected.items())


CASES = [
    (CITYSCAPES.format("naive"), setr.NAIVE, "setr_naive_large", 19, (48, 48)),
    (CITYSCAPES.format("pup"), setr.PUP, "setr_pup_large", 19, (48, 48)),
    (CITYSCAPES.format("mla"), setr.MLA, "setr_mla_large", 19, (48, 48)),
    (ADE.format("naive"), setr.MMSEG_NAIVE, "setr_naive_large_mmseg", 150, (32, 32)),
    (ADE.format("pup"), setr.MMSEG_PUP, "setr_pup_large_mmseg", 150, (32, 32)),
    (ADE.format("mla"), setr.MMSEG_MLA, "setr_mla_large_mmseg", 150, (32, 32)),
    ("vit_l384_timm032", vit.TIMM, "setr_pup_large", None, (24, 24)),
    ("vit_l384_hf4x_ondisk_classifier", vit.HF4, "setr_pup_large", None, (24, 24)),
    ("vit_l384_hf5x_inmemory", vit.HF5, "setr_pup_large", None, (24, 24)),
]


@pytest.mark.parametrize(("file", "layout", "architecture", "classes", "grid"), CASES, ids=[case[0] for case in CASES])
def test_every_key_and_shape_of_the_other_program_has_its_place(
    file: str, layout: Layout, architecture: str, classes: int | None, grid: tuple[int, int]
) -> None:
    theirs = {key: torch.empty(shape, device="meta") for key, shape in key_list(file).items()}
    if layout in (setr.NAIVE, setr.PUP, setr.MLA):
        unused = {key for key in theirs if "conv_seg" in key}
    else:
        encoder_ends = ("norm.", "head.", "vit.layernorm.", "layernorm.", "classifier.", "pooler.")
        unused = {key for key in theirs if key.startswith(encoder_ends)}
    used = {key.removeprefix("vit.") for key in theirs.keys() - unused}
    found = recognize(dict(theirs), file)
    size = (vit.PATCH * grid[0], vit.PATCH * grid[1])
    assert (found.layout, found.architecture, found.num_classes, found.spec.image_size) == (
        layout, architecture, classes, size,
    )  # fmt: skip
    expected = layout.their_shapes(shapes_of(found.empty_network().state_dict()))
    assert shapes_of(found.tensors) == expected
    made_up = {"backbone.patch_embed.projection.bias"} if "mmseg" in file else set()
    assert expected.keys() == used | made_up


BOTH_WAYS = [
    (setr.NAIVE, "setr_naive_tiny"), (setr.PUP, "setr_pup_tiny"), (setr.MLA, "setr_mla_tiny"),
    (setr.MMSEG_NAIVE, "setr_naive_tiny_mmseg"), (setr.MMSEG_PUP, "setr_pup_tiny_mmseg"),
    (setr.MMSEG_MLA, "setr_mla_tiny_mmseg"),
    (setr.OURS_NAIVE, "setr_naive_tiny"), (setr.OURS_PUP, "setr_pup_tiny"), (setr.OURS_MLA, "setr_mla_tiny"),
    (setr.OURS_NAIVE, "setr_naive_tiny_mmseg"), (setr.OURS_MLA, "setr_mla_tiny_mmseg"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "name"), BOTH_WAYS, ids=[f"{layout.name}: {name}" for layout, name in BOTH_WAYS])
def test_a_file_of_this_layout_loads_as_what_was_written(tmp_path: Path, layout: Layout, name: str) -> None:
    model = random_setr(name)
    expected = dict(model.state_dict())
    if "mmsegmentation" in layout.name:
        # It has no biases there, and works as if they were zero.
        expected |= {k: torch.zeros_like(v) for k, v in expected.items() if len(layout.theirs(k)) == 0}
    path = save_checkpoint(tmp_path / "x.pth", {f"module.{k}": v for k, v in state_in(layout, model).items()})
    loaded = load(path)
    assert loaded.architecture == name and equal(loaded.network, expected)
    assert not any(parameter.is_meta for parameter in [*loaded.network.parameters(), *loaded.network.buffers()])


def test_levels_of_mmsegmentations_mla_are_counted_from_the_deepest() -> None:
    state = random_setr("setr_mla_tiny_mmseg").state_dict()
    theirs = setr.MMSEG_MLA.to_theirs(state)
    for i in range(4):
        for ours, other in (
            (f"decoder.aggregation.norms.{i}.weight", f"neck.norm.{i}.weight"),
            (f"decoder.aggregation.projections.{i}.conv.weight", f"neck.mla.channel_proj.{i}.conv.weight"),
            (f"decoder.aggregation.outputs.{i}.conv.weight", f"neck.mla.feat_extract.{3 - i}.conv.weight"),
            (f"decoder.streams.{i}.1.conv.weight", f"decode_head.up_convs.{3 - i}.1.conv.weight"),
            (f"auxiliary.{i}.classifier.bias", f"auxiliary_head.{3 - i}.conv_seg.bias"),
        ):
            assert torch.equal(state[ours], theirs[other])
    ours, other = state["decoder.classifier.weight"], theirs["decode_head.conv_seg.weight"]
    for block in range(4):
        mine, yours = slice(128 * block, 128 * (block + 1)), slice(128 * (3 - block), 128 * (4 - block))
        assert torch.equal(ours[:, mine], other[:, yours])


def test_the_class_tokens_position_comes_first() -> None:
    state = random_setr("setr_pup_tiny").state_dict()
    positions = setr.PUP.to_theirs(state)["backbone.pos_embed"]
    assert positions.shape == (1, 17, 192)
    assert torch.equal(positions[:, :1], state["encoder.cls_pos_embed"])
    assert torch.equal(positions[:, 1:].view(1, 4, 4, 192), state["encoder.pos_embed"])


def test_positions_that_are_no_square_are_refused(tmp_path: Path) -> None:
    state = state_in(setr.PUP, random_setr("setr_pup_tiny"))
    state["backbone.pos_embed"] = torch.zeros(1, 16, 192)
    with pytest.raises(CheckpointError) as caught:
        load(save_checkpoint(tmp_path / "x.pth", state))
    assert caught.value.code == "checkpoint-positions"


def test_row_43_segformer_in_the_place_of_setr_is_named(tmp_path: Path) -> None:
    """A folder whose configuration claims one system and whose weights are the other's."""
    labels = LabelSpec.from_names(["a", "b", "c", "d", "e"])
    model = random_setr("setr_naive_tiny")
    save_folder(tmp_path / "x", TrainedModel("setr_naive_tiny", model, labels, Preprocess()))
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(
        json.dumps({**config, "model": find_spec("segformer_b0").adapted(5).to_dict()})
    )
    with pytest.raises(CheckpointError, match=r"is a setr_naive_tiny, and config\.json says segformer_b0"):
        load(tmp_path / "x")


@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_folder_of_ours_keeps_its_grid_and_its_auxiliary_heads(tmp_path: Path, auxiliary: bool) -> None:
    model = random_setr("setr_pup_tiny", (48, 80))
    if not auxiliary:
        model.drop_auxiliary()
    labels = LabelSpec.from_names(["a", "b", "c", "d", "e"])
    save_folder(tmp_path / "x", TrainedModel("setr_pup_tiny", model, labels, Preprocess()))
    loaded = load_folder(tmp_path / "x").network
    assert equal(loaded, model.state_dict())
    with torch.inference_mode():
        images = torch.randn(1, 3, 40, 60)
        assert torch.equal(loaded(images), model(images))


def test_files_without_auxiliary_heads_or_with_unusual_ones_load(tmp_path: Path) -> None:
    for layout, name, gone in (
        (setr.PUP, "setr_pup_tiny", "auxiliary_head."),
        (setr.MMSEG_NAIVE, "setr_naive_tiny_mmseg", ".up_convs.1.0."),
    ):
        state = state_in(layout, random_setr(name))
        state = {key: v for key, v in state.items() if not (key.startswith("auxiliary_head.") and gone in key)}
        said = (
            nullcontext()
            if layout is setr.PUP
            else pytest.warns(TerrazzoWarning, match=r"auxiliary heads \(30 tensors")
        )
        with said:
            loaded = load(save_checkpoint(tmp_path / "x.pth", state))
        assert len(loaded.network.auxiliary) == 0 and loaded.architecture == name


def test_a_missing_patch_bias_is_zero_in_mmsegmentations_files(tmp_path: Path) -> None:
    state = state_in(setr.MMSEG_PUP, random_setr("setr_pup_tiny_mmseg"))
    del state["backbone.patch_embed.projection.bias"]
    loaded = load(save_checkpoint(tmp_path / "x.pth", state)).network.state_dict()
    assert not loaded["encoder.patch_embed.proj.bias"].any()


# -- encoders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", vit.LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("distilled", [False, True], ids=["ViT", "DeiT"])
def test_an_encoder_to_start_from(tmp_path: Path, layout: Layout, distilled: bool) -> None:
    model = random_setr("setr_pup_tiny")
    state = state_in(layout, model)
    if distilled:
        hf = layout is not vit.TIMM
        positions = "embeddings.position_embeddings" if hf else "pos_embed"
        state[positions] = torch.cat([state[positions][:, :1], torch.ones(1, 1, 192), state[positions][:, 1:]], dim=1)
        state["embeddings.distillation_token" if hf else "dist_token"] = torch.ones(1, 1, 192)
    state |= {"norm.weight": torch.ones(192)} if layout is vit.TIMM else {"layernorm.weight": torch.ones(192)}
    if layout in (vit.DINOV2_HF4, vit.DINOV2_HF5):
        state |= {f"encoder.layer.{i}.layer_scale{j}.lambda1": torch.ones(192) for i in range(12) for j in (1, 2)}
    torch.save({"model": state}, tmp_path / "x.pth")
    start = load_starting_weights(tmp_path / "x.pth")
    expected = {key: value for key, value in model.state_dict().items() if key.startswith("encoder.")}
    assert start.tensors.keys() == expected.keys()
    assert all(torch.equal(start.tensors[key], value) for key, value in expected.items())


@pytest.mark.parametrize("wrong", [torch.ones(191), torch.ones(192, 1), torch.ones(())], ids=["short", "deep", "one"])
def test_a_layer_scale_of_another_shape_is_refused(tmp_path: Path, wrong: Tensor) -> None:
    state = state_in(vit.TIMM, random_setr("setr_pup_tiny"))
    torch.save({**state, "blocks.7.ls1.gamma": wrong}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(blocks\.7\.ls1\.gamma\)"):
        load_starting_weights(tmp_path / "x.pth")


def test_a_layer_scale_multiplies_the_rows_of_its_module() -> None:
    module = "blocks.0.attn.proj"
    tensors = {
        f"{module}.weight": torch.ones(2, 3),
        f"{module}.bias": torch.ones(2),
        "blocks.0.ls1.gamma": Tensor([2, 3]),
    }
    assert vit.TIMM.prepare is not None
    vit.TIMM.prepare(tensors)
    assert tensors.keys() == {f"{module}.weight", f"{module}.bias"}
    assert tensors[f"{module}.weight"].tolist() == [[2, 2, 2], [3, 3, 3]] and tensors[f"{module}.bias"].tolist() == [
        2,
        3,
    ]


def test_positions_are_resized_to_the_grid_that_is_trained(tmp_path: Path) -> None:
    save_file(state_in(vit.TIMM, random_setr("setr_mla_tiny")), tmp_path / "x.safetensors")
    start = load_starting_weights(tmp_path / "x.safetensors")
    network = create_model("setr_naive_tiny", 3, image_size=(96, 128))
    fitted = start.fitted_to(network)
    assert torch.equal(fitted["encoder.pos_embed"], resize_positions(start.tensors["encoder.pos_embed"], 6, 8))
    assert fitted.keys() == {key for key in network.state_dict() if key.startswith("encoder.")}


def test_meta_networks_have_no_memory_whatever_they_are() -> None:
    for name in ("segformer_b5", "setr_mla_large", "setr_pup_large_mmseg"):
        network = meta_network(name, 19, (30, 30))
        assert all(value.is_meta for value in network.state_dict().values())
