"""Hugging Face's form of a model: a folder with ``config.json`` that transformers loads, and the hub that serves them.

`save_huggingface` writes what transformers cannot express (palette, stored mask values, record) under the key
``terrazzo`` of ``config.json``, which transformers keeps and ignores, so that our own loader gets it back. In the other
direction, what we have no place for goes into the record and comes back out from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize_safetensors
from torch import Tensor

from terrazzo.atomic import replacing_folder, write_atomic
from terrazzo.errors import CheckpointError, TerrazzoError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import ModelSpec
from terrazzo.notes import note
from terrazzo.preprocess import Preprocess
from terrazzo.text import shown_path
from terrazzo.weights.files import CONFIG_FILE, WEIGHTS_FILE, TrainedModel
from terrazzo.weights.foreign_files import nothing_in
from terrazzo.weights.metadata import (
    ONE_LABEL,
    labels_from_names,
    paper_preprocess,
    reduces_labels,
    stored_values,
    with_background,
)
from terrazzo.weights.model_card import CARD_FILE, model_card
from terrazzo.weights.processor import (
    PROCESSOR_FILE,
    left_aside,
    lost_in_processor,
    preprocess_from_processor,
    processor_from_preprocess,
    read_processor,
)
from terrazzo.weights.recognize import Recognized
from terrazzo.weights.remap.segformer import HF4
from terrazzo.weights.segformer_config import NAME, config_from_spec, spec_from_config
from terrazzo.weights.temperature import read_temperature
from terrazzo.weights.tensor_files import TensorFile, read_tensor_file, read_tensor_shards

__all__ = [
    "WEIGHTS_FILES",
    "Companions",
    "is_hub_id",
    "read_companions",
    "read_weights",
    "save_huggingface",
]

WEIGHTS_FILES = (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
OURS = "terrazzo"
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
KEPT = "huggingface"
"""Where the record keeps what only transformers has a use for."""


@dataclass(frozen=True)
class Companions:
    """What a folder says about its network.

    Attributes:
        labels: class names and what masks store.
        preprocess: how a photo becomes the input.
        record: what of ours was kept there, and what of theirs we must keep.
        temperature: of ours.
    """

    labels: LabelSpec
    preprocess: Preprocess
    record: dict[str, Any]
    temperature: float = 1.0


# -- in ---------------------------------------------------------------------------------------------------------------


def read_weights(folder: Path) -> TensorFile:
    """Read a folder's tensors, whole or in shards, from safetensors if it has them.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    for name in WEIGHTS_FILES:
        path = folder / name
        if path.is_file():
            file = (read_tensor_shards if name.endswith(".json") else read_tensor_file)(path)
            # In the hub's cache, large files lie under their checksums.
            stored = path.resolve().name
            if file.sha256 is not None and re.fullmatch("[0-9a-f]{64}", stored) and stored != file.sha256:
                raise CheckpointError(
                    f"{path} is not the file that the hub has: the checksums differ",
                    fix=f"remove {path.resolve()} and load the model again",
                    code="checkpoint-checksum",
                )
            return file
    raise nothing_in(folder, f"{folder} holds no weights: there is none of {', '.join(WEIGHTS_FILES)}")


def read_companions(folder: Path, config: Mapping[str, Any], found: Recognized) -> Companions:
    """Read the labels and the preprocessing of a SegFormer folder.

    Without a processor the preprocessing is the paper's for these classes: that is what the released weights were
    trained with.

    Args:
        folder: the folder.
        config: its ``config.json``.
        found: its tensors.

    Raises:
        CheckpointError: they do not fit the network.
    """
    where, num_classes = str(folder / CONFIG_FILE), found.spec.num_classes
    processor = read_processor(folder)
    kept = {key: value for key, value in config.items() if key != OURS}
    record: dict[str, Any] = {KEPT: {"config": kept, "preprocessor": processor}}
    labels = _read_labels(config, processor, num_classes, where, found.one_label)
    preprocess = paper_preprocess(found.spec, labels)
    if processor is not None:
        preprocess = preprocess_from_processor(processor, str(folder / PROCESSOR_FILE))
        for said in left_aside(processor):
            note(f"{shown_path(folder / PROCESSOR_FILE)}: {said}")
    ours, temperature = config.get(OURS), 1.0
    if isinstance(ours, Mapping) and {"labels", "preprocess", "record"} <= ours.keys():
        try:
            own_labels, own_preprocess = LabelSpec.from_dict(ours["labels"]), Preprocess.from_dict(ours["preprocess"])
            record |= dict(ours["record"])
            temperature = read_temperature(ours, where)
        except (TerrazzoError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where} holds no readable {OURS!r}: {error}", fix="remove that key") from error
        # Someone may have edited what transformers reads; that is then what is meant.
        if _spelled(config.get("id2label")) == own_labels.names:
            labels = own_labels
        elif own_labels.num_classes == labels.num_classes:
            labels = own_labels if own_labels.names == labels.names else replace(own_labels, names=labels.names)
        if processor == processor_from_preprocess(own_preprocess, reduces_labels(labels)):
            preprocess = own_preprocess
    return Companions(labels, preprocess, record, temperature)


