"""A run as one page: curves, scores by class, confusion matrix, best and worst images, settings and environment.

The page needs nothing from elsewhere, and its content security policy lets it fetch nothing: style and script are
allowed by their checksums, images are embedded. Everything that a run's files hold is text of others and is escaped.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.config import read_json
from terrazzo.errors import ConfigError
from terrazzo.marks import blank_mark
from terrazzo.run_page.charts import bar, confusion_matrix, curve, swatch
from terrazzo.run_page.photos import PHOTOS_FILE
from terrazzo.text import printable, shown_path

__all__ = ["PAGE_FILE", "RunFiles", "run_page"]

PAGE_FILE = "report.html"
COMPARED = ("label prediction", "photo prediction", "photo label", "photo errors")
COLUMNS = (
    ("accuracy", "accuracy"), ("precision", "precision"), ("dice", "Dice"), ("boundary_iou", "boundary IoU"),
)  # fmt: skip


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds, as far as it is there.

    Attributes:
        name: the folder's name.
        rows: of log.csv, each by its column.
        recipe: the text of recipe.yaml.
        config: the model's config.json.
        report: report/report.json.
        photos: report/photos.json.
    """

    name: str
    rows: Sequence[Mapping[str, str]]
    recipe: str
    config: Mapping[str, Any]
    report: Mapping[str, Any]
    photos: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Read a run's folder.

        Raises:
            ConfigError: it is no run's folder, or a file in it is damaged.
        """
        log = folder / "log.csv"
        if not log.is_file() and not (folder / "recipe.yaml").is_file():
            raise ConfigError(
                f"{shown_path(folder)} is not the folder of a training run: it has neither log.csv nor recipe.yaml",
                fix="give the --output folder of terrazzo train",
                code="report-no-run",
            )
        try:
            rows = list(csv.DictReader(_text(log).splitlines()))
        except csv.Error as error:
            raise ConfigError(f"{shown_path(log)} is damaged", fix="move it away", code="report-damaged") from error
        photos = _document(folder / "report" / PHOTOS_FILE).get("photos")
        return cls(
            name=folder.resolve().name,
            rows=rows,
            recipe=_text(folder / "recipe.yaml"),
            config=_document(folder / "model" / "config.json"),
            report=_document(folder / "report" / "report.json"),
            photos=[photo for photo in photos if isinstance(photo, Mapping)] if isinstance(photos, list) else [],
        )


def run_page(run: RunFiles) -> bytes:
    """Write the page of a run."""
    here = files(__package__)
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    record = _mapping(run.config.get("record"))
    parts = {
        "summary": ("", _summary(run, record)),
        "curves": ("Training", _curves(run)),
        "classes": ("Classes", _classes(run)),
        "confusion": ("Confusion", _confusion(run)),
        "photos": ("Best and worst photos", _photos(run)),
        "settings": ("Settings", _settings(run, record)),
        "environment": ("Where it comes from", _environment(run, record)),
    }
    parts = {key: part for key, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in parts.items() if title)
    body = "".join(
        f'<section id="{key}">{f"<h2>{title}</h2>" if title else ""}{content}</section>'
        for key, (title, content) in parts.items()
    )
    report = run.report
    subject = " on ".join(
        _shown(text) for text in (_network(run), report.get("dataset", record.get("data"))) if text is not None
    )
    document = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<!-- {blank_mark('train')} -->\n"
        f"<title>{_shown(run.name)}: report of a training run</title>\n<style>{style}</style></head>\n"
        f'<body><header><h1>{_shown(run.name)}</h1><p class="soft">{subject}</p><nav>{links}</nav></header>\n'
        f"<main>{body}</main>\n"
        "<footer>Written by Terrazzo. This file needs nothing else and fetches nothing.</footer>"
        f"<script>{script}</script></body></html>\n"
    )
    return document.encode("utf-8", "backslashreplace")


# -- sections ---------------------------------------------------------------------------------------------------------


def _summary(run: RunFiles, record: Mapping[str, Any]) -> str:
    report = run.report
    intervals = _mapping(report.get("intervals"))
    figures: list[tuple[str, str, str]] = []
    for key, name in (
        ("mIoU", "mIoU"), ("boundary_mIoU", "boundary mIoU"), ("mAcc", "mean accuracy"), ("aAcc", "pixel accuracy"),
    ):  # fmt: skip
        if _is_number(report.get(key)):
            figures.append((name, f"{report[key]:.2f}", _interval(intervals.get(key))))
    ece = _mapping(report.get("calibration")).get("ece")
    if _is_number(ece):
        figures.append(("calibration error", f"{ece:.2f}", "ECE, in points"))
    if not figures and _is_number(record.get("val_mIoU")):
        figures.append(("mIoU so far", f"{record['val_mIoU']:.2f}", ""))
    if "images" in report:
        figures.append(
            ("measured on", f"{_shown(report['images'])} photos", f"split {_shown(report.get('split', ''))}")
        )
    if "train_photos" in record:
        figures.append(("learnt from", f"{_shown(record['train_photos'])} photos", ""))
    if _is_number(record.get("hours")):
        figures.append(("training", f"{record['hours']:.2f} h", _shown(record.get("machine", ""))))
    if not report:
        figures.append(("state", "not finished", "the report is written at the end of the run"))
    listed = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, value, more in figures
    )
    return f'<dl class="figures">{listed}</dl>'


def _curves(run: RunFiles) -> str:
    columns = {key: [_float(row.get(key)) for row in run.rows] for key in ("epoch", "loss", "mIoU", "lr")}
    epochs = columns["epoch"]
    if not epochs or not all(map(math.isfinite, epochs)):
        return '<p class="soft">No epoch is finished yet.</p>'
    scores = columns["mIoU"]
    scored = [place for place, score in enumerate(scores) if math.isfinite(score)]
    best = max(scored, key=lambda place: scores[place], default=None)
    at = None if best is None else epochs[best]
    told = (
        "" if best is None else f"<p>Best mIoU {scores[best]:.2f} after epoch {epochs[best]:g} of {epochs[-1]:g}.</p>"
    )
    drawn = "".join(
        f"<figure><figcaption>{title}</figcaption>{curve(epochs, columns[key], f'{title} by epoch', at)}</figure>"
        for key, title in (("loss", "training loss"), ("mIoU", "validation mIoU, %"), ("lr", "learning rate"))
    )
    return f'{told}<div class="charts">{drawn}</div>'


def _classes(run: RunFiles) -> str:
    rows = [row for row in run.report.get("classes", []) if isinstance(row, Mapping)]
    if not rows:
        return ""
    palette = _palette(run)
    columns = [(key, title) for key, title in COLUMNS if any(_is_number(row.get(key)) for row in rows)]
    total = sum(row["label_pixels"] for row in rows if _is_number(row.get("label_pixels"))) or 1
    heads = ["class", "IoU", "", *(title for _, title in columns), "% of pixels"]
    cells = "".join(f'<th scope="col">{f"<button>{head}</button>" if head else ""}</th>' for head in heads)
    lines = []
    for place, row in enumerate(rows):
        color = swatch(palette[place]) if place < len(palette) else ""
        interval = [row.get("iou_low"), row.get("iou_high")]
        low, high = _pair(interval)
        iou = row.get("iou") if _is_number(row.get("iou")) else None
        share = 100 * row["label_pixels"] / total if _is_number(row.get("label_pixels")) else None
        numbers = [_cell(iou, _interval(interval))]
        numbers.append(f'<td class="bars">{bar(iou, low, high)}</td>')
        numbers += [_cell(row.get(key)) for key, _ in columns]
        lines.append(f"<tr><td>{color}{_shown(row.get('name', place))}</td>{''.join(numbers)}{_cell(share)}</tr>")
    return (
        '<p class="soft">All in per cent. Classes without a number are in neither labels nor predictions.</p>'
        f'<div class="scroll"><table class="sorted"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _confusion(run: RunFiles) -> str:
    names = [printable(str(row.get("name"))) for row in run.report.get("classes", []) if isinstance(row, Mapping)]
    try:
        counts_KK = np.array(run.report.get("confusion", []), np.int64)
    except (ValueError, TypeError, OverflowError):
        return ""
    if not names or counts_KK.shape != (len(names), len(names)) or counts_KK.min() < 0:
        return ""
    told = "Each row is a class of the labels, each column a prediction; numbers are per cent of the row's pixels."
    return f'<p class="soft">{told}</p><div class="scroll">{confusion_matrix(counts_KK, names)}</div>'


def _photos(run: RunFiles) -> str:
    photos = [
        photo for photo in run.photos if all(_is_image(photo.get(key)) for key in ("photo", "label", "prediction"))
    ]
    if not photos:
        return ""
    choices = "".join(
        f'<label><input type="radio" name="compare" value="{pair}"{" checked" if pair == COMPARED[0] else ""}> '
        f"{pair.replace(' ', ' and ')}</label>"
        for pair in COMPARED
    )
    names = [str(row.get("name")) for row in run.report.get("classes", []) if isinstance(row, Mapping)]
    key = "".join(f"<li>{swatch(color)}{_shown(name)}</li>" for name, color in zip(names, _palette(run), strict=False))
    groups = ""
    for which, title in (("worst", "Worst"), ("best", "Best")):
        drawn = "".join(_photo(photo) for photo in photos if photo.get("which") == which)
        groups += f'<h3>{title}</h3><div class="photos">{drawn}</div>' if drawn else ""
    return (
        f"<fieldset><legend>Compare</legend>{choices}</fieldset>"
        f'<p class="soft">Drag across a photo to compare. Errors are red; what is not labelled shows the photo.</p>'
        f'<ul class="key">{key}</ul>{groups}'
    )


def _photo(photo: Mapping[str, Any]) -> str:
    size = " ".join(f'{side}="{int(photo[side])}"' for side in ("width", "height") if _is_number(photo.get(side)))
    maps = "".join(
        f'<img data-is="{key}" class="{place}" alt=""{" hidden" if key == "errors" else ""} src="{photo[key]}">'
        for key, place in (("label", "before"), ("prediction", "after"), ("errors", "after"))
        if _is_image(photo.get(key))
    )
    name = _shown(photo.get("name", ""))
    scores = [f"mIoU {photo['mIoU']:.2f}"] if _is_number(photo.get("mIoU")) else []
    scores += [f"{photo['wrong']:.1%} of pixels wrong"] if _is_number(photo.get("wrong")) else []
    return (
        f'<figure><figcaption class="file">{name}<br><span class="soft">{", ".join(scores)}</span></figcaption>'
        f'<div class="stack"><img {size} alt="{name}" src="{photo["photo"]}">{maps}<span class="rule"></span>'
        '<span class="side one">label</span><span class="side two">prediction</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="label to the left, prediction to the right">'
        "</div></figure>"
    )


def _settings(run: RunFiles, record: Mapping[str, Any]) -> str:
    data = _shown(record.get("data", "FOLDER"))
    command = f"terrazzo train --recipe recipe.yaml --data {data} --output ANOTHER-RUN"
    use = f"terrazzo predict PHOTO --model {_shown(run.name)}"
    recipe = f"<details><summary>recipe.yaml</summary><pre>{_lines(run.recipe)}</pre></details>" if run.recipe else ""
    return f"<p>To repeat the run, and to use its model:</p><pre>{command}\n{use}</pre>{recipe}"


def _environment(run: RunFiles, record: Mapping[str, Any]) -> str:
    versions = _mapping(record.get("versions"))
    protocol = _mapping(run.report.get("protocol"))
    facts = {
        "network": _network(run),
        "licence": record.get("licence"),
        "data": record.get("data"),
        "step of the best model": record.get("step"),
        "protocol": f"{protocol['name']} ({protocol.get('hash', '')})" if "name" in protocol else None,
        "machine": record.get("machine"),
        "versions": ", ".join(f"{key} {value}" for key, value in versions.items()) or None,
        "weights' checksum": run.config.get("sha256"),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{_shown(value)}</dd>" for name, value in facts.items() if value is not None)
    return f'<dl class="facts">{rows}</dl>' if rows else ""


# -- values of others -------------------------------------------------------------------------------------------------


def _network(run: RunFiles) -> str | None:
    found = run.config.get("architecture")
    return found if isinstance(found, str) else None


def _palette(run: RunFiles) -> list[Sequence[int]]:
    found = _mapping(run.config.get("labels")).get("palette")
    if not isinstance(found, list):
        return []
    return [color if _is_color(color) else (128, 128, 128) for color in found]


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v < 256 for v in value)


def _is_image(value: Any) -> bool:
    """Whether a value is an embedded picture and nothing else: it goes into an attribute as it is."""
    if not isinstance(value, str):
        return False
    head, comma, data = value.partition(",")
    try:
        return (
            bool(comma)
            and head in ("data:image/png;base64", "data:image/jpeg;base64")
            and bool(base64.b64decode(data, validate=True))
        )
    except ValueError:
        return False


def _cell(value: Any, more: str = "") -> str:
    if not _is_number(value):
        return '<td data-value="-1"></td>'
    small = f' <small class="soft">{more}</small>' if more else ""
    return f'<td data-value="{value:.4f}">{value:.2f}{small}</td>'


def _interval(value: Any) -> str:
    low, high = _pair(value)
    return "" if low is None else f"{low:.2f} to {high:.2f}"


def _pair(value: Any) -> tuple[float | None, float | None]:
    fits = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
    return (float(value[0]), float(value[1])) if fits else (None, None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _float(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def _shown(value: object) -> str:
    return escape(printable(str(value)))


def _lines(text: str) -> str:
    return "\n".join(map(_shown, text.splitlines()))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _document(path: Path) -> Mapping[str, Any]:
    return _mapping(read_json(path)) if path.is_file() else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
