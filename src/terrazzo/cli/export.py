"""`terrazzo export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from terrazzo.cli.say import say
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.exported import Format

__all__ = ["export"]


def export(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: Annotated[str, Parameter(name=["--model", "-m"])] = DEFAULT_MODEL,
    format: Format | None = None,
    output_kind: Literal["logits", "mask"] = "logits",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    calibrate: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    data: Annotated[Path | None, Parameter(name=["--data", "-d"])] = None,
    split: str = "val",
    labels: str | None = None,
    mask_values: Literal["stored", "indices"] | None = None,
    max_loss: float | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write a model as a file for ONNX Runtime, OpenVINO or torch.export, and prove that it computes the same.

    The file takes images of any size and carries class names, colours and preprocessing: `terrazzo predict --model
    FILE` needs nothing else. It is compared with the model at five sizes, and thrown away if they disagree.

    Examples:
        terrazzo export --output camvid.onnx
        terrazzo export --model runs/mine --output mine.xml --precision fp16
        terrazzo export --model runs/mine --output mine.onnx --output-kind mask
        terrazzo export --output mine.xml --precision int8 --calibrate photos/
        terrazzo export -o my.xml --precision int8 --calibrate photos/ --data mine

    Parameters
    ----------
    output
        Write this file: NAME.onnx, NAME.xml (OpenVINO; NAME.bin goes beside it) or NAME.pt2 (torch).
    model
        Export this model: a shipped one, a model folder, the output folder of a training run, a checkpoint file, or a
        hub id.
    format
        Write the format onnx, openvino or torch; by default the one that the file's ending says.
    output_kind
        Give the file this output: logits, at a quarter or less of the image's size; or mask, the class of each pixel.
    precision
        Use fp32; fp16, which stores the weights in half the space; or int8, calibrated with photos. A .pt2 is fp32.
    calibrate
        Calibrate int8 with photos like those that will be segmented: files, folders and patterns in quotes; a few dozen
        are enough.
    data
        Measure fp16 or int8 on this labelled data set, and refuse the file where it loses mIoU.
    split
        Measure on this split of it, which must not hold the photos of --calibrate.
    labels
        Take the classes from a bundled list such as camvid, or from a YAML file, where the folder does not name them.
    mask_values
        Read the masks of such a folder as stored (they hold the values that the model's own masks stored) or as
        indices (they hold class indices).
    max_loss
        Allow this loss: with --data in points of mIoU, by default 1; for int8 without --data in percent of the mask
        that may change, by default 2.
    overwrite
        Replace a file even if it is not an earlier export.
    """
    from terrazzo.cli.progress import progress_bar
    from terrazzo.cli.provenance import tell_origin
    from terrazzo.exports.export import export as write

    with progress_bar("evaluate") as progress:
        written = write(
            model,
            output,
            format,
            output_kind=output_kind,
            precision=precision,
            calibrate=calibrate or (),
            data=data,
            split=split,
            labels=labels,
            mask_values=mask_values,
            max_loss=max_loss,
            overwrite=overwrite,
            progress=progress,
        )
    tell_origin(model, written.description.record)
    if written.parity is not None:
        say(*written.parity.table().split("\n"))
    if written.agreement is not None:
        say(f"{written.agreement:.2%} of the mask keeps its class")
    if written.accuracy is not None:
        say(*str(written.accuracy).split("\n"))
    if written.int8 is not None and written.int8.restored:
        say(f"in float32: {written.int8.restored} of {written.int8.layers} layers, for int8 would have lost too much")
    opset = "" if written.opset is None else f", opset {written.opset}"
    least = written.description.minimum_side
    say(f"written to {output}: {written.size / 1e6:.1f} MB{opset}, images from {least} x {least} pixels")
