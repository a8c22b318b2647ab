"""Exported files: their formats, and what each says about itself, enough to predict with it and with nothing else.

An ONNX file carries this in its metadata properties, an OpenVINO file in its ``rt_info``, a torch.export archive in an
extra file. Nothing here imports torch, so a program that only runs exported files never loads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from terrazzo.config import parse_json
from terrazzo.errors import CheckpointError, TerrazzoError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.text import show
from terrazzo.weights.temperature import read_temperature

__all__ = ["FORMATS", "METADATA_KEY", "ExportedDescription", "Format", "Output", "Precision", "exported_format"]

Format = Literal["onnx", "openvino", "torch"]

FORMATS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Formats of exported files, and the suffix by which each is known."""

METADATA_KEY = "terrazzo"
FORMAT_VERSION = 1
LARGEST_SIDE = 65536  # as in a `Preprocess`

Output = Literal["logits", "mask"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class ExportedDescription:
    """Describes an exported file.

    Its one input is ``images``, (B, C, H, W) float32 of C bands, normalised as `preprocess` says. Its one output has
    the name that `output` gives.

    Attributes:
        architecture: such as ``segformer_b0``.
        labels: the classes.
        preprocess: how a photo becomes the input.
        output: "logits", (B, K, h, w) float32 at the decoder's own stride; or "mask", (B, H, W) class indices at the
            input's size.
        precision: of the weights, or of most of them.
        record: where the weights come from, as in a model folder. Plain JSON values.
        name: of the model that was exported.
        minimum_side: the least height and width of the input.
        temperature: that logits are divided by for probabilities; the file's own logits are not.
    """

    architecture: str
    labels: LabelSpec
    preprocess: Preprocess
    output: Output = "logits"
    precision: Precision = "fp32"
    record: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    minimum_side: int = 1
    temperature: float = 1.0

    def to_json(self) -> str:
        """Return the text that is stored in the file under `METADATA_KEY`."""
        return json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "architecture": self.architecture,
                "labels": self.labels.to_dict(),
                "preprocess": self.preprocess.to_dict(),
                "output": self.output,
                "precision": self.precision,
                "record": dict(self.record),
                "name": self.name,
                "minimum_side": self.minimum_side,
                "temperature": self.temperature,
            }
        )

    @classmethod
    def from_json(cls, text: str | None, where: str) -> ExportedDescription:
        """Read `to_json`'s text back.

        Args:
            text: what the file holds under `METADATA_KEY`; None where it holds nothing there.
            where: the file, for messages.

        Raises:
            CheckpointError: there is no description, or it is damaged or from a newer version.
        """
        if text is None:
            raise CheckpointError(
                f"{where} was not written by terrazzo: it does not say what its classes and preprocessing are",
                fix="export the model with `terrazzo export`",
                code="export-foreign",
            )
        try:
            values = parse_json(text, where, error=CheckpointError, code="export-damaged")
            version = values["format_version"]
            if version == FORMAT_VERSION:
                output, precision = values["output"], values["precision"]
                if output not in get_args(Output) or precision not in get_args(Precision):
                    raise ValueError(f"{output!r} or {precision!r}")
                minimum_side = values.get("minimum_side", 1)
                if type(minimum_side) is not int or not 1 <= minimum_side <= LARGEST_SIDE:
                    raise ValueError(f"the side {minimum_side!r}")
                return cls(
                    architecture=str(values["architecture"]),
                    labels=LabelSpec.from_dict(values["labels"]),
                    preprocess=Preprocess.from_dict(values["preprocess"]),
                    output=output,
                    precision=precision,
                    record=dict(values["record"]),
                    name=str(values["name"]),
                    minimum_side=minimum_side,
                    temperature=read_temperature(values),
                )
        except (ValueError, TypeError, KeyError, TerrazzoError) as error:
            raise CheckpointError(
                f"{where} has a damaged description of its classes and preprocessing",
                fix="export the model again",
                code="export-damaged",
            ) from error
        raise CheckpointError(
            f"{where} has format version {show(version)}, and this program reads {FORMAT_VERSION}",
            fix="update terrazzo",
            code="checkpoint-version",
        )


def exported_format(model: str | Path) -> Format | None:
    """Return the format of an exported file, by its suffix; None where this names something else, such as weights."""
    suffix = Path(model).suffix.lower()
    named = next((name for name, ending in FORMATS.items() if ending == suffix), None)
    return None if os.path.isdir(model) else named
