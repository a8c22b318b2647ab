"""`terrazzo models`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from terrazzo.cli.say import say
from terrazzo.weights.catalog import (
    DEFAULT_MODEL,
    HUB,
    PUBLISHED,
    PublishedWeights,
    bundled_names,
    bundled_record,
    is_cached,
)
from terrazzo.weights.origin import licence_of, starts_of

__all__ = ["describe", "models", "table"]

WIDTH = 80
COUNTED_CLASSES = 19
NAME_COLUMN = 52


def models() -> None:
    """List the models: those that ship, those that others have published, and the networks and parts to train.

    A shipped model comes with its record: what it was trained on, how long and on what, what it scored, and under which
    licence its weights stand. Of published ones the hub's come first, what is in its cache before the rest.

    Examples:
        terrazzo models
    """
    say("Shipped with their weights, for --model of `terrazzo predict` and `evaluate`:", "")
    for name in bundled_names():
        say(*describe(name, bundled_record(name)).split("\n"), "")
    if not bundled_names():
        say("  none", "")

    cached = {weights.name for weights in PUBLISHED if weights.where == HUB and is_cached(weights.name)}
    for where, rows in groupby(PUBLISHED, key=lambda weights: weights.where):
        listed = table(where, sorted(rows, key=lambda weights: weights.name not in cached), cached)
        say(*listed.split("\n"), "")

    from terrazzo.models import DECODERS, find_spec, list_models
    from terrazzo.models.encoders import ENCODERS
    from terrazzo.weights.recognize import empty_network

    about = (
        f"Architectures, for `terrazzo train --model`; parameters with {COUNTED_CLASSES} classes, for SETR with the "
        "auxiliary heads, which are for training only. Names in _mmseg are the networks that mmsegmentation made of "
        "them, for its checkpoints; those in _256 have a decoder as narrow as B0's, as segmentation_models.pytorch's:"
    )
    say(*textwrap.wrap(about, WIDTH, break_on_hyphens=False), "")
    for name in list_models():
        count = sum(
            parameter.numel() for parameter in empty_network(find_spec(name).adapted(COUNTED_CLASSES)).parameters()
        )
        say(f"  {name:<24}{count / 1e6:6.2f} M")
    about = (
        "Parts: any encoder goes under any decoder, for --model as ENCODER+DECODER, such as mit_b0+setr_pup. An "
        "encoder of Hugging Face transformers is hf: and a model of its hub, a folder, or a config.json: "
        "hf:microsoft/resnet-50+fcn. Encoders:"
    )
    say("", *textwrap.wrap(about, WIDTH, break_on_hyphens=False), "")
    for row in ENCODERS.values():
        say(*_entry(", ".join(row.sizes) or "hf:...", row.about))
    say("", "Decoders:", "")
    for name, decoder in DECODERS.items():
        say(*_entry(name, decoder.about))


def _entry(name: str, about: str) -> list[str]:
    return textwrap.wrap(f"{name}: {about}", WIDTH, initial_indent="  ", subsequent_indent="    ")


def describe(name: str, config: Mapping[str, Any]) -> str:
    """Lay out what a shipped model's ``config.json`` says: its classes, and every plain value of its record."""
    names, record = config["labels"]["names"], config["record"]
    default = ", the default" if name == DEFAULT_MODEL else ""
    starts = [str(start["name"]) for start in starts_of(record)]
    plain = {key.replace("_", " "): value for key, value in record.items() if isinstance(value, (str, int, float))}
    if (licence := licence_of(record)) is not None:
        plain["licence"] = licence
    if starts:
        plain["started from"] = ", and before that ".join(starts)
    rows = {"architecture": config["architecture"], "classes": f"{len(names)}: {', '.join(names)}", **plain}
    margin = max(map(len, rows)) + 2
    layout = textwrap.TextWrapper(
        WIDTH, initial_indent=" " * 4, subsequent_indent=" " * (margin + 4), break_on_hyphens=False
    )
    lines = [layout.fill(f"{key:<{margin}}{value}") for key, value in rows.items()]
    return "\n".join([f"  {name}{default}", *lines])


def table(where: str, rows: Sequence[PublishedWeights], cached: set[str]) -> str:
    """Format the published weights of one source: name, parameters, mIoU (single-scale, multi-scale), availability."""
    licences = ", ".join(sorted({weights.licence for weights in rows}))
    if where == HUB:
        decimals, about = 1, f"on the {HUB}, for --model by these names."
    else:
        gone = sum(weights.link is None for weights in rows)
        decimals = 2
        about = (
            f"through the {where}. {gone} of its {len(rows)} links are empty: those weights are gone. The others "
            "lead to Google Drive: fetch the file by hand and give its path as --model."
        )
    head = f"Published by the papers' authors {about} Licence: {licences}. mIoU as published:"
    lines = [
        textwrap.fill(head, WIDTH, break_on_hyphens=False),
        "",
        f"  {'':<{NAME_COLUMN}}{'size':>7}{'mIoU':>6}{'multi':>7}",
    ]
    for weights in rows:
        single, multi = (
            "" if score is None else f"{score:.{decimals}f}" for score in (weights.mIoU, weights.mIoU_multi)
        )
        line = f"  {weights.name:<{NAME_COLUMN}}{weights.parameters / 1e6:5.1f} M{single:>6}{multi:>7}"
        state = "gone" if weights.link is None else "cached" if weights.name in cached else ""
        lines.append(f"{line}  {state}".rstrip())
    return "\n".join(lines)
