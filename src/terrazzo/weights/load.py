"""`load`: a model by name, path or hub id, in whatever form somebody wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import Segmenter, list_models
from terrazzo.models.encoders.vit import resize_positions
from terrazzo.notes import note
from terrazzo.preprocess import Preprocess
from terrazzo.text import nearest, show, shown_path
from terrazzo.weights.adapters import ADAPTER_CONFIG, MERGE_THERE, is_adapter, merge_adapter, read_adapter
from terrazzo.weights.bands import fitted_bands
from terrazzo.weights.catalog import bundled_folder, bundled_names, known_licence, published
from terrazzo.weights.encoder_files import find_encoder, load_encoder
from terrazzo.weights.exported import exported_format
from terrazzo.weights.files import CONFIG_FILE, TrainedModel, load_folder
from terrazzo.weights.foreign_files import nothing_in
from terrazzo.weights.hub import download
from terrazzo.weights.huggingface import WEIGHTS_FILES, is_hub_id, read_companions, read_weights
from terrazzo.weights.metadata import ONE_LABEL, labels_from_meta, names_are_guessed, paper_preprocess, read_json
from terrazzo.weights.model_card import base_model_in_model_card, licence_in_model_card
from terrazzo.weights.origin import STARTS, licence_of, origin_of_run
from terrazzo.weights.processor import normalisation, read_processor
from terrazzo.weights.recognize import Recognized, load_network, our_tensors, recognize, refuse_other_parts
from terrazzo.weights.tensor_files import read_tensor_file

__all__ = ["StartingWeights", "load", "load_starting_weights"]


@dataclass(frozen=True)
class StartingWeights:
    """What a training run starts from.

    Attributes:
        what: for messages.
        architecture: whose weights they are; for an encoder alone, one that has it.
        tensors: under our names; of an encoder alone, only those.
        licence: of the weights, as far as it is known.
        labels: the classes of its classifier; None for an encoder alone.
        guessed: the classes' names were guessed from their number.
        preprocess: how photos became its input; of an encoder alone, their normalisation; None where it is not known.
        origin: what the record of a run says that starts from it.
        in_channels: bands of the images that they are for.
    """

    what: str
    architecture: str
    tensors: Mapping[str, Tensor]
    licence: str = "not stated"
    labels: LabelSpec | None = None
    guessed: bool = False
    preprocess: Preprocess | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    in_channels: int = 3

    def fitted_to(self, network: Segmenter) -> dict[str, Tensor]:
        """Return the tensors, fitted to the grid of position embeddings and to the bands of a model to be trained.

        Auxiliary heads that either of the two does not have are left out.
        """
        mine = network.state_dict()
        tensors = fitted_bands(self.tensors, mine, self.in_channels, network.in_channels)
        for key, positions in tensors.items():
            fits = key in mine and positions.ndim == mine[key].ndim == 4 and positions.shape[-1] == mine[key].shape[-1]
            if key.endswith(".pos_embed") and fits:
                tensors[key] = resize_positions(positions, *mine[key].shape[1:3])
        return {key: value for key, value in tensors.items() if key in mine or not key.startswith("auxiliary.")}


@dataclass(frozen=True)
class Foreign:
    """Somebody else's model, recognised but not yet loaded.

    Attributes:
        where: the file or folder, for messages.
        name: how it was asked for.
        found: its tensors.
        meta: what a checkpoint notes beside them.
        folder: the folder that it came in, whose model card may state its terms.
        config: the ``config.json`` of transformers that belongs to it; empty where there is none.
        companions: the folder with that configuration's image processor.
        base: what an adapter was merged into.
        base_folder: where that is.
        sha256: of the file, where it is known.
    """

    where: str
    name: str
    found: Recognized
    meta: Mapping[str, Any]
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    companions: Path | None = None
    base: str = ""
    base_folder: Path | None = None
    sha256: str | None = None


def load(model: str | Path) -> TrainedModel:
    """Load a model with its labels and preprocessing.

    Args:
        model: a shipped model's name such as ``segformer_b0.camvid``; a model folder, or the output folder of a
            training run (its best model is taken); a folder of Hugging Face transformers; a ``.safetensors``, ``.pth``,
            ``.pt`` or ``.bin`` file of NVlabs, mmsegmentation, SETR's authors, segmentation_models.pytorch or
            transformers, with ``#NAME`` behind it for one of several sets of weights in it (``last.pth#ema``); or a hub
            id such as ``nvidia/segformer-b0-finetuned-ade-512-512``.

    Raises:
        CheckpointError: there is no such model, or its files are damaged or do not fit.
    """
    opened = _open(model)
    return opened if isinstance(opened, TrainedModel) else _assemble(opened)


def load_starting_weights(model: str | Path) -> StartingWeights:
    """Load the weights that a training run starts from: a whole model as `load` takes it, or an encoder alone.

    Encoders are the ImageNet files that the papers start from: MiT for SegFormer; ViT, DeiT and DINOv2 for SETR; PVT.
    Those that `pretrain` wrote are read too.

    Raises:
        CheckpointError: as `load`.
    """
    if (folder := find_encoder(Path(model))) is not None:
        return _pretrained(folder, str(model))
    opened = _open(model)
    if isinstance(opened, Foreign) and opened.found.num_classes is None:
        return _encoder(opened)
    what, sha256 = (f"{opened.found.layout.name}, a ", opened.sha256) if isinstance(opened, Foreign) else ("a ", None)
    trained = _assemble(opened) if isinstance(opened, Foreign) else opened
    return StartingWeights(
        f"{what}{trained.architecture}",
        trained.architecture,
        trained.network.state_dict(),
        licence_of(trained.record) or "that of your own run",
        trained.labels,
        names_are_guessed(trained.record),
        trained.preprocess,
        origin_of_run(str(model), trained.record, sha256 or _checksum(model)),
        trained.network.in_channels,
    )


def _encoder(foreign: Foreign) -> StartingWeights:
    found, normalised = foreign.found, None
    if foreign.companions is not None and (theirs := read_processor(foreign.companions)):
        normalised = normalisation(theirs, f"the image processor in {shown_path(foreign.companions)}")
    record = {"origin": foreign.name, **_terms(foreign)}
    return StartingWeights(
        found.layout.name,
        found.architecture,
        our_tensors(found, found.empty_network(), foreign.where),
        record["licence"],
        preprocess=normalised,
        origin=origin_of_run(foreign.name, record, foreign.sha256),
        in_channels=found.spec.in_channels,
    )


def _pretrained(folder: Path, name: str) -> StartingWeights:
    found = load_encoder(folder)
    return StartingWeights(
        f"a pretrained {found.spec.encoder.name}",
        found.spec.title,
        found.tensors,
        licence_of(found.record) or "that of your own run",
        preprocess=found.preprocess,
        origin=origin_of_run(name, found.record, found.sha256),
        in_channels=found.spec.in_channels,
    )


def _checksum(model: str | Path) -> str | None:
    """Return what the configuration of a model folder of ours says of its weights."""
    folder = bundled_folder(str(model)) or Path(model)
    for path in (folder / CONFIG_FILE, folder / "model" / CONFIG_FILE):
        if path.is_file():
            checksum = read_json(path).get("sha256")
            return checksum if isinstance(checksum, str) else None
    return None


def _open(model: str | Path) -> TrainedModel | Foreign:
    if not isinstance(model, (str, os.PathLike)):
        raise ConfigError(
            f"the model is {show(model)}, not a name or a path", fix="give its name or its path", code="model-type"
        )
    try:
        return _find(str(model), Path(model))
    except OSError as error:  # a folder that may not be looked into; files are opened with errors of their own
        raise CheckpointError(
            f"{shown_path(error.filename or model)} cannot be read: {error.strerror}",
            fix="check the path and its permissions",
            code="checkpoint-unreadable",
        ) from error


def _find(name: str, path: Path) -> TrainedModel | Foreign:
    if folder := bundled_folder(name):
        return load_folder(folder, name)
    if os.path.isdir(path):
        return _open_folder(path, name)
    if os.path.isfile(path):
        return _open_file(path, name)
    if not os.path.exists(path) and "#" in path.name:
        file, _, part = name.rpartition("#")
        if os.path.isfile(file):
            return _open_file(Path(file), name, part)
    is_local = path.parent != Path(".") and os.path.isdir(path.parent)  # a mistyped path is not looked for on the hub
    if not os.path.exists(path) and is_hub_id(name) and (not is_local or published(name)):
        return _open_folder(download(name), name)
    raise _nothing_called(name, path)


def _nothing_called(name: str, path: Path) -> CheckpointError:
    """Say what a name that leads to no model was probably meant to be."""
    shipped = bundled_names()
    with_weights = [known for known in shipped if known.partition(".")[0] == name]
    if name in list_models():
        message = f"{name} is an architecture, without weights"
        fix = f"did you mean {with_weights[0]}?" if with_weights else "give the folder of a training run of it"
    elif os.path.exists(path):
        message, fix = f"{shown_path(name)} is neither file nor folder", "give a model folder or a checkpoint file"
    elif near := nearest(name, [*shipped, *list_models()]):
        message, fix = f"there is no model {show(name)}", f"did you mean {near}?"
    elif len(path.parts) > 1:
        beside = [other.name for other in path.parent.iterdir()] if os.path.isdir(path.parent) else []
        near = nearest(path.name, beside)
        message = f"{shown_path(name)}: there is no such {'file' if path.suffix else 'folder'}"
        fix = "check the path; it leads to a model folder or a checkpoint file"
        if near == path.name:
            message, fix = f"{shown_path(name)} cannot be read", "check the permissions of its folder"
        elif near:
            fix = f"did you mean {shown_path(path.parent / near)}?"
    else:
        message = f"{show(name)} is neither a shipped model nor a path that exists"
        fix = (
            f"shipped models: {', '.join(shipped) or 'none'}; or give a folder written by `terrazzo train`, "
            "a checkpoint file, or a hub id"
        )
    return CheckpointError(message, fix=fix, code="checkpoint-missing")


def _open_folder(folder: Path, name: str) -> TrainedModel | Foreign:
    for candidate in (folder, folder / "model"):
        if is_adapter(candidate):
            return _open_adapter(candidate, name)
        if (candidate / CONFIG_FILE).is_file():
            if {"model_type", "_model_class"} & read_json(candidate / CONFIG_FILE).keys():
                return _open_huggingface(candidate, name)
            return _with_card_licence(load_folder(candidate, name), candidate)
    if any((folder / weights).is_file() for weights in WEIGHTS_FILES):  # without a configuration, as accelerate saves
        file = read_weights(folder)
        return Foreign(str(folder), name, recognize(file.tensors, str(folder)), {}, folder, sha256=file.sha256)
    if any(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder} is a distributed checkpoint of PyTorch, in parts",
            fix="put them together: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pth",
            code="checkpoint-sharded",
        )
    raise nothing_in(folder, f"{folder} holds no model: there is neither config.json nor model/config.json")


def _open_file(path: Path, name: str, part: str = "") -> TrainedModel | Foreign:
    """Open a file; `part` is the set of weights that is wanted of several."""
    if path.name in WEIGHTS_FILES and not part:
        if (path.parent / CONFIG_FILE).is_file() or path.suffix == ".json":
            return _open_folder(path.parent, name)
    elif re.search(r"-\d{5}-of-\d{5}\.\w+$", path.name):
        raise CheckpointError(
            f"{shown_path(path)} is one of the parts of a model, which says nothing without the others",
            fix=f"give the folder with all of them: {shown_path(path.parent)}",
            code="checkpoint-sharded",
        )
    if exported_format(path) is not None:
        raise CheckpointError(
            f"{path} is an exported file: a network to run, whose weights are no longer apart from it",
            fix="predict or evaluate with it, or give the model that it was exported from",
            code="checkpoint-exported",
        )
    file = read_tensor_file(path, part)
    return Foreign(str(path), name, recognize(file.tensors, str(path)), file.meta, sha256=file.sha256)


def _open_huggingface(folder: Path, name: str) -> Foreign:
    """Open a folder of transformers, of segmentation_models.pytorch or of PEFT."""
    if is_adapter(folder):
        return _open_adapter(folder, name)
    config = read_json(folder / CONFIG_FILE)
    file = read_weights(folder)
    found = recognize(file.tensors, str(folder), config)
    if "model_type" not in config:  # segmentation_models.pytorch, which says nothing of classes and photos
        return Foreign(str(folder), name, found, {}, folder, sha256=file.sha256)
    return Foreign(str(folder), name, found, {}, folder, config, folder, sha256=file.sha256)


def _open_adapter(folder: Path, name: str) -> Foreign:
    """Open an adapter and the model that it was made for, and merge the two."""
    config = read_json(folder / ADAPTER_CONFIG)
    named = config.get("base_model_name_or_path")
    base_name = named if isinstance(named, str) else ""
    base_folder = Path(base_name)
    if not base_name or not os.path.isfile(base_folder / CONFIG_FILE):
        try:
            if os.path.exists(base_folder) or not is_hub_id(base_name):
                raise CheckpointError(
                    f"there is no model {show(named)}", fix="check the name", code="checkpoint-missing"
                )
            revision = config.get("revision")
            base_folder = download(f"{base_name}@{revision}" if isinstance(revision, str) else base_name)
        except CheckpointError as error:
            raise CheckpointError(
                f"{folder} is an adapter to {show(named)}, which is not here: {error.message}",
                fix=f"put that model's folder there, or name it in {ADAPTER_CONFIG}; or {MERGE_THERE}",
                code="checkpoint-adapter",
            ) from error
    base_config = read_json(base_folder / CONFIG_FILE)
    base = recognize(read_weights(base_folder).tensors, str(base_folder), base_config)
    found = recognize(merge_adapter(read_adapter(folder), config, base, str(folder)), str(folder), base_config)
    names = base_config.get("id2label")
    if isinstance(names, dict) and len(names) != found.num_classes:
        note(f"{folder} tells {found.num_classes} classes apart and names none: they are numbered")
        base_config = {key: value for key, value in base_config.items() if key not in ("id2label", "label2id")}
    beside = folder if read_processor(folder) is not None else base_folder
    return Foreign(str(folder), name, found, {}, folder, base_config, beside, base_name, base_folder)


def _assemble(foreign: Foreign) -> TrainedModel:
    """Make a model of somebody else's tensors and of what stands beside them."""
    found, where = foreign.found, foreign.where
    if found.num_classes is None:
        refuse_other_parts(found, found.empty_network())
        raise CheckpointError(
            f"{where} is an encoder alone ({found.layout.name}), which cannot segment anything",
            fix=f"train a model that starts from it: terrazzo train --model {found.architecture} --weights ...",
            code="checkpoint-encoder",
        )
    record: dict[str, Any] = {"origin": foreign.name, "format": found.layout.name}
    if foreign.base:
        record["adapter of"] = foreign.base
    temperature = 1.0
    if foreign.companions is not None:
        beside = read_companions(foreign.companions, foreign.config, found)
        labels, preprocess, temperature = beside.labels, beside.preprocess, beside.temperature
        record = {**beside.record, **({} if "origin" in beside.record else record)}
    else:
        labels, record["labels from"] = labels_from_meta(foreign.meta, found.num_classes, where, found.one_label)
        preprocess = paper_preprocess(found.spec, labels)
    if found.one_label:
        record[ONE_LABEL] = True
    record = {**_terms(foreign), **record}
    network = found.empty_network()
    state = our_tensors(found, network, where)
    network = load_network(network, state)
    return TrainedModel(found.architecture, network, labels, preprocess, record, foreign.name, temperature)


