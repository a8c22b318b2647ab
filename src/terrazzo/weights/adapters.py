"""LoRA adapters of PEFT: a folder of small matrices that are added to the weights of another model, its base.

A matrix W of the base becomes W + s B A, with s the adapter's alpha over its rank (or over the rank's root). Modules
that were trained as a whole, such as a new decoder, stand beside them and replace the base's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terrazzo.errors import CheckpointError
from terrazzo.text import printable, show
from terrazzo.weights.files import CONFIG_FILE
from terrazzo.weights.recognize import Recognized, our_tensors
from terrazzo.weights.remap import segformer
from terrazzo.weights.tensor_files import read_tensor_file

__all__ = ["ADAPTER_CONFIG", "MERGE_THERE", "is_adapter", "merge_adapter", "read_adapter"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
MERGE_THERE = "merge it in the program that trained it: model.merge_and_unload().save_pretrained(folder)"
KEEPS_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin an adapter that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ) also change the base."""
MATRIX = re.compile(r"(.+)\.lora_(A|B)(\.\w+)?\.weight")
ENCODERS = {segformer.HF4_MIT: segformer.HF5_MIT, segformer.HF5_MIT: segformer.HF4_MIT}
OTHER_NAMES = {segformer.HF4: segformer.HF5, segformer.HF5: segformer.HF4} | ENCODERS
"""The names of transformers 4 and of 5: an adapter has those of the version that trained it."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter's; one into which it has been merged may keep its configuration."""
    return (folder / ADAPTER_CONFIG).is_file() and (
        any((folder / name).is_file() for name in ADAPTER_FILES) or not (folder / CONFIG_FILE).is_file()
    )


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's tensors, under the names that their modules have in the base.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            tensors = read_tensor_file(folder / name).tensors
            return {
                re.sub(r"\.modules_to_save(\.default)?(?=\.)", "", key.removeprefix("base_model.model.")): value
                for key, value in tensors.items()
            }
    raise CheckpointError(
        f"{folder} holds no adapter: there is none of {', '.join(ADAPTER_FILES)}",
        fix="copy the whole folder again",
        code="checkpoint-missing",
    )


def merge_adapter(
    adapter: dict[str, Tensor], config: Mapping[str, Any], base: Recognized, where: str
) -> dict[str, Tensor]:
    """Return the base's tensors, under transformers' names, with an adapter merged into them.

    Args:
        adapter: as `read_adapter` returns it.
        config: its ``adapter_config.json``.
        base: the model that it was made for; its tensors are taken out of it.
        where: the adapter's folder, for messages.

    Raises:
        CheckpointError: the adapter is of a kind that cannot be merged here, or does not fit the base.
    """
    _refuse_other_kinds(adapter, config, where)
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, value in adapter.items():
        if match := MATRIX.fullmatch(key):
            pairs.setdefault(match[1], {})[match[2]] = value
        else:
            whole[key] = value
    tensors = _named_alike(base, pairs, where)
    for module, pair in pairs.items():
        weight = tensors[f"{module}.weight"]
        change = _product(pair.get("A"), pair.get("B"))
        if change is None or change.numel() != weight.numel():
            raise CheckpointError(
                f"{where}: the matrices of {printable(module)[:100]} do not fit {tuple(weight.shape)}",
                fix=MERGE_THERE,
                code="checkpoint-adapter",
            )
        scale = _scale(config, module, len(pair["A"]), where)
        tensors[f"{module}.weight"] = weight.float() + scale * change.reshape(weight.shape)
    return tensors | whole


def _refuse_other_kinds(adapter: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> None:
    kind = str(config.get("peft_type", "LORA")).upper()
    special = [name for name in ("use_dora", "fan_in_fan_out", "lora_bias") if config.get(name)]
    if (begun := config.get("init_lora_weights")) not in KEEPS_BASE:
        special.append(f"init_lora_weights {begun}")
    special += [key for key in adapter if "lora_" in key and not MATRIX.fullmatch(key)]
    if kind != "LORA" or special:
        raise CheckpointError(
            f"{where} is an adapter of the kind {printable(kind)[:40]}"
            f"{f' with {printable(special[0])[:100]}' if special else ''}; only plain LoRA can be merged here",
            fix=MERGE_THERE,
            code="checkpoint-adapter",
        )


def _named_alike(base: Recognized, modules: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The base's tensors under the names that the adapter uses, which may be those of another version."""

    def whole_names(tensors: dict[str, Tensor], encoder_only: bool) -> dict[str, Tensor]:
        return {f"segformer.{key}": value for key, value in tensors.items()} if encoder_only else tensors

    encoder_only = base.layout.encoder_only
    tensors = whole_names(dict(base.tensors), encoder_only)
    missing = [module for module in modules if f"{module}.weight" not in tensors]
    if missing and base.layout in OTHER_NAMES:
        ours = our_tensors(base, base.empty_network(), base.where)
        tensors = whole_names(OTHER_NAMES[base.layout].to_theirs(ours), encoder_only)
        missing = [module for module in modules if f"{module}.weight" not in tensors]
    if missing:
        raise CheckpointError(
            f"{where} changes {printable(missing[0])[:100]}, which its base {base.where} ({base.layout.name}) does not "
            "have",
            fix=f"check base_model_name_or_path in {ADAPTER_CONFIG}; or {MERGE_THERE}",
            code="checkpoint-adapter",
        )
    return tensors


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """B A, of matrices or of convolutions of which B's is 1 x 1."""
    if a is None or b is None or a.ndim < 2 or b.ndim < 2 or b.shape[1] != a.shape[0]:
        return None
    if any(size != 1 for size in b.shape[2:]) or not a.isfinite().all() or not b.isfinite().all():
        return None
    return torch.mm(b.flatten(1).float(), a.flatten(1).float())


def _scale(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    alpha = config.get("lora_alpha", 8)
    pattern = config.get("alpha_pattern")
    for name, value in pattern.items() if isinstance(pattern, dict) else ():
        if not re.fullmatch(r"[\w.]+", name):  # an expression of a stranger, which could take hours
            raise CheckpointError(
                f"{where}: alpha_pattern has the expression {show(name)}, and only names are read here",
                fix=MERGE_THERE,
                code="checkpoint-adapter",
            )
        if module == name or module.endswith(f".{name}"):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise CheckpointError(
            f"{where}: lora_alpha is {show(alpha)}", fix="correct it to a number", code="checkpoint-adapter"
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
