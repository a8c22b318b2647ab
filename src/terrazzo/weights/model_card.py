"""Model cards (``README.md``) of Hugging Face folders: licence and base model, written and read."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from terrazzo.regular_files import open_regular
from terrazzo.text import printable
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.origin import licence_of, starts_of

__all__ = ["CARD_FILE", "base_model_in_model_card", "licence_in_model_card", "model_card"]

CARD_FILE = "README.md"
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
"""Identifiers that the hub knows; everything else is called "other" there and named beside it."""
LINKED = re.compile(r"(.+) \((https?://[^\s()]+)\)")  # a name with the address of the terms


def model_card(model: TrainedModel) -> str:
    """Write a model's card: its licence, what it was trained on from, its classes and its scores."""
    licence, starts = licence_of(model.record), starts_of(model.record)
    head = {"library_name": "transformers", "pipeline_tag": "image-segmentation"}
    if licence is not None:
        known = licence.casefold() in HUB_LICENCES
        linked = LINKED.fullmatch(licence)
        name = {"license_name": linked[1], "license_link": linked[2]} if linked else {"license_name": licence}
        head |= {"license": licence.casefold()} if known else {"license": "other", **name}
    if starts and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(starts[0]["name"]), re.ASCII):
        head["base_model"] = str(starts[0]["name"])
    quoted = [f"{key}: {json.dumps(printable(value), ensure_ascii=False)}" for key, value in head.items()]
    lines = ["---", *quoted, "---", "", f"# {_plain(model.name or model.architecture)}", ""]
    names = _plain(", ".join(model.labels.names))
    lines.append(f"Semantic segmentation with {model.architecture}; {model.labels.num_classes} classes: {names}.")
    lines += ["", f"Licence: {_plain(licence) if licence is not None else 'not stated'}."]
    for start in starts:
        stated = f", licence {_plain(str(start['licence']))}" if "licence" in start else ""
        lines += ["", f"Started from {_plain(str(start['name']))}{stated}."]
    if isinstance(score := model.record.get("val_mIoU"), (int, float)):
        lines += ["", f"mIoU on its validation photos: {score:.2f}."]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text from outside as text of a Markdown document."""
    return re.sub(r"([\\`*_\[\]<>#|!])", r"\\\1", printable(text))


def licence_in_model_card(folder: Path) -> str | None:
    """Return the licence that the head of a folder's ``README.md`` names, in the manner of the Hugging Face hub.

    Where it names none, the first line of a file with the licence's text stands for it.
    """
    head = _card_head(folder)
    licence = head.get("license")
    if licence is None and "license_name" not in head:
        return _licence_file(folder)
    if licence not in (None, "other"):
        return licence
    link, named = head.get("license_link", ""), head.get("license_name", licence)
    return f"{named} ({link})" if named is not None and link.startswith(("https://", "http://")) else named


def _licence_file(folder: Path) -> str | None:
    for name in LICENCE_FILES:
        with suppress(OSError), open_regular(folder / name) as file:
            text = file.read(2000).decode("utf-8-sig", "replace")
            title = next((line.strip(" #*=-\t") for line in text.splitlines() if line.strip(" #*=-\t")), "")
            return f"see its file {name}" + (f": {printable(title)[:100]}" if title else "")
    return None


def base_model_in_model_card(folder: Path) -> str | None:
    """Return the hub id that a model was trained on from, as the head of a folder's ``README.md`` names it."""
    return _card_head(folder).get("base_model")


def _card_head(folder: Path) -> dict[str, str]:
    """Read the plain values, and the first entries of lists, between the two ``---`` of a model card."""
    try:
        with open_regular(folder / CARD_FILE) as file:
            lines = file.read(20_000).decode("utf-8-sig", "replace").splitlines()
    except OSError:
        return {}
    head = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    found: dict[str, str] = {}
    key = ""
    for line in head:
        if line.lstrip().startswith("- "):
            name, value = key, line.lstrip()[2:]
        else:
            key, _, value = line.partition(":")
            name = key = key.strip()
        if value := value.strip().strip("[]").strip().strip("'\"")[:100]:
            found.setdefault(name, value)
    return found