def _with_card_licence(model: TrainedModel, folder: Path) -> TrainedModel:
    """Take the licence from a folder's model card, where its record states none."""
    card = None if "licence" in model.record else licence_in_model_card(folder)
    return model if card is None else replace(model, record={**model.record, "licence": card})


def _terms(foreign: Foreign) -> dict[str, Any]:
    """Return what a record says of the licence, and of the model that this one was trained on from."""
    folders = [folder for folder in (foreign.folder, foreign.base_folder) if folder is not None]
    card = next(filter(None, map(licence_in_model_card, folders)), None)
    base = _base_model(foreign)
    licence = known_licence(foreign.name) or card or foreign.found.layout.licence
    return {"licence": licence, **({} if base is None else {STARTS: [base]})}


def _base_model(foreign: Foreign) -> dict[str, str] | None:
    """Return what a folder of transformers was trained on from, by its model card or its configuration."""
    if foreign.base_folder is not None:
        terms = known_licence(foreign.base) or licence_in_model_card(foreign.base_folder)
        return {"name": foreign.base, "licence": terms or foreign.found.layout.licence}
    if foreign.folder is None:
        return None
    card, noted = base_model_in_model_card(foreign.folder), foreign.config.get("_name_or_path")
    for name in (card, noted if isinstance(noted, str) and known_licence(noted) else None):
        if name and is_hub_id(name) and name != foreign.name:
            licence = known_licence(name)
            return {"name": name, **({} if licence is None else {"licence": licence})}
    return None
