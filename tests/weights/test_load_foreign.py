"""`load` on other programs' files and folders: the same numbers, with labels, preprocessing, licence and origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from foreign_files import NAMES, random_model, save_checkpoint, state_in
from terrazzo.errors import CheckpointError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.convert import convert
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import load, load_starting_weights
from terrazzo.weights.remap.segformer import HF4, HF4_MIT, HF5, MIT, MMSEG, NVLABS
from terrazzo.weights.tensor_files import read_tensor_file

SQUASH = {"do_resize": True, "size": 512, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def equal(model: TrainedModel, architecture: str = "segformer_b0") -> bool:
    expected, state = random_model(architecture).state_dict(), model.network.state_dict()
    return expected.keys() == state.keys() and all(torch.equal(state[key], value) for key, value in expected.items())


def huggingface_folder(folder: Path, layout: Any = HF4, processor: Any = None, **config: Any) -> Path:
    folder.mkdir()
    save_file(state_in(layout), folder / "model.safetensors", metadata={"format": "pt"})
    document = {"model_type": "segformer", "id2label": {str(k): name for k, name in enumerate(NAMES)}, **config}
    (folder / "config.json").write_text(json.dumps(document))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


# -- .pth -------------------------------------------------------------------------------------------------------------


def test_an_nvlabs_checkpoint_with_its_classes_and_its_unused_head(tmp_path: Path) -> None:
    state = state_in(NVLABS)
    state |= {"decode_head.conv_seg.weight": torch.randn(5, 128, 1, 1), "decode_head.conv_seg.bias": torch.randn(5)}
    palette = [[k, 2 * k, 3 * k] for k in range(5)]
    path = save_checkpoint(tmp_path / "segformer.pth", state, CLASSES=tuple(NAMES), PALETTE=palette)
    model = load(path)
    assert equal(model) and model.architecture == "segformer_b0"
    assert model.labels.names == tuple(NAMES) and model.labels.palette[2] == (2, 4, 6)
    assert model.preprocess == Preprocess() and not model.network.training
    assert model.record["format"] == "NVlabs SegFormer" and "non-commercial" in model.record["licence"]
    assert model.record["origin"] == model.name == str(path)


def test_mmsegmentations_segformer_is_a_model_of_its_own(tmp_path: Path) -> None:
    state = state_in(MMSEG, random_model("segformer_b0_mmseg"))
    model = load(
        save_checkpoint(tmp_path / "x.pth", state, dataset_meta={"classes": NAMES, "palette": [[9, 9, 9]] * 5})
    )
    assert model.architecture == "segformer_b0_mmseg" and equal(model, "segformer_b0_mmseg")
    assert model.labels.names == tuple(NAMES) and model.labels.palette[4] == (9, 9, 9)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.module."])
def test_row_44_prefixes_and_wrappers_are_taken_off(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in state_in(HF4).items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state}, path)
    assert equal(load(path))


def test_row_44_no_key_that_is_known_is_an_error(tmp_path: Path) -> None:
    torch.save({f"stranger.{key}.x": value for key, value in state_in(NVLABS).items()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"not a model that is known here.*stranger\.backbone") as caught:
        load(tmp_path / "x.pth")
    assert caught.value.code == "checkpoint-unknown" and "NVlabs SegFormer" in caught.value.fix


def test_row_44_a_key_without_the_others_prefix_is_left_over_and_an_error(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in state_in(NVLABS).items()}
    state["ema_decode_head.linear_pred.bias"] = torch.zeros(5)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(ema_decode_head\.linear_pred\.bias\)"):
        load(tmp_path / "x.pth")


def test_old_pickled_files_are_read_too(tmp_path: Path) -> None:
    torch.save(state_in(NVLABS), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert equal(load(tmp_path / "x.pth"))


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    save_file({key: value.half() for key, value in state_in(HF5).items()}, tmp_path / "x.safetensors")
    model = load(tmp_path / "x.safetensors")
    assert {value.dtype for value in model.network.parameters()} == {torch.float32}
    assert model.record["labels from"] == "numbered, for the file names none" and model.labels.names[0] == "class 0"


def test_a_bare_file_of_ours(tmp_path: Path) -> None:
    save_file(random_model().state_dict(), tmp_path / "x.safetensors")
    model = load(tmp_path / "x.safetensors")
    assert equal(model) and model.record["format"] == "Terrazzo SegFormer"


def test_a_weights_file_in_its_folder_brings_the_folder_along(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "hf")
    assert load(folder / "model.safetensors").labels.names == tuple(NAMES)
    convert(folder, tmp_path / "ours")
    assert load(tmp_path / "ours" / "model.safetensors").labels.names == tuple(NAMES)


# -- labels and preprocessing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "known", "preprocess"),
    [(150, "ade20k", Preprocess(512, 2048, 32)), (19, "cityscapes", Preprocess())],
)
def test_the_papers_data_sets_are_known_by_their_number_of_classes(
    tmp_path: Path, count: int, known: str, preprocess: Preprocess
) -> None:
    path = save_checkpoint(tmp_path / "x.pth", state_in(NVLABS, random_model(num_classes=count)))
    model = load(path)
    assert model.labels == LabelSpec.bundled(known) and model.preprocess == preprocess
    assert known in model.record["labels from"]


def test_names_of_a_known_list_bring_its_palette_and_map_along(tmp_path: Path) -> None:
    ade = LabelSpec.bundled("ade20k")
    names = {str(k): f"{name} " for k, name in enumerate(ade.names)}
    folder = huggingface_folder(tmp_path / "hf", id2label=names)
    save_file(state_in(HF4, random_model(num_classes=150)), folder / "model.safetensors")
    assert load(folder).labels == ade


@pytest.mark.parametrize("count", [60, 59])
def test_pascal_contexts_old_order_of_names_is_put_right(tmp_path: Path, count: int) -> None:
    context = LabelSpec.bundled("pascal_context" if count == 60 else "pascal_context_59")
    first = ["table" if name == "diningtable" else name for name in LabelSpec.bundled("voc").names[60 - count :]]
    names = [*first, *(name for name in context.names if name not in first)]
    weights = state_in(NVLABS, random_model(num_classes=count))
    assert load(save_checkpoint(tmp_path / "old.pth", weights, CLASSES=names)).labels == context
    own_order = context.names[::-1]  # somebody's own, whose masks count so
    assert load(save_checkpoint(tmp_path / "own.pth", weights, CLASSES=own_order)).labels.names == own_order


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({**SQUASH}, Preprocess(size=(512, 512), antialias=True)),
        ({**SQUASH, "size": {"height": 300, "width": 400}}, Preprocess(size=(300, 400), antialias=True)),
        ({**SQUASH, "size": [300, 400]}, Preprocess(size=(300, 400), antialias=True)),
        ({**SQUASH, "size": {"shortest_edge": 640}}, Preprocess(short_side=640, antialias=True, rounding="down")),
        ({**SQUASH, "size": 640, "default_to_square": False},
         Preprocess(short_side=640, antialias=True, rounding="down")),
        ({**SQUASH, "size": {"shortest_edge": 512, "longest_edge": 2048}},
         Preprocess(512, 2048, antialias=True, rounding="down")),
        ({**SQUASH, "do_resize": False}, Preprocess()),
        ({**SQUASH, "image_scale": [2048, 512], "keep_ratio": True, "size_divisor": 32},
         Preprocess(512, 2048, 32, antialias=True)),
        ({**SQUASH, "do_normalize": False}, Preprocess(mean=(0,) * 3, std=(255,) * 3, size=(512, 512), antialias=True)),
        ({**SQUASH, "do_rescale": False, "image_mean": [1, 2, 3], "image_std": [4, 5, 6]},
         Preprocess(mean=(1, 2, 3), std=(4, 5, 6), size=(512, 512), antialias=True)),
        ({**SQUASH, "image_mean": 0.5, "image_std": 0.5, "resample": 3},
         Preprocess(mean=(127.5,) * 3, std=(127.5,) * 3, size=(512, 512), interpolation="bicubic", antialias=True)),
        ({**SQUASH, "resample": None, "do_rescale": None, "do_pad": None}, Preprocess(size=(512, 512), antialias=True)),
        ({"feature_extractor_type": "ViTFeatureExtractor"},
         Preprocess(mean=(127.5,) * 3, std=(127.5,) * 3, size=(224, 224), antialias=True)),
        ({"image_processor_type": "BeitImageProcessorFast", "size": 640},
         Preprocess(mean=(127.5,) * 3, std=(127.5,) * 3, size=(640, 640), interpolation="bicubic", antialias=True)),
    ],
)  # fmt: skip
def test_processors_of_all_ages(tmp_path: Path, processor: dict[str, Any], expected: Preprocess) -> None:
    assert load(huggingface_folder(tmp_path / "hf", processor=processor)).preprocess == expected


def test_reduced_labels_become_an_explicit_map(tmp_path: Path) -> None:
    for key in ("do_reduce_labels", "reduce_labels"):
        folder = huggingface_folder(tmp_path / key, processor={**SQUASH, key: True})
        stored = dict(load(folder).labels.id_map or ())
        assert stored == {0: "ignore", 255: "ignore", 1: 0, 2: 1, 3: 2, 4: 3, 5: 4}


def test_the_value_that_the_loss_passed_over_is_ignored_in_masks(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "hf", semantic_loss_ignore_index=0)
    assert dict(load(folder).labels.id_map or ()) == {0: "ignore", 1: 1, 2: 2, 3: 3, 4: 4}
    convert(folder, tmp_path / "back", "hf")
    assert load(tmp_path / "back").labels == load(folder).labels
    assert json.loads((tmp_path / "back" / "config.json").read_text())["semantic_loss_ignore_index"] == 0


def test_names_edited_in_a_folder_of_ours_keep_what_masks_store(tmp_path: Path) -> None:
    stored = {0: "ignore", 255: "ignore"} | {k + 1: k for k in range(5)}
    labels = LabelSpec.from_names(NAMES, id_map=stored)
    save_folder(tmp_path / "ours", TrainedModel("segformer_b0", random_model(), labels, Preprocess()))
    convert(tmp_path / "ours", tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["id2label"]["2"] = "brick wall"
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    edited = load(tmp_path / "hf").labels
    assert edited.names[2] == "brick wall" and dict(edited.id_map or ()) == stored


def test_names_that_occur_twice_are_told_apart(tmp_path: Path) -> None:
    names = {"0": "a", "1": "b", "2": "a", "3": "a", "4": "c"}
    assert load(huggingface_folder(tmp_path / "hf", id2label=names)).labels.names == ("a", "b", "a (2)", "a (3)", "c")


def test_the_licence_of_a_model_card(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "hf")
    assert load(folder).record["licence"] == "not stated in the file"
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\ntags:\n- x\n---\n# A model\n")
    assert load(folder).record["licence"] == "cc-by-4.0"


# -- shards -----------------------------------------------------------------------------------------------------------


def shards(folder: Path) -> dict[str, str]:
    """Split the folder's weights over two files; return which tensor is in which."""
    state = state_in(HF4)
    (folder / "model.safetensors").unlink()
    places = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(state)}
    for name in set(places.values()):
        save_file({key: state[key] for key in state if places[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_a_model_in_several_files(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "hf")
    shards(folder)
    assert equal(load(folder))


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "hf")
    places = shards(folder)
    index = folder / "model.safetensors.index.json"
    key = next(iter(places))
    for change, says in (
        ({**places, key: "../model.safetensors"}, "not a file beside it"),
        ({**places, "another": places[key]}, "differ in 1 tensors, such as another"),
        ({**places, key: "model-00003-of-00002.safetensors"}, "cannot be read"),
        ("nothing", "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": change}))
        with pytest.raises(CheckpointError, match=says):
            load(folder)


# -- what does not fit ------------------------------------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_tensors_are_named_as_the_file_names_them(tmp_path: Path) -> None:
    state = state_in(NVLABS)
    del state["backbone.block1.0.attn.kv.bias"]
    state["backbone.extra"] = torch.zeros(1)
    state["decode_head.linear_pred.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "x.pth")
    for part in (
        "is NVlabs SegFormer, nearest to segformer_b0",
        "1 missing (backbone.block1.0.attn.kv.bias)",
        "1 unexpected (backbone.extra)",
        "decode_head.linear_pred.bias is (9,), not (5,)",
    ):
        assert part in caught.value.message


def test_row_41_a_nan_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    state = state_in(HF4)
    state["segformer.encoder.layer_norm.1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in segformer\.encoder\.layer_norm\.1\.bias") as caught:
        load(tmp_path / "x.bin")
    assert caught.value.code == "checkpoint-not-finite"


def test_row_42_a_head_for_other_classes_than_the_configuration_names(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "hf", id2label={str(k): f"c{k}" for k in range(19)})
    with pytest.raises(CheckpointError, match="names 19 classes, and its network tells 5 apart") as caught:
        load(folder)
    assert caught.value.code == "checkpoint-labels"


def test_row_43_a_size_that_nobody_published_is_described(tmp_path: Path) -> None:
    state = {key: value for key, value in state_in(NVLABS).items() if ".block3.1." not in key}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"\(2, 2, 1, 2\) blocks") as caught:
        load(tmp_path / "x.pth")
    assert caught.value.code == "checkpoint-variant"


def test_row_43_a_configuration_that_computes_otherwise_is_followed(tmp_path: Path) -> None:
    """tests/parity/test_transformers_configurations.py compares what is computed."""
    for key, value, field, ours in (
        ("num_attention_heads", [1, 1, 1, 1], "num_heads", (1, 1, 1, 1)),
        ("hidden_act", "relu", "activation", "relu"),
    ):
        spec = load(huggingface_folder(tmp_path / key, **{key: value})).spec
        assert spec.encoder.fields[field] == ours and spec.name == "segformer"


def test_row_43_a_configuration_that_nothing_computes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="asks for the hidden_act 'xielu'") as caught:
        load(huggingface_folder(tmp_path / "x", hidden_act="xielu"))
    assert caught.value.code == "checkpoint-variant"


