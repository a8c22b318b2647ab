"""SegFormer and SETR as other libraries keep them, and other networks, which are called by their names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from foreign_files import NAMES, NANO_MIT, meta_network, random_model, state_in
from terrazzo.errors import CheckpointError
from terrazzo.notes import TerrazzoWarning
from terrazzo.weights.create import create_model
from terrazzo.weights.load import load, load_starting_weights
from terrazzo.weights.origin import licence_of
from terrazzo.weights.recognize import recognize, shapes_of
from terrazzo.weights.remap.segformer import HF4, HF4_MIT, HF5, HF5_MIT, MMSEG_MIT, SMP
from terrazzo.weights.remap.vit import TIMM

pytestmark = pytest.mark.usefixtures("nano_sizes_are_known")


# -- segmentation_models.pytorch --------------------------------------------------------------------------------------


class SMPDecoder(nn.Module):
    """What its SegFormer computes of the encoder's maps, under its names: the deepest level comes first."""

    def __init__(self, channels: tuple[int, ...], width: int, num_classes: int) -> None:
        super().__init__()
        stages = [nn.ModuleDict({"linear": nn.Linear(channel, width)}) for channel in channels[::-1]]
        fuse = nn.Sequential(nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.decoder = nn.ModuleDict({"mlp_stage": nn.ModuleList(stages), "fuse_stage": fuse})
        self.segmentation_head = nn.Sequential(nn.Conv2d(width, num_classes, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = []
        for x_BCHW, stage in zip(maps[::-1], self.decoder["mlp_stage"], strict=True):
            y_BHWC = stage["linear"](x_BCHW.permute(0, 2, 3, 1))
            levels.append(F.interpolate(y_BHWC.permute(0, 3, 1, 2), maps[0].shape[2:], mode="bilinear"))
        logits: Tensor = self.segmentation_head(self.decoder["fuse_stage"](torch.cat(levels, dim=1)))
        return logits


@pytest.fixture(scope="module")
def smp_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    decoder = SMPDecoder(NANO_MIT["embed_dims"], 32, 5)
    for value in decoder.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.0)
    encoder = {key: value for key, value in state_in(SMP, random_model("segformer_nano")).items() if "encoder" in key}
    return encoder | decoder.state_dict()


def smp_logits(state: dict[str, Tensor], maps: list[Tensor]) -> Tensor:
    decoder = SMPDecoder(NANO_MIT["embed_dims"], 32, 5).eval()
    decoder.load_state_dict({key: value for key, value in state.items() if not key.startswith("encoder.")})
    return decoder(maps)


def test_smps_segformer_computes_the_same_logits(tmp_path: Path, smp_state: dict[str, Tensor]) -> None:
    torch.save(smp_state, tmp_path / "best.pth")
    with pytest.warns(TerrazzoWarning, match="aligned corners"):
        model = load(tmp_path / "best.pth")
    assert model.architecture == "segformer_nano" and model.record["format"] == SMP.name
    with torch.inference_mode():
        images = torch.randn(1, 3, 64, 96)
        maps = model.network.encoder(images)
        expected = random_model("segformer_nano").encoder(images)
        assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
        torch.testing.assert_close(model.network(images), smp_logits(smp_state, maps), rtol=1e-5, atol=1e-5)


def test_smps_folder(tmp_path: Path, smp_state: dict[str, Tensor]) -> None:
    (tmp_path / "x").mkdir()
    save_file(smp_state, tmp_path / "x" / "model.safetensors")
    config = {"_model_class": "Segformer", "encoder_name": "mit_b0", "classes": 5, "decoder_segmentation_channels": 32}
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    with pytest.warns(TerrazzoWarning, match="aligned corners"):
        assert load(tmp_path / "x").labels.num_classes == 5
    with pytest.warns(TerrazzoWarning, match="aligned corners"):
        assert load(tmp_path / "x" / "model.safetensors").architecture == "segformer_nano"


@pytest.mark.parametrize("size", range(6))
def test_smps_sizes_have_a_decoder_of_256_channels(size: int) -> None:
    name = f"segformer_b{size}" + "_256" * (size > 1)
    shapes = SMP.their_shapes(shapes_of(meta_network(name, 7).state_dict()))
    assert shapes["decoder.fuse_stage.0.weight"] == (256, 1024, 1, 1)
    with pytest.warns(TerrazzoWarning, match="aligned corners"):
        found = recognize({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, "x")
    assert (found.architecture, found.num_classes) == (name, 7)


def test_smps_segformer_on_another_encoder(tmp_path: Path, smp_state: dict[str, Tensor]) -> None:
    state = {key: value for key, value in smp_state.items() if not key.startswith("encoder.")}
    torch.save(state | {"encoder.layer1.0.conv1.weight": torch.ones(3)}, tmp_path / "x.pth")
    with (
        pytest.raises(CheckpointError, match="but with an encoder that is not MiT") as caught,
        pytest.warns(TerrazzoWarning, match="aligned corners"),
    ):
        load(tmp_path / "x.pth")
    assert caught.value.code == "checkpoint-variant"


# -- LoRA -------------------------------------------------------------------------------------------------------------

TARGETS = ("attention.self.query", "attention.self.value", "output.dense")


def base_folder(folder: Path, layout: Any = HF4, names: list[str] = NAMES) -> Path:
    folder.mkdir()
    state = state_in(layout, random_model("segformer_nano"))
    if layout in (HF4_MIT, HF5_MIT):
        state = {f"segformer.{key}": value for key, value in state.items()} | {"classifier.weight": torch.ones(3, 64)}
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "segformer", "id2label": {str(k): name for k, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return folder


def adapter_folder(folder: Path, base: object, **config: Any) -> tuple[Path, dict[str, Tensor]]:
    """An adapter as PEFT saves it, and what it must make of the weights, under transformers 4 names."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": str(base), **config}
    scale = settings["lora_alpha"] / (math.sqrt(2) if settings.get("use_rslora") else 2)
    adapter, merged = {}, state_in(HF4, random_model("segformer_nano"))
    for key in [key for key in merged if key.endswith("weight") and any(target in key for target in TARGETS)]:
        rows, columns = merged[key].shape
        a, b = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
        module = f"base_model.model.{key.removesuffix('.weight')}"
        adapter |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        merged[key] = merged[key] + scale * (b @ a)
    for key in [key for key in merged if key.startswith("decode_head.")]:
        whole = torch.randn(3, *merged[key].shape[1:], generator=generator) if "classifier" in key else merged[key]
        merged[key] = whole if whole.dtype == torch.int64 or "var" in key else whole + 1
        part, rest = key.split(".", 1)
        adapter[f"base_model.model.{part}.modules_to_save.default.{rest}"] = merged[key].clone()
    save_file({key: value.contiguous() for key, value in adapter.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder, merged


@pytest.mark.parametrize("base", [HF4, HF5, HF4_MIT, HF5_MIT], ids=lambda layout: layout.name)
@pytest.mark.parametrize("config", [{}, {"use_rslora": True, "lora_alpha": 4}], ids=["", "rslora"])
def test_an_adapter_is_merged_into_its_base(tmp_path: Path, base: Any, config: dict[str, Any]) -> None:
    folder, merged = adapter_folder(tmp_path / "adapter", base_folder(tmp_path / "base", base), **config)
    with pytest.warns(TerrazzoWarning, match="tells 3 classes apart and names none"):
        model = load(folder)
    expected = HF4.to_ours(merged, shapes_of(model.network.state_dict()))
    state = model.network.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, msg=key)
    assert model.labels.num_classes == 3 and model.record["adapter of"] == str(tmp_path / "base")
    assert model.record["licence"] == "cc-by-nc-4.0"


def test_an_adapter_that_keeps_the_classes_has_their_names(tmp_path: Path) -> None:
    folder, _ = adapter_folder(tmp_path / "adapter", base_folder(tmp_path / "base", names=["a", "b", "c"]))
    assert load(folder).labels.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"base_model_name_or_path": "/nowhere/at/all"}, "is an adapter to '/nowhere/at/all', which is not here"),
        ({"base_model_name_or_path": None}, "is an adapter to None, which is not here"),
        ({"peft_type": "IA3"}, "an adapter of the kind IA3"),
        ({"use_dora": True}, "with use_dora"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"init_lora_weights": "pissa_niter_16"}, "with init_lora_weights pissa_niter_16"),  # it changes the base too
        ({"init_lora_weights": "olora"}, "with init_lora_weights olora"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "alpha_pattern has the expression '(a+)+b'"),
    ],
)
def test_an_adapter_that_cannot_be_merged_says_how_to(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    base = base_folder(tmp_path / "base")
    folder, _ = adapter_folder(tmp_path / "adapter", base)
    document = json.loads((folder / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert says in caught.value.message and caught.value.code == "checkpoint-adapter"
    assert "merge_and_unload" in caught.value.fix or "correct it" in caught.value.fix


def test_an_adapter_asks_for_the_revision_of_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_folder(tmp_path / "base", names=["a", "b", "c"])
    folder, _ = adapter_folder(tmp_path / "adapter", "owner/name", revision="v2")
    asked: list[str] = []
    monkeypatch.setattr("terrazzo.weights.load.download", lambda name: asked.append(name) or base)
    load(folder)
    assert asked == ["owner/name@v2"]


def test_an_adapter_s_own_licence_and_that_of_its_base(tmp_path: Path) -> None:
    folder, _ = adapter_folder(tmp_path / "adapter", base_folder(tmp_path / "base", names=["a", "b", "c"]))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    licence = licence_of(load(folder).record)
    assert licence == f"mit; {tmp_path / 'base'}, which it started from: cc-by-nc-4.0"


def test_an_adapter_for_another_model(tmp_path: Path) -> None:
    folder, _ = adapter_folder(tmp_path / "adapter", base_folder(tmp_path / "base"))
    odd = {f"base_model.model.vit.layer.0.query.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    save_file(odd, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"changes vit\.layer\.0\.query, which its base .* does not have"):
        load(folder)


def test_an_adapters_file_alone(tmp_path: Path) -> None:
    folder, _ = adapter_folder(tmp_path / "adapter", base_folder(tmp_path / "base"))
    (folder / "adapter_model.safetensors").rename(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is a LoRA adapter") as caught:
        load(tmp_path / "x.safetensors")
    assert "adapter_config.json" in caught.value.fix


def test_a_folder_into_which_an_adapter_was_merged(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "merged")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert load(folder).labels.names == tuple(NAMES)


# -- other forms ------------------------------------------------------------------------------------------------------


def test_a_folder_of_weights_without_a_configuration(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "x")
    (folder / "config.json").unlink()
    assert load(folder).architecture == "segformer_nano"


def test_a_distributed_checkpoint_says_how_to_put_it_together(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError, match="a distributed checkpoint of PyTorch") as caught:
        load(tmp_path)
    assert f"dcp_to_torch {tmp_path} model.pth" in caught.value.fix


def test_jaxs_weights_are_called_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="an archive of numpy arrays, as JAX programs write"):
        load(tmp_path / "x.npz")


def test_batch_norms_counter_may_be_missing(tmp_path: Path) -> None:
    state = state_in(HF4, random_model("segformer_nano"))
    save_file({key: value for key, value in state.items() if "tracked" not in key}, tmp_path / "x.safetensors")
    assert load(tmp_path / "x.safetensors").network.decoder.norm.num_batches_tracked == 0


def test_an_encoder_of_mmpretrain_keeps_its_classifier_out(tmp_path: Path) -> None:
    state = state_in(MMSEG_MIT, random_model("segformer_nano_mmseg"))
    state = {f"backbone.{key}": value for key, value in state.items()} | {"head.fc.weight": torch.ones(3, 64)}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    assert load_starting_weights(tmp_path / "x.pth").architecture.startswith("segformer_nano")


# -- other networks ---------------------------------------------------------------------------------------------------

VIT = ["blocks.0.attn.qkv.weight", "blocks.0.norm1.weight", "patch_embed.proj.weight"]
FOREIGN = {
    "BEiT": [*VIT, "blocks.0.gamma_1", "blocks.0.attn.relative_position_bias_table", "fc_norm.weight"],
    "BEiT or Swin": ["layers.0.blocks.0.attn.relative_position_bias_table", "layers.0.blocks.0.attn.qkv.weight"],
    "Swin": ["encoder.layers.0.blocks.0.attention.self.continuous_position_bias_mlp.0.weight"],
    "SAM": [*(f"image_encoder.{name}" for name in VIT), "prompt_encoder.not_a_point_embed.weight",
            "mask_decoder.transformer.layers.0.norm1.weight"],
    "Segmenter": [*(f"encoder.{name}" for name in VIT), "decoder.cls_emb", "decoder.mask_norm.weight"],
    "Mask2Former": ["backbone.patch_embed.proj.weight", "sem_seg_head.predictor.query_feat.weight"],
    "EoMT": ["embeddings.cls_token", "class_predictor.weight"],
    "a U-Net": ["inc.double_conv.0.weight", "down1.maxpool_conv.1.double_conv.0.weight", "outc.conv.weight"],
    "segmentation_models.pytorch": ["encoder.conv1.weight", "decoder.blocks.0.conv1.0.weight",
                                    "segmentation_head.0.weight"],
    "DeepLab": ["backbone.conv1.weight", "classifier.0.convs.0.0.weight", "classifier.4.weight"],
    "UPerNet": ["backbone.patch_embed1.proj.weight", "decode_head.psp_modules.0.1.conv.weight"],
    "SegNeXt": ["backbone.patch_embed1.proj.0.weight", "decode_head.hamburger.ham_in.conv.weight"],
    "OCRNet": ["backbone.stage2.0.branches.0.0.conv1.weight", "decode_head.object_context_block.bottleneck.weight"],
    "HRNet": ["backbone.stage2.0.branches.0.0.conv1.weight"],
    "DINO": ["mlp.0.weight", "last_layer.weight_g", "last_layer.weight_v"],
    "CLIP": ["visual.transformer.resblocks.0.attn.in_proj_weight", "text_projection", "logit_scale"],
    "SigLIP": ["vision_model.embeddings.patch_embedding.weight", "text_model.final_layer_norm.weight"],
    "YOLO": ["model.0.conv.weight", "model.22.dfl.conv.weight"],
    "DPT": ["dpt.embeddings.cls_token", "neck.reassemble_stage.layers.0.projection.weight"],
    "DETR": ["model.backbone.conv1.weight", "bbox_predictor.layers.0.weight"],
    "R-CNN": ["backbone.fpn.inner_blocks.0.0.weight", "roi_heads.box_head.fc6.weight"],
    "register tokens": [*VIT, "reg_token"],
    "a shard of FSDP": ["_fsdp_wrapped_module._flat_param"],
    "a ResNet": ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"],
    "ConvNeXt": ["downsample_layers.0.0.weight", "stages.0.0.gamma"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "keys"), FOREIGN.items(), ids=FOREIGN)
def test_another_network_is_called_by_its_name(tmp_path: Path, name: str, keys: list[str]) -> None:
    torch.save({"state_dict": dict.fromkeys(keys, torch.ones(8, 8))}, tmp_path / "x.pth")
    for read in (load, load_starting_weights):
        with pytest.raises(CheckpointError, match=f"is .*{name}.*not among the networks that are read here") as caught:
            read(tmp_path / "x.pth")
        assert caught.value.code == "checkpoint-unknown"
        assert ("full_state_dict" if "FSDP" in name else "--encoder hf:") in caught.value.fix


def test_an_encoder_under_a_decoder_that_nobody_knows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = state_in(TIMM, create_model("setr_pup_tiny", 5, image_size=(64, 64)))
    state = {f"backbone.{key}": value for key, value in state.items()} | {"my_decoder.0.weight": torch.ones(3)}
    torch.save(state, tmp_path / "x.pth")
    for read in (load, load_starting_weights):
        with pytest.raises(CheckpointError, match=r"with parts of a network .* \(my_decoder\.0\.weight\)"):
            read(tmp_path / "x.pth")


def test_names_of_any_length_take_no_time_and_little_room(tmp_path: Path) -> None:
    odd = "\x1b[2J" + "a." * 200_000
    torch.save({**state_in(HF4, random_model("segformer_nano")), odd: torch.ones(1)}, tmp_path / "x.pth")
    for content in (
        {odd: torch.ones(1)},
        {odd: 3, "a": torch.ones(1)},
        {odd: Stranger()},
        {"model": {odd: Stranger()}},
    ):
        torch.save(content, tmp_path / "y.pth")
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / "y.pth")
        assert len(str(caught.value)) < 2000 and "\x1b" not in str(caught.value)
    with pytest.raises(CheckpointError, match="1 unexpected") as caught:
        load(tmp_path / "x.pth")
    assert len(str(caught.value)) < 2000 and "\x1b" not in str(caught.value)


class Stranger(nn.Module):
    """A model that is pickled whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a checkpoint"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_whole_pickled_model_is_refused_with_what_to_do(tmp_path: Path, older: bool, wrapped: bool) -> None:
    content = {"epoch": 3, "model": Stranger(), "ema": None} if wrapped else Stranger()
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not older)
    with pytest.raises(CheckpointError, match=r"a whole pickled model, an object of the class .*Stranger") as caught:
        load(tmp_path / "x.pt")
    assert caught.value.code == "checkpoint-pickle" and "torch.save(model.state_dict(), path)" in caught.value.fix


def test_a_pickled_module_beside_the_weights_is_no_hindrance(tmp_path: Path) -> None:
    torch.save({"criterion": Stranger(), "model": state_in(HF4, random_model("segformer_nano"))}, tmp_path / "x.pt")
    assert load(tmp_path / "x.pt").architecture == "segformer_nano"
