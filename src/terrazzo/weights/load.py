"""`load`: a model by name, path or hub id, in whatever form somebody wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from terrazzo.errors import CheckpointError
from terrazzo.hub import download
from terrazzo.models import Segmenter, list_models
from terrazzo.models.encoders.vit import resize_positions
from terrazzo.text import nearest, show, shown_path
from terrazzo.weights.catalog import bundled_folder, bundled_names, published
from terrazzo.weights.companions import labels_from_meta, licence_in_model_card, paper_preprocess, read_json
from terrazzo.weights.files import CONFIG_FILE, TrainedModel, load_folder
from terrazzo.weights.huggingface import WEIGHTS_FILES, is_hub_id, read_companions, read_weights
from terrazzo.weights.recognize import Recognized, load_network, our_tensors, recognize
from terrazzo.weights.tensor_files import read_tensor_file

__all__ = ["StartingWeights", "load", "load_starting_weights"]

EXPORTED = (".onnx", ".xml", ".pt2")


@dataclass(frozen=True)
class StartingWeights:
    """What a training run starts from.

    Attributes:
        what: for messages.
        architecture: whose weights they are; for an encoder alone, one that has it.
        tensors: under our names; of an encoder alone, only those.
        licence: of the weights, as far as it is known.
    """

    what: str
    architecture: str
    tensors: Mapping[str, Tensor]
    licence: str = "not stated"

    def fitted_to(self, network: Segmenter) -> dict[str, Tensor]:
        """Return the tensors, position embeddings resized to the grid of a model to be trained.

        Auxiliary heads that either of the two does not have are left out.
        """
        tensors = dict(self.tensors)
        mine = network.state_dict()
        positions = "encoder.pos_embed"
        if positions in tensors and positions in mine and tensors[positions].shape[-1] == mine[positions].shape[-1]:
            tensors[positions] = resize_positions(tensors[positions], *mine[positions].shape[1:3])
        return {key: value for key, value in tensors.items() if key in mine or not key.startswith("auxiliary.")}


@dataclass(frozen=True)
class Foreign:
    """Somebody else's model, recognised but not yet loaded.

    Attributes:
        where: the file or folder, for messages.
        name: how it was asked for.
        found: its tensors.
        meta: what a checkpoint notes beside them.
        folder: the Hugging Face folder that it came in.
    """

    where: str
    name: str
    found: Recognized
    meta: Mapping[str, Any]
    folder: Path | None = None


def load(model: str | Path) -> TrainedModel:
    """Load a model with its labels and preprocessing.

    Args:
        model: a shipped model's name such as ``segformer_b0.camvid``; a model folder, or the output folder of a
            training run (its best model is taken); a folder of Hugging Face transformers; a ``.safetensors``, ``.pth``,
            ``.pt`` or ``.bin`` file of NVlabs, mmsegmentation, SETR's authors or transformers; or a hub id such as
            ``nvidia/segformer-b0-finetuned-ade-512-512``.

    Raises:
        CheckpointError: there is no such model, or its files are damaged or do not fit.
    """
    opened = _open(model)
    return opened if isinstance(opened, TrainedModel) else _assemble(opened)


def load_starting_weights(model: str | Path) -> StartingWeights:
    """Load the weights that a training run starts from: a whole model as `load` takes it, or an encoder alone.

    Encoders are the ImageNet files that the papers start from: MiT for SegFormer; ViT, DeiT and DINOv2 for SETR.

    Raises:
        CheckpointError: as `load`.
    """
    opened = _open(model)
    if isinstance(opened, TrainedModel):
        state = opened.network.state_dict()
        licence = str(opened.record.get("licence", "that of your own run"))
        return StartingWeights(f"a {opened.architecture}", opened.architecture, state, licence)
    found = opened.found
    what = f"{found.layout.name}, a {found.architecture}" if found.num_classes else f"{found.layout.name}"
    tensors = our_tensors(found, found.empty_network(), opened.where)
    return StartingWeights(what, found.architecture, tensors, _licence(opened))


def _open(model: str | Path) -> TrainedModel | Foreign:
    name, path = str(model), Path(model)
    if folder := bundled_folder(name):
        return load_folder(folder, name)
    if path.is_dir():
        return _open_folder(path, name)
    if path.is_file():
        return _open_file(path, name)
    is_local = path.parent != Path(".") and path.parent.is_dir()  # a mistyped path is not looked for on the hub
    if not path.exists() and is_hub_id(name) and (not is_local or published(name)):
        return _open_huggingface(download(name), name)
    raise _nothing_called(name, path)


def _nothing_called(name: str, path: Path) -> CheckpointError:
    """Say what a name that leads to no model was probably meant to be."""
    shipped = bundled_names()
    with_weights = [known for known in shipped if known.partition(".")[0] == name]
    if name in list_models():
        message = f"{name} is an architecture, without weights"
        fix = f"did you mean {with_weights[0]}?" if with_weights else "give the folder of a training run of it"
    elif path.exists():
        message, fix = f"{shown_path(name)} is neither file nor folder", "give a model folder or a checkpoint file"
    elif near := nearest(name, [*shipped, *list_models()]):
        message, fix = f"there is no model {show(name)}", f"did you mean {near}?"
    elif len(path.parts) > 1:
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        message = f"{shown_path(name)}: there is no such {'file' if path.suffix else 'folder'}"
        fix = f"did you mean {shown_path(path.parent / near)}?" if near else "check the path"
    else:
        message = f"{show(name)} is neither a shipped model nor a path that exists"
        fix = (
            f"shipped models: {', '.join(shipped) or 'none'}; or give a folder written by `terrazzo train`, "
            "a checkpoint file, or a hub id"
        )
    return CheckpointError(message, fix=fix, code="checkpoint-missing")


def _open_folder(folder: Path, name: str) -> TrainedModel | Foreign:
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG_FILE).is_file():
            is_theirs = "model_type" in read_json(candidate / CONFIG_FILE)
            return (_open_huggingface if is_theirs else load_folder)(candidate, name)
    raise CheckpointError(
        f"{folder} holds no model: there is neither config.json nor model/config.json",
        fix="give a folder written by `terrazzo train`, or the checkpoint file itself",
        code="checkpoint-missing",
    )


def _open_file(path: Path, name: str) -> TrainedModel | Foreign:
    if path.name in WEIGHTS_FILES and (path.parent / CONFIG_FILE).is_file():
        return _open_folder(path.parent, name)
    if path.suffix in EXPORTED:
        raise CheckpointError(
            f"{path} is an exported file: a network to run, whose weights are no longer apart from it",
            fix="predict or evaluate with it, or give the model that it was exported from",
            code="checkpoint-exported",
        )
    file = read_tensor_file(path)
    return Foreign(str(path), name, recognize(file.tensors, str(path)), file.meta)


def _open_huggingface(folder: Path, name: str) -> Foreign:
    found = recognize(read_weights(folder).tensors, str(folder))
    return Foreign(str(folder), name, found, {}, folder)


def _assemble(foreign: Foreign) -> TrainedModel:
    """Make a model of somebody else's tensors and of what stands beside them."""
    found, where = foreign.found, foreign.where
    if found.num_classes is None:
        raise CheckpointError(
            f"{where} is an encoder alone ({found.layout.name}), which cannot segment anything",
            fix=f"train a model that starts from it: terrazzo train --model {found.architecture} --weights ...",
            code="checkpoint-encoder",
        )
    record: dict[str, Any] = {"origin": foreign.name, "format": found.layout.name}
    if foreign.folder is not None:
        beside = read_companions(foreign.folder, read_json(foreign.folder / CONFIG_FILE), found.num_classes)
        labels, preprocess = beside.labels, beside.preprocess
        record = {**beside.record, **({} if "origin" in beside.record else record)}
    else:
        labels, record["labels from"] = labels_from_meta(foreign.meta, found.num_classes, where)
        preprocess = paper_preprocess(found.architecture, labels)
    record.setdefault("licence", _licence(foreign))
    network = found.empty_network()
    state = our_tensors(found, network, where)
    return TrainedModel(found.architecture, load_network(network, state), labels, preprocess, record, foreign.name)


def _licence(foreign: Foreign) -> str:
    if known := published(foreign.name):
        return known.licence
    card = licence_in_model_card(foreign.folder) if foreign.folder is not None else None
    return card or foreign.found.layout.licence
