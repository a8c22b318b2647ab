"""`terrazzo convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.say import say

__all__ = ["convert"]


def convert(
    source: Annotated[str, Parameter(negative=())],
    destination: Path,
    /,
    *,
    to: str = "terrazzo",
    labels: str | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Turn a model of any known form into a folder for Terrazzo or for Hugging Face transformers.

    Read are files of NVlabs SegFormer, mmsegmentation and SETR, folders and hub ids of transformers, and our own. Class
    names and preprocessing come along from whatever stands beside the weights. Nothing in a file is ever executed.

    Examples:
        terrazzo convert segformer.b2.512x512.ade.160k.pth b2-ade
        terrazzo convert nvidia/segformer-b0-finetuned-ade-512-512 b0-ade
        terrazzo convert runs/mine mine-hf --to hf

    Parameters
    ----------
    source
        Read this checkpoint file, model folder, output folder of a training run, shipped model, or hub id.
    destination
        Write this folder, which must not be there yet, or be empty.
    to
        Write the folder for terrazzo, or with hf for transformers (SegFormer only).
    labels
        Take the classes from a bundled list such as ade20k, or from a YAML file, where the source does not name them.
    overwrite
        Replace a folder that holds a converted model and nothing else.
    """
    from terrazzo.cli.provenance import tell_origin
    from terrazzo.weights.convert import convert as write

    model = write(source, destination, to, labels=labels, overwrite=overwrite)
    tell_origin(model.name, model.record)
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    say(f"{model.architecture}, {parameters / 1e6:.1f} M parameters, {model.labels.num_classes} classes")
    say(f"written to {destination}")