# -- encoders to start from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "head"), [(MIT, "head"), (HF4_MIT, "classifier")], ids=["NVlabs", "transformers"])
def test_an_imagenet_encoder_starts_a_training_run_and_is_no_model(tmp_path: Path, layout: Any, head: str) -> None:
    state = {f"{'segformer.' if head == 'classifier' else ''}{key}": value for key, value in state_in(layout).items()}
    state |= {f"{head}.weight": torch.zeros(1000, 256), f"{head}.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "mit_b0.pth")
    start = load_starting_weights(tmp_path / "mit_b0.pth")
    expected = {key: value for key, value in random_model().state_dict().items() if key.startswith("encoder.")}
    assert start.architecture == "segformer_b0" and start.what == layout.name
    assert start.tensors.keys() == expected.keys()
    assert all(torch.equal(start.tensors[key], value) for key, value in expected.items())
    with pytest.raises(CheckpointError, match="encoder alone") as caught:
        load(tmp_path / "mit_b0.pth")
    assert caught.value.code == "checkpoint-encoder" and "--weights" in caught.value.fix


def test_a_whole_model_starts_a_training_run_too(tmp_path: Path) -> None:
    labels = LabelSpec.from_names(NAMES)
    save_folder(tmp_path / "ours", TrainedModel("segformer_b0", random_model(), labels, Preprocess()))
    torch.save(state_in(NVLABS), tmp_path / "x.pth")
    ours, theirs = load_starting_weights(tmp_path / "ours"), load_starting_weights(tmp_path / "x.pth")
    assert ours.what == "a segformer_b0" and theirs.what == "NVlabs SegFormer, a segformer_b0"
    assert ours.tensors.keys() == theirs.tensors.keys() == random_model().state_dict().keys()


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_tensor_cut_from_a_larger_one_does_not_keep_it(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(1000)[:10], "b": torch.randn(3)}, tmp_path / "x.pth")
    tensors = read_tensor_file(tmp_path / "x.pth").tensors
    assert tensors["a"].untyped_storage().nbytes() == 40