def _read_labels(
    config: Mapping[str, Any],
    processor: Mapping[str, Any] | None,
    num_classes: int,
    where: str,
    one_label: bool,
) -> LabelSpec:
    """Return the classes and what masks store, as transformers' two files say it.

    Raises:
        CheckpointError: as `labels_from_names`.
    """
    reduced = bool(processor and (processor.get("do_reduce_labels") or processor.get("reduce_labels")))
    ignore = config.get("semantic_loss_ignore_index", 255)
    stored = stored_values(num_classes, where, reduced=reduced, ignore=ignore)
    says_stored = reduced or ignore != 255  # false is what processors say that nobody has asked
    names = config.get("id2label")
    if names is None and isinstance(numbers := config.get("label2id"), Mapping):
        names = {str(number): name for name, number in numbers.items()}
    if one_label and (names is None or (isinstance(names, Mapping) and len(names) == 1)):
        names = with_background(names)
    return labels_from_names(names, num_classes, where, stored=stored, says_stored=says_stored)


def _spelled(names: object) -> tuple[object, ...]:
    """The names of ``id2label`` in their order, as they stand there; none where they are not numbered from 0."""
    listed = {str(key): name for key, name in names.items()} if isinstance(names, Mapping) else {}
    return tuple(listed.get(str(k)) for k in range(len(listed)))


# -- out --------------------------------------------------------------------------------------------------------------


def save_huggingface(folder: Path, model: TrainedModel) -> None:
    """Write a folder that transformers' SegformerForSemanticSegmentation and our `load` read.

    Raises:
        ConfigError: the model is no SegFormer as transformers knows it.
        OutputError: the place cannot be written.
    """
    network = config_from_spec(model.spec)
    state = HF4.to_theirs({key: value.detach().cpu() for key, value in model.network.state_dict().items()})
    record = dict(model.record)
    own, processor = _kept(record.pop(KEPT, None))
    if not _describes(own, network, model.spec):  # somebody else's, or of a network that has been changed since
        own = {key: value for key, value in own.items() if key not in {"model_type", *network}}
    names = list(model.labels.names)
    one_label = record.get(ONE_LABEL) is True and len(names) == 2
    before = _labels_before(own, processor, len(names), one_label)
    if one_label:
        names = names[1:]
        _take_background(state)
    if before is None or before.names != model.labels.names:
        own["id2label"] = {str(k): name for k, name in enumerate(names)}
        own["label2id"] = {name: k for k, name in enumerate(names)}
    if before is not None and before.id_map != model.labels.id_map:
        own["semantic_loss_ignore_index"] = model.labels.ignore_index
        if processor is not None:
            processor = {key: value for key, value in processor.items() if key != "reduce_labels"}
            processor["do_reduce_labels"] = reduces_labels(model.labels)
    state = _as_stored(state, own)
    config = {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        **network,
        "semantic_loss_ignore_index": model.labels.ignore_index,
        **own,
        OURS: {
            "labels": model.labels.to_dict(),
            "preprocess": model.preprocess.to_dict(),
            "record": record,
            **({} if model.temperature == 1 else {"temperature": model.temperature}),
        },
    }
    if processor is None or preprocess_from_processor(processor, PROCESSOR_FILE) != model.preprocess:
        processor = processor_from_preprocess(model.preprocess, reduces_labels(model.labels))
        if lost := lost_in_processor(model.preprocess):
            note(
                f"transformers' image processor has no words for {', '.join(lost)}: it prepares photos a little "
                f"differently; {CONFIG_FILE} keeps the rule for terrazzo"
            )
    with replacing_folder(folder) as partial:
        write_atomic(partial / WEIGHTS_FILE, serialize_safetensors(state, metadata={"format": "pt"}))
        write_atomic(partial / PROCESSOR_FILE, (json.dumps(processor, indent=2) + "\n").encode())
        write_atomic(partial / CARD_FILE, model_card(model).encode())
        write_atomic(partial / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def _kept(kept: object) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the two files that a record keeps for transformers; what is not of their form is left out."""
    both = [kept.get(key) if isinstance(kept, Mapping) else None for key in ("config", "preprocessor")]
    config, processor = (dict(one) if isinstance(one, Mapping) else None for one in both)
    return config or {}, processor


def _describes(config: Mapping[str, Any], network: Mapping[str, Any], spec: ModelSpec) -> bool:
    """Whether a kept configuration, which may spell values in its own way, is of this network."""
    try:
        described = spec_from_config({**network, **config}, {}, spec.num_classes, CONFIG_FILE)
    except CheckpointError:
        return False
    return described == spec and config.get("model_type", NAME) == NAME


def _labels_before(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, num_classes: int, one_label: bool
) -> LabelSpec | None:
    """Return the labels that a kept configuration was read as; None where it names no classes that fit."""
    if "id2label" not in config:
        return None
    try:
        return _read_labels(config, processor, num_classes, CONFIG_FILE, one_label)
    except CheckpointError:
        return None


def _take_background(state: dict[str, Tensor]) -> None:
    """Make one row of a classifier's two: a softmax of (a, b) is the sigmoid of b - a."""
    for key in ("decode_head.classifier.weight", "decode_head.classifier.bias"):
        state[key] = state[key][1:] - state[key][:1]


def _as_stored(state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors in the precision that the configuration names, if they came in it and have not changed since.

    transformers computes in that precision. Where it would lose something, the configuration is made to say float32.
    """
    for key in ("dtype", "torch_dtype"):
        dtype = HALVES.get(str(config.get(key)).removeprefix("torch."))
        if dtype is None:
            continue
        halved = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        if all(torch.equal(value.to(state[name].dtype), state[name]) for name, value in halved.items()):
            return halved
        config[key] = "float32"
    return state


# -- the hub ----------------------------------------------------------------------------------------------------------


def is_hub_id(text: str) -> bool:
    """Whether this can be the name of a model on the hub: ``owner/name``, and ``@revision`` if one is meant."""
    return re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,100})?", text, re.ASCII) is not None
