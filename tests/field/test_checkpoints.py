"""Checkpoints as training programs write them: the right numbers come out of each, and what was left out is said."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from foreign_files import NAMES, NANO, random_model, state_in
from terrazzo.cli.main import main
from terrazzo.errors import CheckpointError
from terrazzo.notes import TerrazzoWarning
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load, load_starting_weights
from terrazzo.weights.remap import segformer, setr, vit
from terrazzo.weights.remap.layout import Layout
from terrazzo.weights.set_aside import without_training

NVLABS, MMSEG, HF4, HF5 = segformer.NVLABS, segformer.MMSEG, segformer.HF4, segformer.HF5


pytestmark = pytest.mark.usefixtures("nano_sizes_are_known")


def nano(layout: Layout) -> dict[str, Tensor]:
    return state_in(layout, random_model("segformer_nano"))


@pytest.fixture(scope="module")
def nvlabs() -> dict[str, Tensor]:
    return nano(NVLABS)


def is_ours(model: TrainedModel, plus: float = 0.0, architecture: str = "segformer_nano") -> bool:
    """Whether a model has the weights of `random_model`, its classifier's bias larger by `plus`."""
    expected, state = dict(random_model(architecture).state_dict()), model.network.state_dict()
    expected["decoder.classifier.bias"] = expected["decoder.classifier.bias"] + plus
    return expected.keys() == state.keys() and all(torch.equal(state[key], value) for key, value in expected.items())


def shifted(state: dict[str, Tensor], plus: float = 1.0) -> dict[str, Tensor]:
    """The same weights with another classifier's bias, to tell two sets apart."""
    return {key: value + plus if key.endswith("linear_pred.bias") else value for key, value in state.items()}


def save(path: Path, content: object, older: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not older)
    return path


# -- what stands beside the weights -----------------------------------------------------------------------------------


