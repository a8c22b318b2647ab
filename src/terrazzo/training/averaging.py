"""`average`: model soups (Wortsman et al. 2022, arXiv 2203.05482), the mean of several runs' weights.

Runs that started from the same weights often end in one valley of the loss, and the mean of their weights is then
better than each of them, at the cost of one model. Runs from different random weights do not: their mean is worse, and
nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terrazzo.arguments import checked
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.evaluation.evaluator import evaluate
from terrazzo.labels.matching import match_classes, side_by_side
from terrazzo.models import ModelSpec
from terrazzo.text import list_names, printable, shown_path
from terrazzo.training.start import in_order, preprocess_changes
from terrazzo.weights.convert import refuse_taken
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import load
from terrazzo.weights.origin import STARTS, licence_of, origin_of_run
from terrazzo.weights.recognize import empty_network, load_network

__all__ = ["Average", "average"]


@dataclass(frozen=True)
class Average:
    """What became of an average.

    Attributes:
        output: the folder that was written.
        scores: the mIoU of each model alone, by its name, the best first.
        tried: the mIoU of each average that was tried, by the model that came into it.
        kept: the models whose mean was written; of a single one, no average was better than that.
        mIoU: of what was written.
    """

    output: Path
    scores: Mapping[str, float]
    tried: Mapping[str, float]
    kept: tuple[str, ...]
    mIoU: float


@checked
def average(
    models: Sequence[str | Path],
    output: str | Path,
    data: str | Path,
    *,
    split: str = "val",
    labels: str | None = None,
    protocol: str = "whole",
    overwrite: bool = False,
    device: str | None = None,
) -> Average:
    """Average the weights of several models, and keep of it what is better on a labelled split (a greedy soup).

    The models are taken from the best to the worst. Each comes into the average if that makes its mIoU higher, and is
    left out otherwise, so the result is never worse on this split than the best model alone.

    Args:
        models: two or more, as `terrazzo.load` takes them, such as the folders of runs.
        output: the model folder to write.
        data: the data set that decides.
        split: which split of it.
        labels: a bundled class list or a YAML file, for a folder that does not say what its classes are.
        protocol: how photos are shown to the network, as `evaluate` takes it.
        overwrite: replace a folder that holds a model and nothing else.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.

    Raises:
        ConfigError: there are fewer than two models, or one is named twice.
        CheckpointError: a model cannot be loaded, or is not like the first one.
        DatasetError: the data set cannot be read, or has other classes.
        OutputError: the output is taken, or cannot be written.
    """
    names = [str(model) for model in models]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"an average of {list_names(names) if names else 'no models'}",
            fix="name two models or more, each once",
            code="average-models",
        )
    folder = Path(output)
    for name in names:
        refuse_taken(folder, Path(name), overwrite)
    first = load(models[0])
    loaded = {names[0]: first, **{str(model): _like(first, load(model)) for model in models[1:]}}

    def score(model: TrainedModel) -> float:
        report = evaluate(model, data, split=split, labels=labels, protocol=protocol, device=device)
        return report.metrics.mIoU

    alone = {name: score(model) for name, model in loaded.items()}
    order = sorted(names, key=lambda name: -alone[name])
    kept, best, chosen, tried = [order[0]], alone[order[0]], loaded[order[0]], dict[str, float]()
    for name in order[1:]:
        candidate = _mean(chosen, [loaded[part] for part in (*kept, name)])
        tried[name] = score(candidate)
        if tried[name] > best:
            kept, best, chosen = [*kept, name], tried[name], candidate
    scores = {name: alone[name] for name in order}
    record = _record(loaded, kept, scores, best, f"{Path(data).resolve().name}/{split}")
    save_folder(folder, replace(chosen, record=record, name=folder.name))
    return Average(folder, scores, tried, tuple(kept), best)


def _mean(like: TrainedModel, models: Sequence[TrainedModel]) -> TrainedModel:
    """Return a model with the mean of several models' weights; whole numbers, such as counters, are the first's."""
    states = [model.network.state_dict() for model in models]
    mean: dict[str, Tensor] = {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for key, value in states[0].items()
    }
    return replace(like, network=load_network(empty_network(like.spec), mean))


def _like(first: TrainedModel, other: TrainedModel) -> TrainedModel:
    """Return a model whose classes are in the order of the first one's.

    Raises:
        CheckpointError: it is another network, tells other classes apart, or sees photos in another way.
    """
    pair = f"{shown_path(first.name)} and {shown_path(other.name)}"
    if differing := _differences(first.spec, other.spec):
        raise CheckpointError(
            f"{pair} are different networks: {differing}",
            fix="average models of one architecture, trained alike",
            code="average-architecture",
        )
    matching = match_classes(first.labels.names, other.labels.names)
    if matching is None:
        sides = side_by_side(first.labels.names, other.labels.names, (first.name, other.name))
        raise CheckpointError(
            f"{pair} tell different classes apart {sides}",
            fix="average models that were trained on the same classes",
            code="average-classes",
        )
    if changed := preprocess_changes(first.preprocess, other.preprocess):
        raise CheckpointError(
            f"{pair} see photos in different ways: {changed}",
            fix="average models that were trained with the same preprocessing",
            code="average-preprocess",
        )
    if matching.table is None:
        return other
    state = in_order(other.network.state_dict(), matching.table)
    return replace(other, network=load_network(empty_network(other.spec), state), labels=first.labels)


def _differences(first: ModelSpec, other: ModelSpec) -> str:
    """Say in what two networks differ, both sides shown; stochastic depth and the name do not count."""
    sides = [_flat(spec.to_dict()) for spec in (first, other)]
    keys = [key for key in {**sides[0], **sides[1]} if sides[0].get(key) != sides[1].get(key)]
    counted = [key for key in keys if key not in ("name", "num_classes") and not key.endswith("drop_path_rate")]
    shown = [f"{key} {' and '.join(printable(str(side.get(key))) for side in sides)}" for key in counted[:4]]
    more = f" and {len(counted) - 4} more" if len(counted) > 4 else ""
    titles = f"{first.title} and {other.title}, " if first.title != other.title and counted else ""
    return f"{titles}{'; '.join(shown)}{more}" if counted else ""


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def _record(
    models: Mapping[str, TrainedModel], kept: Sequence[str], scores: Mapping[str, float], mIoU: float, data: str
) -> dict[str, Any]:
    """Return where an average comes from: its models and their scores, with the licences and origins of all of them."""
    licences = dict.fromkeys(filter(None, (licence_of(models[name].record) for name in kept)))
    origins = [origin_of_run(name, models[name].record) for name in kept]
    return {
        **({"licence": "; ".join(licences)} if licences else {}),
        STARTS: [start for origin in origins for start in origin[STARTS]],
        "averaged": [{"name": name, "val_mIoU": round(scores[name], 2)} for name in kept],
        "val_mIoU": round(mIoU, 2),
        "data": data,
    }
