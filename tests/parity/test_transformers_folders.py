"""Folders of Hugging Face transformers, with random weights: the same logits in, the same logits out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from foreign_files import meta_network
from terrazzo.cli.main import main
from terrazzo.errors import CheckpointError
from terrazzo.models.segformer import VARIANTS
from terrazzo.weights.convert import convert
from terrazzo.weights.create import create_model
from terrazzo.weights.files import save_folder
from terrazzo.weights.load import load, load_starting_weights
from terrazzo.weights.recognize import load_network, shapes_of
from terrazzo.weights.remap.segformer import HF5

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[dev]'")

B0_TO_B5 = [name for name in VARIANTS if name.startswith("segformer_b") and VARIANTS[name].decoder.name == "all_mlp"]
PROCESSOR = {"do_resize": True, "size": {"height": 512, "width": 512}, "resample": 2, "do_reduce_labels": True}


def config_of(name: str) -> transformers.SegformerConfig:
    spec = VARIANTS[name]
    return transformers.SegformerConfig(
        depths=list(spec.encoder.fields["depths"]),
        hidden_sizes=list(spec.encoder.fields["embed_dims"]),
        decoder_hidden_size=spec.decoder.fields["embed_dim"],
        id2label={k: f"thing {k}" for k in range(7)},
        label2id={f"thing {k}": k for k in range(7)},
    )


@pytest.mark.parametrize(
    "name", [n if n == "segformer_b0" else pytest.param(n, marks=pytest.mark.slow) for n in B0_TO_B5]
)
@torch.no_grad()
def test_a_folder_to_ours_and_back_without_a_bit_lost(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.SegformerForSemanticSegmentation(config_of(name)).eval()
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5)
    theirs.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    images = torch.randn(1, 3, 97, 130)
    expected = theirs(images).logits
    assert expected.std() > 0.1

    model = load(tmp_path / "hf")
    assert model.architecture == name and model.labels.names[6] == "thing 6"
    assert (model.network(images) - expected).abs().max() < 1e-4

    convert(tmp_path / "hf", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", "hf")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    for file in ("config.json", "preprocessor_config.json"):
        first, second = (json.loads((tmp_path / name / file).read_text()) for name in ("hf", "back"))
        second.pop("terrazzo", None)
        assert first == second
    again = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back").eval()
    assert torch.equal(again(images).logits, expected)


@pytest.mark.parametrize("names_of", [4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_command_there_and_back(
    names_of: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With class names that are spelled as ours are not: twice the same, and a blank at the end."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = config_of("segformer_b0")
    spelled = [f"thing {k}" for k in range(5)] + ["door ", "thing 0"]
    config.id2label, config.label2id = dict(enumerate(spelled)), {name: k for k, name in enumerate(spelled)}
    theirs = transformers.SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        for value in theirs.state_dict().values():
            value.uniform_(0.1, 1.0) if value.is_floating_point() else value.fill_(7)
    theirs.to(dtype).save_pretrained("hf", save_original_format=names_of == 4)
    Path("hf/preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    stored = load_file("hf/model.safetensors")
    assert ("segformer.encoder.block.0.0.mlp.dense1.weight" in stored) == (names_of == 4)

    main(["convert", "hf", "ours"])
    main(["convert", "ours", "back", "--to", "hf"])

    back = load_file("back/model.safetensors")
    if names_of == 4:
        assert back.keys() == stored.keys()
        assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in stored.items())
    read, again = (
        transformers.SegformerForSemanticSegmentation.from_pretrained(folder).state_dict() for folder in ("hf", "back")
    )
    assert read.keys() == again.keys() and read["decode_head.batch_norm.num_batches_tracked"] == 7
    assert all(again[key].dtype == value.dtype and torch.equal(again[key], value) for key, value in read.items())
    for file in ("config.json", "preprocessor_config.json"):
        first, second = (json.loads((tmp_path / folder / file).read_text()) for folder in ("hf", "back"))
        second.pop("terrazzo", None)
        assert first == second


def test_half_precision_is_given_up_where_it_would_lose_something(tmp_path: Path) -> None:
    transformers.SegformerForSemanticSegmentation(config_of("segformer_b0")).half().save_pretrained(tmp_path / "hf")
    model = load(tmp_path / "hf")
    with torch.no_grad():
        model.network.decoder.classifier.bias += 1e-5
    save_folder(tmp_path / "ours", model)
    convert(tmp_path / "ours", tmp_path / "back", "hf")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == "float32"
    again = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back")
    assert torch.equal(again.decode_head.classifier.bias, model.network.decoder.classifier.bias)


@pytest.mark.parametrize("name", B0_TO_B5)
def test_every_size_has_the_tensors_that_transformers_has(name: str) -> None:
    with torch.device("meta"):
        theirs = transformers.SegformerForSemanticSegmentation(config_of(name))
    assert HF5.their_shapes(shapes_of(meta_network(name, 7).state_dict())) == shapes_of(theirs.state_dict())


@torch.no_grad()
def test_our_own_model_in_transformers(tmp_path: Path) -> None:
    convert("segformer_b0.camvid", tmp_path / "hf", "hf")
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "hf").eval()
    ours = load("segformer_b0.camvid")
    images = torch.randn(1, 3, 64, 96)
    assert (theirs(images).logits - ours.network(images)).abs().max() < 1e-4
    assert theirs.config.id2label[0] == "Sky"


@torch.no_grad()
def test_a_vit_of_transformers_under_setr(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, image_size=64, layer_norm_eps=1e-6
    )
    theirs = transformers.ViTModel(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.05)
    theirs.save_pretrained(tmp_path / "vit")
    start = load_starting_weights(tmp_path / "vit")
    assert start.architecture == "setr_pup_tiny" and "ViT encoder" in start.what
    network = create_model("setr_pup_tiny", 5, image_size=(64, 64))
    network = load_network(network, {**network.state_dict(), **start.fitted_to(network)})
    images = torch.randn(2, 3, 64, 64)
    expected = theirs(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    features = network.encoder(images)[-1].flatten(2).transpose(1, 2)
    assert expected.std() > 0.1 and (features - expected).abs().max() < 1e-4


def enlarged_by_patches(images_B3HW: Tensor, patch: int) -> Tensor:
    """Make every patch one of 16 x 16, bilinearly and by itself."""
    B, _, H, W = images_B3HW.shape
    h, w = H // patch, W // patch
    cut = images_B3HW.view(B, 3, h, patch, w, patch).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, patch, patch)
    large = F.interpolate(cut, (16, 16), mode="bilinear", align_corners=False)
    return large.view(B, h, w, 3, 16, 16).permute(0, 3, 1, 4, 2, 5).reshape(B, 3, 16 * h, 16 * w)


@torch.no_grad()
@pytest.mark.parametrize("form", ["transformers 4", "transformers 5", "classifier", "timm"])
def test_a_dinov2_under_setr(form: str, tmp_path: Path) -> None:
    """Its layer scale goes into the matrices, its patches of 14 become such of 16."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=192, num_attention_heads=3, num_hidden_layers=12, patch_size=14, image_size=56
    )
    kind = transformers.Dinov2ForImageClassification if form == "classifier" else transformers.Dinov2Model
    theirs = kind(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.05)
    base = theirs.dinov2 if form == "classifier" else theirs
    for name, parameter in base.named_parameters():
        if "lambda1" in name:
            parameter.uniform_(0.5, 1.5)
    theirs.save_pretrained(tmp_path / "dino", save_original_format=form != "transformers 5")
    path = tmp_path / "dino"
    if form == "timm":
        path = tmp_path / "dinov2_vitt14_pretrain.pth"
        torch.save(dinov2_as_published(load_file(tmp_path / "dino" / "model.safetensors")), path)

    start = load_starting_weights(path)
    assert start.architecture == "setr_pup_tiny" and not [key for key in start.tensors if "scale" in key]
    network = create_model("setr_pup_tiny", 5, image_size=(64, 64))
    network = load_network(network, {**network.state_dict(), **start.fitted_to(network)})
    images = torch.randn(2, 3, 56, 56)
    expected = base(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    features = network.encoder(enlarged_by_patches(images, 14))[-1].flatten(2).transpose(1, 2)
    assert expected.std() > 0.1 and (features - expected).abs().max() < 1e-4


def dinov2_as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a DINOv2 of transformers to the names of its authors, which timm has too."""
    names = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.": "",
        "encoder.layer.": "blocks.",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm.": "norm.",
    }
    theirs = {}
    for key, value in state.items():
        if ".attention.attention." in key:
            continue
        for old, new in names.items():
            key = key.replace(old, new)
        theirs[key] = value
    for number in range(12):
        for leaf in ("weight", "bias"):
            parts = (f"encoder.layer.{number}.attention.attention.{part}.{leaf}" for part in ("query", "key", "value"))
            theirs[f"blocks.{number}.attn.qkv.{leaf}"] = torch.cat([state[part] for part in parts])
    return theirs


def test_registers_have_no_place_in_setrs_encoder(tmp_path: Path) -> None:
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=192, num_attention_heads=3, num_hidden_layers=12, patch_size=14, image_size=56
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path / "dino")
    with pytest.raises(CheckpointError, match="a ViT with register tokens"):
        load_starting_weights(tmp_path / "dino")
