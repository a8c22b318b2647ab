"""Model cards (``README.md``) of Hugging Face folders: licence and base model, written and read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from terrazzo.regular_files import open_regular
from terrazzo.text import printable
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.origin import licence_of, starts_of

__all__ = ["CARD_FILE", "base_model_in_model_card", "licence_in_model_card", "model_card"]

CARD_FILE = "README.md"
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
"""Identifiers that the hub knows; everything else is called "other" there and named beside it."""
PHOTOS = {"train_photos": "learn from", "val_photos": "validate on"}
USES = {
    "terrazzo": ("import terrazzo", "", 'result = terrazzo.predict("photo.jpg", "OWNER/NAME")'),
    "transformers": (
        "from transformers import AutoImageProcessor, SegformerForSemanticSegmentation",
        "",
        'model = SegformerForSemanticSegmentation.from_pretrained("OWNER/NAME")',
        'processor = AutoImageProcessor.from_pretrained("OWNER/NAME")',
    ),
}
LINKED = re.compile(r"(.+) \((https?://[^\s()]+)\)")  # a name with the address of the terms


def model_card(
    model: TrainedModel, library: str = "transformers", classes: Sequence[Mapping[str, Any]] = (), end: str = ""
) -> str:
    """Write a model's card: the hub's metadata, what it is, how to use it, its scores, and how it was trained.

    Args:
        model: the model.
        library: whose folder it is for, ``transformers`` or ``terrazzo``.
        classes: name, iou and label_pixels of each class, as a report has them; there may be none.
        end: a last line.
    """
    record, title = model.record, model.name or model.architecture
    licence, starts = licence_of(record), starts_of(record)
    data, score = record.get("data"), record.get("val_mIoU")
    head: dict[str, Any] = {"library_name": library, "pipeline_tag": "image-segmentation"}
    head["tags"] = [
        "semantic-segmentation",
        *(["terrazzo"] if library != "terrazzo" else []),
        _slug(model.architecture),
    ]
    if licence is not None:
        known = licence.casefold() in HUB_LICENCES
        linked = LINKED.fullmatch(licence)
        name = {"license_name": linked[1], "license_link": linked[2]} if linked else {"license_name": licence}
        head |= {"license": licence.casefold()} if known else {"license": "other", **name}
    if starts and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(starts[0]["name"]), re.ASCII):
        head["base_model"] = str(starts[0]["name"])
    if data is not None:
        head["datasets"] = [_slug(str(data))]
    if isinstance(score, (int, float)):
        head["metrics"] = ["mean_iou"]
        measured = {"type": "mean_iou", "name": "mIoU", "value": round(float(score), 2)}
        of = {"name": printable(str(data)), "type": _slug(str(data)), "split": "val"} if data is not None else {}
        task = {"type": "image-segmentation", "name": "Semantic segmentation"}
        result = {"task": task, "dataset": of or {"name": "unnamed", "type": "unnamed"}, "metrics": [measured]}
        head["model-index"] = [{"name": printable(title), "results": [result]}]
    lines = ["---", *(f"{key}: {_scalar(value)}" for key, value in head.items()), "---", "", f"# {_plain(title)}", ""]
    names = _plain(", ".join(model.labels.names))
    lines.append(f"Semantic segmentation with {model.architecture}; {model.labels.num_classes} classes: {names}.")
    lines += ["", f"Licence: {_plain(licence) if licence is not None else 'not stated'}."]
    for start in starts:
        stated = f", licence {_plain(str(start['licence']))}" if "licence" in start else ""
        lines += ["", f"Started from {_plain(str(start['name']))}{stated}."]
    lines += ["", "## Use", "", "```python", *USES[library], "```"]
    if isinstance(score, (int, float)):
        lines += ["", "## Scores", "", f"mIoU on its validation photos: {score:.2f}."]
        lines += ["They chose the best epoch, so new photos score a little lower; other scenes and cameras, much."]
        lines += _class_table(classes)
    lines += _training_lines(record)
    return "\n".join([*lines, *(["", end] if end else [])]) + "\n"


def _class_table(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    if not classes:
        return []
    total = sum(int(row.get("label_pixels") or 0) for row in classes) or 1
    lines = ["", "| class | IoU, % | % of pixels |", "|---|---:|---:|"]
    for row in classes:
        iou = "" if row.get("iou") is None else f"{row['iou']:.2f}"
        share = 100 * int(row.get("label_pixels") or 0) / total
        lines.append(f"| {_plain(str(row.get('name')))} | {iou} | {share:.2f} |")
    return lines


def _training_lines(record: Mapping[str, Any]) -> list[str]:
    """What is known of the training, as a list."""
    photos = [f"{record[key]} to {what}" for key, what in PHOTOS.items() if isinstance(record.get(key), int)]
    versions = record.get("versions")
    told = ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, Mapping) else None
    facts = {
        "data": record.get("data"),
        "photos": ", ".join(photos) or None,
        "steps": record.get("step"),
        "hours": record.get("hours"),
        "machine": record.get("machine"),
        "versions": told,
        "note": record.get("note"),
    }
    lines = [f"- {name}: {_plain(str(value))}" for name, value in facts.items() if value is not None]
    return ["", "## Training", "", *lines, "", "`config.json` holds the whole recipe."] if lines else []


def _scalar(value: Any) -> str:
    """A value as YAML, which JSON is."""
    return json.dumps(printable(value) if isinstance(value, str) else value, ensure_ascii=False)


def _slug(text: str) -> str:
    """A text as an identifier of the hub: letters, digits, dots and hyphens."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.").lower() or "unnamed"


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