@pytest.fixture
def strange_classes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes objects of classes whose packages are gone when the file is read."""

    def make(module: str, name: str, base: type = object, **state: Any) -> Any:
        made = type(name, (base,), {"__module__": module})
        stand_in = types.ModuleType(module)
        setattr(stand_in, name, made)
        for parent in accumulate(module.split("."), "{}.{}".format):
            monkeypatch.setitem(sys.modules, parent, stand_in)
        value = made()
        value.__dict__.update(state)
        return value

    yield make
    monkeypatch.undo()


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_mmengine(
    tmp_path: Path, nvlabs: dict[str, Tensor], strange_classes: Callable[..., Any], older: bool, recwarn: Any
) -> None:
    history = strange_classes("mmengine.logging.history_buffer", "HistoryBuffer", _log_history=np.arange(9.0), _count=9)
    hub = strange_classes("mmengine.logging.message_hub", "MessageHub", _log_scalars={"loss": history})
    content = {
        "meta": {
            "dataset_meta": {"classes": tuple(NAMES), "palette": np.arange(15, dtype=np.uint8).reshape(5, 3)},
            "seed": np.int64(7),
            "experiment_name": "x",
            "time": datetime.datetime(2026, 1, 2),
        },
        "message_hub": {"log_scalars": collections.OrderedDict(loss=history), "hub": hub, "best": np.float64(0.5)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": np.float32(0.1)}]},
        "state_dict": nvlabs,
    }
    path = save(tmp_path / "iter_80000.pth", content, older)
    del sys.modules["mmengine.logging.history_buffer"], sys.modules["mmengine.logging.message_hub"]
    model = load(path)
    assert is_ours(model) and model.labels.names == tuple(NAMES)
    assert model.labels.palette == ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14))
    assert not recwarn.list


def test_lightning(tmp_path: Path, nvlabs: dict[str, Tensor], strange_classes: Callable[..., Any]) -> None:
    attributes = strange_classes("lightning.fabric.utilities.data", "AttributeDict", dict)
    attributes.update(lr=1e-4, classes=NAMES, where=pathlib.PurePosixPath("data/train"))
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": pathlib.Path("runs")}},
        "hyper_parameters": attributes,
        "state_dict": {f"model.{key}": value for key, value in nvlabs.items()}
        | {
            "criterion.weight": torch.ones(5),
            "val_iou.confmat": torch.zeros(5, 5),
            "train_metrics.acc.tp": torch.ones(5),
        },
    }
    path = save(tmp_path / "last.ckpt", content)
    with pytest.warns(TerrazzoWarning, match=r"a loss \(criterion\.weight\); a metric \(val_iou\.confmat and 1 more\)"):
        assert is_ours(load(path))


LEARNT = ["sky", "road", "tree", "car", "person"]


@pytest.mark.parametrize(
    ("noted", "way"),
    [
        ({"hyper_parameters": {"lr": 1e-4, "class_names": LEARNT}}, "hyper_parameters.class_names"),
        ({"hyper_parameters": {"model": {"CLASSES": tuple(LEARNT)}}}, "hyper_parameters.model.CLASSES"),
        ({"hyper_parameters": argparse.Namespace(classes=LEARNT)}, "hyper_parameters.classes"),
        ({"config": {"id2label": dict(enumerate(LEARNT))}}, "config.id2label"),
        ({"config": {"label2id": {name: k for k, name in enumerate(LEARNT)}}}, "config.label2id"),
        ({"args": {"classes": 5, "class_names": LEARNT}}, "args.class_names"),
        ({"classes": LEARNT, "epoch": 3}, "classes"),
        ({"meta": {"cfg": {"class_names": LEARNT}, "classes": 5}}, "meta.cfg.class_names"),
        ({"datamodule_hyper_parameters": {"idx_to_class": {str(k): n for k, n in enumerate(LEARNT)}}}, ""),
    ],
)
def test_class_names_beside_the_weights(
    tmp_path: Path, nvlabs: dict[str, Tensor], noted: dict[str, Any], way: str
) -> None:
    model = load(save(tmp_path / "x.ckpt", {"state_dict": nvlabs, **noted}))
    assert model.labels.names == tuple(LEARNT)
    assert str(model.record["labels from"]).startswith("the file's own, ") and way in str(model.record["labels from"])


@pytest.mark.parametrize(
    "noted",
    [
        {"classes": LEARNT[:4]},  # of something else, or without the background
        {"classes": LEARNT, "hyper_parameters": {"class_names": LEARNT[::-1]}},  # which of the two?
        {"classes": [1, 2, 3, 4, 5]},
        {"classes": "abcde"},
        {"id2label": {0: "a", 1: "b", 2: "c", 3: "d", 7: "e"}},
        {"optimizer": {"class_names": LEARNT}},
        {"classes": [*LEARNT[:4], " "]},
    ],
)
def test_classes_are_numbered_where_their_names_are_not_clear(
    tmp_path: Path, nvlabs: dict[str, Tensor], noted: dict[str, Any]
) -> None:
    model = load(save(tmp_path / "x.pth", {"state_dict": nvlabs, **noted}))
    assert model.labels.names == tuple(f"class {k}" for k in range(5))
    assert model.record["labels from"] == "numbered, for the file names none"


def test_class_names_in_the_metadata_of_safetensors(tmp_path: Path, nvlabs: dict[str, Tensor]) -> None:
    save_file(nvlabs, tmp_path / "x.safetensors", {"class_names": json.dumps(LEARNT), "config": "{", "classes": "5"})
    assert load(tmp_path / "x.safetensors").labels.names == tuple(LEARNT)


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data"), on=datetime.date(2026, 1, 2)),
        collections.defaultdict(list, {"loss": [np.float32(1.0), np.float64(2.0)]}),
        {"state": np.random.RandomState(0).get_state(), "size": torch.Size((2, 3))},
        [datetime.timedelta(hours=3), complex(1, 2), {1, 2}, frozenset((3,)), b"x", range(3), slice(1, 2), Ellipsis],
        torch.nn.ReLU(),
        torch.device("cpu"),
        collections.Counter("abc"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_python_s_own_objects(tmp_path: Path, nvlabs: dict[str, Tensor], beside: object) -> None:
    assert is_ours(load(save(tmp_path / "x.pth", {"args": beside, "extra": beside, "model": nvlabs})))


# -- wrappers and prefixes --------------------------------------------------------------------------------------------

WRAPPERS = [
    "state_dict", "model", "module", "net", "network", "weights", "params", "model_state", "model_state_dict", "ema",
    "model_ema", "ema_state_dict", "teacher", "student", "segmentor", "swa_model", "state_dict.model", "checkpoint.net",
]  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_that_holds_the_only_weights(tmp_path: Path, nvlabs: dict[str, Tensor], name: str) -> None:
    content: Any = nvlabs
    for part in reversed(name.split(".")):
        content = {part: content, "epoch": 3}
    assert is_ours(load(save(tmp_path / "x.pth", content)))


@pytest.mark.parametrize("layout", [NVLABS, HF5], ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    "inside", ["module.{}", "_orig_mod.{}", "model.model.{}", "_fsdp_wrapped_module.{}", "net.module._orig_mod.{}"]
)
def test_prefixes_before_names_and_within_them(tmp_path: Path, layout: Layout, inside: str) -> None:
    state = nano(layout)
    path = save(tmp_path / "x.pth", {inside.format(key): value for key, value in state.items()})
    assert is_ours(load(path))
    wrapped = {}
    for key, value in state.items():
        first, rest = key.split(".", 1)
        wrapped[f"{first}.{inside.format(rest)}" if "model" not in inside and "net" not in inside else key] = value
    save_file(wrapped, tmp_path / "x.safetensors")
    assert is_ours(load(tmp_path / "x.safetensors"))


# -- several sets of weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("model", "ema"), ("state_dict", "ema_state_dict"), ("model", "model_ema"), ("net", "ema_net"),
        ("params", "params_ema"), ("teacher", "student"), ("state_dict", "state_dict_ema"), ("model", "teacher"),
        ("network", "swa_state_dict"), ("teacher", "momentum_encoder"),
    ],
)  # fmt: skip
def test_one_of_two_sets_is_taken_and_the_other_can_be(
    tmp_path: Path, nvlabs: dict[str, Tensor], taken: str, other: str
) -> None:
    sets = {taken: nvlabs, other: {f"module.{key}": value for key, value in shifted(nvlabs).items()}}
    sets = dict(reversed(sets.items())) if other == "ema" else sets  # the order in the file does not count
    path = save(tmp_path / "x.pth", {"epoch": 1, **sets})
    with pytest.warns(TerrazzoWarning, match=f"'{taken}' was taken; to take another, give .*x.pth#{other}$"):
        assert is_ours(load(path))
    assert is_ours(load(f"{path}#{other}"), plus=1.0)
    assert is_ours(load(Path(f"{path}#{taken}")))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(("taken", "other"), [("", "ema_model."), ("teacher.", "student."), ("model.", "ema.module.")])
def test_two_sets_in_one_dictionary(
    tmp_path: Path, nvlabs: dict[str, Tensor], suffix: str, taken: str, other: str
) -> None:
    both = {f"{taken}{key}": value.clone() for key, value in nvlabs.items()}
    both |= {f"{other}{key}": value.clone() for key, value in shifted(nvlabs).items()}
    both["n_averaged"] = torch.tensor(3)
    path = tmp_path / f"x.{suffix}"
    save_file(both, path) if suffix == "safetensors" else torch.save(both, path)
    asked = other.split(".")[0]
    with pytest.warns(TerrazzoWarning) as said:
        assert is_ours(load(path))
    assert any(f"x.{suffix}#{asked}" in str(one.message) for one in said)
    assert any("a counter of an average (n_averaged)" in str(one.message) for one in said)
    assert all(asked in str(one.message) or "n_averaged" in str(one.message) for one in said)
    with nullcontext() if taken == "" else pytest.warns(TerrazzoWarning, match="n_averaged"):
        assert is_ours(load(f"{path}#{asked}"), plus=1.0)


@pytest.mark.parametrize("place", [0, 1])
def test_weights_in_a_list_with_something_else(tmp_path: Path, nvlabs: dict[str, Tensor], place: int) -> None:
    content = [nvlabs, {"epoch": 3}] if place == 0 else (3, nvlabs)
    assert is_ours(load(save(tmp_path / "x.pth", content)))
    assert is_ours(load(f"{tmp_path / 'x.pth'}#{place}"))


def test_arrays_of_numpy_are_called_so(tmp_path: Path, nvlabs: dict[str, Tensor]) -> None:
    arrays = {key: value.numpy() for key, value in nvlabs.items()}
    with pytest.raises(CheckpointError, match="holds no tensors, but arrays of numpy") as caught:
        load(save(tmp_path / "x.pth", arrays))
    assert "torch.from_numpy" in caught.value.fix


def test_a_set_that_is_not_there(tmp_path: Path, nvlabs: dict[str, Tensor]) -> None:
    path = save(tmp_path / "x.pth", {"model": nvlabs, "ema": nvlabs})
    with pytest.raises(CheckpointError, match="no weights called 'emma'") as caught:
        load(f"{path}#emma")
    assert caught.value.code == "checkpoint-set" and "did you mean" in caught.value.fix
    assert "'model', 'ema'" in caught.value.fix
    with pytest.raises(CheckpointError) as caught:
        load(f"{save(tmp_path / 'y.pth', nvlabs)}#ema")
    assert "leave out what stands behind #" in caught.value.fix


def test_a_file_with_such_a_name_is_that_file(tmp_path: Path, nvlabs: dict[str, Tensor]) -> None:
    assert is_ours(load(save(tmp_path / "run#3.pth", nvlabs)))
    assert is_ours(load(f"{save(tmp_path / 'run#4.pth', {'ema': nvlabs})}#ema"))


def test_the_command_takes_a_set(tmp_path: Path, nvlabs: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "x.pth", {"model": nvlabs, "ema": shifted(nvlabs)})
    main(["convert", f"{path}#ema", str(tmp_path / "ema")])
    assert "several sets" not in capsys.readouterr().err
    main(["convert", str(path), str(tmp_path / "model")])
    assert f"to take another, give {path}#ema\n" in capsys.readouterr().err
    assert is_ours(load(tmp_path / "ema"), plus=1.0) and is_ours(load(tmp_path / "model"))


# -- what only training uses ------------------------------------------------------------------------------------------

ASIDE = {
    "criterion.weight": "a loss", "decode_head.loss_decode.class_weight": "a loss", "loss_fn.pos_weight": "a loss",
    "data_preprocessor.mean": "preprocessing", "n_averaged": "a counter", "val_iou.confmat": "a metric",
    "metrics.val.iou.tp": "a metric", "train_acc.correct": "a metric", "jaccard.confmat": "a metric",
    "confmat": "a metric", "ema_decode_head_linear_pred_bias": "an average", "decode_head._extra_state": "a state",
}  # fmt: skip


@pytest.mark.parametrize(("key", "kind"), ASIDE.items(), ids=ASIDE)
def test_it_is_set_aside_and_named(tmp_path: Path, nvlabs: dict[str, Tensor], key: str, kind: str) -> None:
    with pytest.warns(TerrazzoWarning, match=f"set aside, for only training uses it: {kind}.*{key}"):
        assert is_ours(load(save(tmp_path / "x.pth", {**nvlabs, key: torch.ones(3)})))


def test_what_is_no_tensor_is_set_aside_among_the_weights_of_a_known_network(
    tmp_path: Path, nvlabs: dict[str, Tensor]
) -> None:
    with pytest.warns(TerrazzoWarning, match="set aside what is not a tensor: 'epoch', 'best'"):
        assert is_ours(load(save(tmp_path / "x.pth", {**nvlabs, "epoch": 3, "best": 0.5})))


def test_none_of_it_is_a_name_of_a_network_that_is_read(recwarn: Any) -> None:
    names = {}
    for family in (segformer, setr, vit):
        for layout in family.LAYOUTS:
            for path in (path for place in layout.places.values() for path in place.paths):
                names[path.format(i=0, I=1, i2=2, r=3, j=0, j3=0, n3=1, leaf="weight") + ".weight"] = 0
    before = dict(names)
    without_training(names, "x")
    assert names == before and not recwarn.list


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_auxiliary_heads_in_any_number(tmp_path: Path, count: int) -> None:
    torch.manual_seed(0)
    model = create_model(NANO["setr_naive_nano"], 5, image_size=(64, 64)).eval()
    state = state_in(setr.NAIVE, model)
    heads = {key: value for key, value in state.items() if key.startswith("auxiliary_head.0.")}
    state = {key: value for key, value in state.items() if not key.startswith("auxiliary_head.")}
    for number in range(count):
        state |= {key.replace(".0.", f".{number}.", 1): value for key, value in heads.items()}
    path = save(tmp_path / "x.pth", {"state_dict": state})
    if count == len(model.auxiliary):
        assert len(load(path).network.auxiliary) == 3
        return
    with pytest.warns(TerrazzoWarning, match=rf"auxiliary heads \({count * len(heads)} tensors\)"):
        loaded = load(path)
    assert loaded.architecture == "setr_naive_nano" and len(loaded.network.auxiliary) == 0
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.network.state_dict().items())


def test_an_auxiliary_head_beside_a_segformer(tmp_path: Path) -> None:
    state = state_in(MMSEG, random_model("segformer_nano_mmseg"))
    state |= {
        "auxiliary_head.convs.0.conv.weight": torch.ones(8, 160, 3, 3),
        "auxiliary_head.conv_seg.bias": torch.ones(5),
    }
    with pytest.warns(TerrazzoWarning, match=r"auxiliary heads \(2 tensors\)"):
        assert is_ours(load(save(tmp_path / "x.pth", state)), architecture="segformer_nano_mmseg")


ENCODERS = {
    "timm's pooled ViT": ({"fc_norm.weight": "", "fc_norm.bias": "", "head.weight": ""}, "", "fc_norm"),
    "masked autoencoder": (
        {"decoder_embed.weight": "", "decoder_blocks.0.attn.qkv.weight": "", "decoder_pos_embed": "", "mask_token": ""},
        "",
        "the decoder of a masked autoencoder",
    ),
    "MoCo v3": (
        {"module.momentum_encoder.x.weight": "", "module.predictor.0.weight": "", "queue": "", "queue_ptr": ""},
        "module.base_encoder.",
        "the other encoder of a contrastive pretraining",
    ),
}


@pytest.mark.parametrize(("extra", "prefix", "kind"), ENCODERS.values(), ids=ENCODERS)
def test_pretrained_encoders_to_start_from(tmp_path: Path, extra: dict[str, str], prefix: str, kind: str) -> None:
    torch.manual_seed(0)
    model = create_model(NANO["setr_pup_nano"], 5, image_size=(64, 64))
    state = {f"{prefix}{key}": value for key, value in state_in(vit.TIMM, model).items()}
    path = save(tmp_path / "x.pth", {"state_dict": state | dict.fromkeys(extra, torch.ones(48))})
    with pytest.warns(TerrazzoWarning, match=kind):
        start = load_starting_weights(path)
    assert start.architecture == "setr_pup_nano"
    assert torch.equal(start.tensors["encoder.blocks.3.attn.qkv.weight"], model.encoder.blocks[3].attn.qkv.weight)


def test_dino_s_teacher_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = state_in(vit.TIMM, create_model(NANO["setr_pup_nano"], 5, image_size=(64, 64)))
    head = {"head.mlp.0.weight": torch.ones(3), "head.last_layer.weight_g": torch.ones(3)}
    content = {
        "student": {f"module.backbone.{key}": value * 0 for key, value in state.items()} | head,
        "teacher": {f"backbone.{key}": value for key, value in state.items()} | head,
        "dino_loss": {"center": torch.zeros(1, 8)},
    }
    with pytest.warns(TerrazzoWarning, match=r"'teacher\.backbone' was taken; to take another, give .*#student"):
        start = load_starting_weights(save(tmp_path / "x.pth", content))
    assert torch.equal(start.tensors["encoder.blocks.0.norm1.weight"], state["blocks.0.norm1.weight"])
